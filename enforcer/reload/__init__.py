"""What changes while decisions go on: documents, overrides, factors."""
