"""How the enforcer's process ends, for whoever supervises it; 0 after a signal."""

EXIT_FAILED = 1
"""A failure that a restart heals."""
EXIT_BAD_CONFIG = 2
"""A document, a certificate or an option is wrong: a restart changes nothing."""
EXIT_PORT_TAKEN = 3
