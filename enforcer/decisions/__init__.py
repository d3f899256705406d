"""One decision: from a check to the limits that apply, from what Redis saw to the answer."""
