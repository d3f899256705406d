"""Redis, as the enforcer needs it."""
