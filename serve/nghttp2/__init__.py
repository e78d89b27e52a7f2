"""The transport on libnghttp2: gRPC over HTTP/2 in one thread, where grpcio's would cost more than the scores do."""
