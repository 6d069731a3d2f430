"""What a model costs: parameters by part, FLOPs, latency, memory, bytes to store."""
