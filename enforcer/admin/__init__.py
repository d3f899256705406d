"""What people ask and decide."""
