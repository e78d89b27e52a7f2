"""Layers in the graph: one function per layer kind, each from values and weights to a value.

Legend: B rows; W width. Those of vectors stand in vectors.py.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..protos import manifest_pb2 as pb
from .graph import Array, Graph, Read, Value
from .vectors import attend, bi_interaction, dot, fm, unify


def build(graph: Graph, net: pb.Net, inputs: Mapping[str, Value], read: Read) -> Value:
    """Add a net's layers; `read` gives a float32 weight by name. Returns the last layer's value, [B, 1].

    A batch normalisation that alone reads a linear layer is folded into it.
    """
    values, norms = dict(inputs), _foldable(net)
    folded = {norm.name for norm in norms.values()}
    for layer in net.layers:
        sources, kind = [values[name] for name in layer.inputs], layer.WhichOneof("kind")
        if layer.name in folded:
            values[layer.name] = sources[0]
        elif kind == "linear":
            values[layer.name] = _linear(graph, layer, sources[0], read, norms.get(layer.name))
        elif kind in _WEIGHTED:
            values[layer.name] = _WEIGHTED[kind](graph, layer, sources, read)
        else:
            values[layer.name] = _KINDS[str(kind)](graph, layer, sources)
    return values[net.layers[-1].name]


def _foldable(net: pb.Net) -> dict[str, pb.Layer]:
    """Linear layer -> the batch normalisation that is its only reader."""
    readers = Counter(name for layer in net.layers for name in layer.inputs)
    linear = {layer.name for layer in net.layers if layer.HasField("linear") and readers[layer.name] == 1}
    return {layer.inputs[0]: layer for layer in net.layers if layer.HasField("batchnorm") and layer.inputs[0] in linear}


def _factor_and_shift(norm: pb.Layer, read: Read) -> tuple[Array, Array]:
    """A batch normalisation as y = x * factor + shift: float64 [W] each."""
    weight, bias, mean, variance = (
        read(f"{norm.name}.{role}").astype(np.float64) for role in ("weight", "bias", "mean", "variance")
    )
    factor = weight / np.sqrt(variance + norm.batchnorm.epsilon)
    return factor, bias - mean * factor


def _linear(graph: Graph, layer: pb.Layer, source: Value, read: Read, norm: pb.Layer | None) -> Value:
    weight, bias = read(f"{layer.name}.weight"), read(f"{layer.name}.bias")
    if norm is not None:
        factor, shift = _factor_and_shift(norm, read)
        weight = (weight * factor[:, None]).astype(np.float32)
        bias = (bias * factor + shift).astype(np.float32)
    constants = graph.constant(f"weight/{layer.name}", weight), graph.constant(f"bias/{layer.name}", bias)
    output = graph.node(f"layer/{layer.name}", "Gemm", graph.flat(source), *constants, transB=1)
    return Value(output, (layer.linear.outputs,))


def _batchnorm(graph: Graph, layer: pb.Layer, sources: Sequence[Value], read: Read) -> Value:
    factor, shift = (each.astype(np.float32) for each in _factor_and_shift(layer, read))
    scaled = graph.node(
        f"scaled/{layer.name}", "Mul", graph.flat(sources[0]), graph.constant(f"factor/{layer.name}", factor)
    )
    output = graph.node(f"layer/{layer.name}", "Add", scaled, graph.constant(f"shift/{layer.name}", shift))
    return Value(output, (layer.batchnorm.width,))


def _cross(graph: Graph, layer: pb.Layer, sources: Sequence[Value], read: Read) -> Value:
    """x0 (x . w) + b + x, Wang et al., ADKDD'17."""
    name, (first, x) = layer.name, (graph.flat(source) for source in sources)
    weight = graph.constant(f"weight/{name}", read(f"{name}.weight")[:, None])
    bias = graph.constant(f"bias/{name}", read(f"{name}.bias"))
    crossed = graph.node(f"crossed/{name}", "Mul", first, graph.node(f"factor/{name}", "MatMul", x, weight))
    return Value(graph.node(f"layer/{name}", "Sum", crossed, bias, x), (layer.cross.width,))


def _cross_matrix(graph: Graph, layer: pb.Layer, sources: Sequence[Value], read: Read) -> Value:
    """x0 * (W x + b) + x, Wang et al., WWW'21; of a low rank, W x = U (V^T x), never the product of the two."""
    name, (first, x) = layer.name, (graph.flat(source) for source in sources)
    source, matrix = x, "weight"
    if layer.cross_matrix.rank:
        source = graph.node(f"low/{name}", "MatMul", x, graph.constant(f"v/{name}", read(f"{name}.v")))
        matrix = "u"
    constants = (graph.constant(f"{role}/{name}", read(f"{name}.{role}")) for role in (matrix, "bias"))
    factor = graph.node(f"factor/{name}", "Gemm", source, *constants, transB=1)
    crossed = graph.node(f"crossed/{name}", "Mul", first, factor)
    return Value(graph.node(f"layer/{name}", "Add", crossed, x), (layer.cross_matrix.width,))


def _bias(graph: Graph, layer: pb.Layer, sources: Sequence[Value], read: Read) -> Value:
    bias = graph.constant(f"bias/{layer.name}", read(f"{layer.name}.bias"))
    return Value(graph.node(f"layer/{layer.name}", "Add", graph.flat(sources[0]), bias), (layer.bias.width,))


def _concat(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    return Value(graph.side_by_side(f"layer/{layer.name}", sources), (sum(source.width for source in sources),))


def _sum(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    if len(sources) == 1:
        return sources[0]
    flats = [graph.flat(source) for source in sources]
    return Value(graph.node(f"layer/{layer.name}", "Sum", *flats), (sources[0].width,))


def _row_sum(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    source, name = sources[0], f"layer/{layer.name}"
    if len(source.shape) == 2 and source.shape[1] == 1:  # [B, V, 1], as first-order weights come: no need to flatten
        return Value(graph.node(name, "ReduceSum", graph.whole(source), graph.integers(1), keepdims=0), (1,))
    return Value(graph.node(name, "ReduceSum", graph.flat(source), graph.integers(1), keepdims=1), (1,))


def _activation(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    operator = "Relu" if layer.activation.function == pb.RELU else "Sigmoid"
    return Value(graph.node(f"layer/{layer.name}", operator, graph.flat(sources[0])), (sources[0].width,))


def _dropout(_graph: Graph, _layer: pb.Layer, sources: Sequence[Value]) -> Value:
    return sources[0]


_KINDS: dict[str, Callable[[Graph, pb.Layer, Sequence[Value]], Value]] = {
    "concat": _concat,
    "sum": _sum,
    "row_sum": _row_sum,
    "activation": _activation,
    "dropout": _dropout,
    "fm": fm,
    "bi_interaction": bi_interaction,
    "dot": dot,
}
_WEIGHTED: dict[str, Callable[[Graph, pb.Layer, Sequence[Value], Read], Value]] = {
    "batchnorm": _batchnorm,
    "bias": _bias,
    "cross": _cross,
    "cross_matrix": _cross_matrix,
    "unify": unify,
    "attention": attend,
}
