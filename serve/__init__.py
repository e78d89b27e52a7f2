"""serve: a model repository becomes a gRPC endpoint; and its clients, score and bench."""
