"""Layers in the graph: one function per layer kind, each from values and weights to a value.

Legend: B rows; W width; V vectors of width D; P = V (V - 1) / 2 pairs.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..protos import manifest_pb2 as pb
from .graph import Array, Graph, Read, Value


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
        elif kind == "batchnorm":
            values[layer.name] = _batchnorm(graph, layer, sources[0], read)
        elif kind in ("cross", "cross_matrix"):
            values[layer.name] = (_cross if kind == "cross" else _cross_matrix)(graph, layer, sources, read)
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


def _batchnorm(graph: Graph, layer: pb.Layer, source: Value, read: Read) -> Value:
    factor, shift = (each.astype(np.float32) for each in _factor_and_shift(layer, read))
    scaled = graph.node(
        f"scaled/{layer.name}", "Mul", graph.flat(source), graph.constant(f"factor/{layer.name}", factor)
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


def _concat(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    width = sum(int(np.prod(source.shape)) for source in sources)
    return Value(graph.concat(f"layer/{layer.name}", [graph.flat(source) for source in sources]), (width,))


def _sum(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    if len(sources) == 1:
        return sources[0]
    flats = [graph.flat(source) for source in sources]
    return Value(graph.node(f"layer/{layer.name}", "Sum", *flats), (int(np.prod(sources[0].shape)),))


def _row_sum(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    source, name = sources[0], f"layer/{layer.name}"
    if len(source.shape) == 2 and source.shape[1] == 1:  # [B, V, 1], as first-order weights come: no need to flatten
        return Value(graph.node(name, "ReduceSum", source.tensor, graph.integers(1), keepdims=0), (1,))
    return Value(graph.node(name, "ReduceSum", graph.flat(source), graph.integers(1), keepdims=1), (1,))


def _activation(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    operator = "Relu" if layer.activation.function == pb.RELU else "Sigmoid"
    return Value(graph.node(f"layer/{layer.name}", operator, sources[0].tensor), sources[0].shape)


def _dropout(_graph: Graph, _layer: pb.Layer, sources: Sequence[Value]) -> Value:
    return sources[0]


def _fm(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    """(|sum of v|^2 - sum of |v|^2) / 2, Rendle, ICDM'10.

    The difference is taken for each of the D components before they are added: the two squares are large beside it.
    """
    name, first = layer.name, graph.integers(1)
    vectors = graph.cube(sources[0], layer.fm.dim)
    total = graph.node(f"fm.sum/{name}", "ReduceSum", vectors, first, keepdims=0)
    square = graph.node(f"fm.square/{name}", "Mul", total, total)
    own = graph.node(f"fm.own/{name}", "Mul", vectors, vectors)
    own = graph.node(f"fm.squares/{name}", "ReduceSum", own, first, keepdims=0)
    pairs = graph.node(f"fm.pairs/{name}", "Sub", square, own)
    twice = graph.node(f"fm.twice/{name}", "ReduceSum", pairs, first, keepdims=1)
    half = graph.constant("number/0.5", np.array([0.5], np.float32))
    return Value(graph.node(f"layer/{name}", "Mul", twice, half), (1,))


def _dot(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    """<v_i, v_j> for i > j, row by row, Naumov et al. 2019: all products, then the lower triangle.

    GatherElements over one flat index per row takes three quarters of the time that a Gather along the width takes.
    """
    name, count, dim = layer.name, layer.dot.vectors, layer.dot.dim
    if all(int(np.prod(source.shape)) % dim == 0 for source in sources):
        vectors = graph.concat(f"dot.vectors/{name}", [graph.cube(source, dim) for source in sources])
    else:
        vectors = graph.cube(_concat(graph, pb.Layer(name=f"dot.inputs/{name}"), sources), dim)
    transposed = graph.node(f"dot.transposed/{name}", "Transpose", vectors, perm=(0, 2, 1))
    products = graph.node(f"dot.products/{name}", "MatMul", vectors, transposed)
    products = graph.node(f"dot.flat/{name}", "Flatten", products)
    i, j = np.tril_indices(count, -1)
    triangle = graph.constant(f"dot.triangle/{name}", (i * count + j).astype(np.int64)[None])
    rows = graph.node(f"dot.rows/{name}", "Shape", products, start=0, end=1)
    shape = graph.concat(f"dot.shape/{name}", [rows, graph.integers(len(i))], axis=0)
    triangles = graph.node(f"dot.triangles/{name}", "Expand", triangle, shape)
    output = graph.node(f"layer/{name}", "GatherElements", products, triangles, axis=1)
    return Value(output, (len(i),))


_KINDS: dict[str, Callable[[Graph, pb.Layer, Sequence[Value]], Value]] = {
    "concat": _concat,
    "sum": _sum,
    "row_sum": _row_sum,
    "activation": _activation,
    "dropout": _dropout,
    "fm": _fm,
    "dot": _dot,
}
