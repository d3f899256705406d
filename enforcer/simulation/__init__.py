"""A candidate document, run on recorded decisions."""
