"""quorem: CTR models with compressed embedding tables, from raw rows to a gRPC endpoint.

`quorem.train` turns rows and a recipe into a run directory, `quorem.export` turns a run directory into ONNX graphs in a
model repository, `quorem.serve` turns a model repository into an endpoint. They share `quorem.protos`, the contract on
disk and on the wire, and never import one another.
"""

__version__ = "0.1.0"
