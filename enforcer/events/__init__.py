"""What the enforcer tells Kafka."""
