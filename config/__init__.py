"""The documents that operators write, and how they are read."""
