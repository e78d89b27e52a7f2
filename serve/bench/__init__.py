"""Measure a gRPC endpoint: rate, latency, and where the time goes."""
