"""export: a run directory becomes ONNX graphs in a model repository."""
