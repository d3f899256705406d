"""The decision service: answers checks from token buckets in Redis and emits every decision to Kafka."""
