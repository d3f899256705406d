"""What crosses Kafka: event models, topic specs, codecs and an analyst's command line."""
