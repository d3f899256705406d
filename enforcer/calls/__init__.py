"""What every call goes through: who may make it, and the line from its plan to its answer."""
