"""What is limited: checks, the policies that operators write, and the bucket."""
