"""Envoy's protocols: its rate limit service, and quotas."""
