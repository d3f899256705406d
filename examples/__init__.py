"""What a newcomer starts: a protected backend, a traffic simulator, a replay of access logs, the live view and the demo."""
