"""How the graphs of a lookup end: with the vectors themselves, or with a cheap reader of all of them."""

from typing import Literal

from onnx import ModelProto, TensorProto
from onnx.helper import make_tensor_value_info
from quorem.export.graph import Graph, value_info

End = Literal["sum", "vectors"]
OUTPUT = "out"


def finish(graph: Graph, vectors: str, end: End) -> ModelProto:
    """The model of ids int64 [B, 26] and of vectors float32 [B, 416] or [B, 26, 16], or of their sums [B, 1].

    The first dense layer of a net reads the vectors where they stand; as an output of the graph they are allocated anew
    by every call.
    """
    if end == "sum":
        graph.node(OUTPUT, "ReduceSum", vectors, graph.integers(1))
    else:
        graph.node(OUTPUT, "Identity", vectors)
    output = make_tensor_value_info(OUTPUT, TensorProto.FLOAT, None)  # either shape
    return graph.model([value_info("ids", "int64", 26)], [output])
