"""The load and latency harness: any rate limit server, ours and others, by the same program in the same run."""
