"""What crosses Redis: the scripts, their registry, and the names of keys."""
