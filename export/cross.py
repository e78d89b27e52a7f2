"""Cross layers in the graph, those of DCN (Wang et al., ADKDD'17) and of DCN-v2 (Wang et al., WWW'21).

Both leave to their readers what need not be computed. Legend: B rows; W width; L cross layers over one x0.
"""

from collections import Counter

import numpy as np

from ..protos import manifest_pb2 as pb
from .affine import affine
from .graph import Graph, Read
from .int8 import Calibrated
from .values import Crossed, Piece, Scaled, Value, flat, joined, piece, repeated, whole


def cross(graph: Graph, net: pb.Net, layer: pb.Layer, first: Value, source: Value, read: Read) -> Value:
    """x0 (x . w) + b + x. What comes out is always x0 * alpha + beta, with a number alpha a row and a constant beta.

    So no vector is computed at all: x . w = alpha (x0 . w) + beta . w, and x0 . w is one product for all layers.
    """
    before = source.pieces[0].deferred
    before = before if len(source.pieces) == 1 and isinstance(before, Scaled) and before.first is first else None
    if not before and layer.inputs[0] != layer.inputs[1]:
        return _cross_of_others(graph, layer, first, source, read)
    names = [each.name for each in net.layers if each.HasField("cross") and each.inputs[0] == layer.inputs[0]]
    weights = np.stack([read(f"{name}.weight").astype(np.float64) for name in names])
    factors = affine(graph, "cross.factors", layer.inputs[0], first, weights, np.ones(len(names)))  # x0 . w + 1
    split = graph.split(f"cross.split/{layer.inputs[0]}", factors.tensor, [1] * len(names))
    times, plus = split[names.index(layer.name)], np.zeros(layer.cross.width)
    if before:
        times, plus = graph.node(f"cross.times/{layer.name}", "Mul", before.times, times), before.plus
        constant = np.array([before.plus @ weights[names.index(layer.name)]], np.float32)
        if constant.any():
            number = graph.constant(f"cross.constant/{layer.name}", constant)
            times = graph.node(f"cross.plus/{layer.name}", "Add", times, number)
    scaled = Scaled(first, times, plus + read(f"{layer.name}.bias").astype(np.float64))
    return Value((Piece("", (layer.cross.width,), np.arange(layer.cross.width), first.once, scaled),))


def cross_matrix(
    graph: Graph, net: pb.Net, layer: pb.Layer, first: Value, source: Value, read: Read, calibrated: Calibrated
) -> Value:
    """x0 * (W x + b) + x; of a low rank, W x = U (V^T x), never the product of the two.

    The first layer, where x is x0, takes the last sum into its bias. The last one of a ranking graph is left to a
    reader of one number.
    """
    name, width = layer.name, layer.cross_matrix.width
    bias, known = read(f"{name}.bias").astype(np.float64), calibrated.range_of(layer, 1)
    if not layer.cross_matrix.rank and _read_as_one(net, name) and _both_sides(first) and not source.side(once=True):
        matrix = read(f"{name}.weight").astype(np.float64)
        crossed = Crossed(first, source, matrix, bias, calibrated.range_of(layer, 0))
        return Value((Piece("", (width,), np.arange(width), deferred=crossed),))
    x0, is_first = _every_column(graph, layer.inputs[0], first), layer.inputs[0] == layer.inputs[1]
    (x, *others) = source.pieces
    if not is_first and (others or x.deferred or x.once != x0.once or (x.columns != x0.columns).any()):
        x0, x = (_in_order(graph, f"{name}/{k}", value) for k, value in enumerate((first, source)))
    inner, matrix = source, "weight"
    if layer.cross_matrix.rank:
        v = read(f"{name}.v").astype(np.float64).T
        inner, matrix = Value((affine(graph, "low", name, source, v, np.zeros(len(v))),)), "u"
    order = x0.columns
    weight = read(f"{name}.{matrix}").astype(np.float64)[order]
    factor = affine(graph, "factor", name, inner, weight, bias[order] + is_first, known)
    crossed = graph.node(f"{'layer' if is_first else 'crossed'}/{name}", "Mul", x0.tensor, factor.tensor)
    if not is_first:
        crossed = graph.node(f"layer/{name}", "Add", crossed, flat(graph, x))
    return Value((Piece(crossed, (width,), order, x0.once and factor.once),))


def _cross_of_others(graph: Graph, layer: pb.Layer, first: Value, source: Value, read: Read) -> Value:
    """A cross whose x does not come from x0."""
    name = layer.name
    factor = affine(graph, "factor", name, source, read(f"{name}.weight").astype(np.float64)[None], np.zeros(1))
    x0, x = (_in_order(graph, f"{name}/{k}", value) for k, value in enumerate((first, source)))
    bias = graph.constant(f"bias.layer/{name}", read(f"{name}.bias"))
    crossed = graph.node(f"crossed/{name}", "Mul", x0.tensor, factor.tensor)
    return Value(
        (piece(graph.node(f"layer/{name}", "Sum", crossed, bias, x.tensor), x.width, once=x0.once and x.once),)
    )


def _in_order(graph: Graph, name: str, value: Value) -> Piece:
    return piece(whole(graph, f"cross/{name}", value), value.width, once=value.once)


def _both_sides(first: Value) -> bool:
    return bool(first.side(once=True) and first.side(once=False))


def _every_column(graph: Graph, name: str, value: Value) -> Piece:
    """A value in one piece, the context's columns first and repeated in every row, if there are others."""
    shared, own = (joined(graph, f"cross.first/{name}", value, once=once) for once in (True, False))
    if not shared or not own:
        one = shared or own
        assert one
        return one
    tensor = graph.node(f"cross.whole/{name}", "Concat", repeated(graph, shared, own.tensor), own.tensor, axis=1)
    return Piece(tensor, (value.width,), np.concatenate([shared.columns, own.columns]))


def _read_as_one(net: pb.Net, name: str) -> bool:
    """Whether a layer is read by a linear layer of one output alone, perhaps through a concatenation."""
    readers = Counter(each for layer in net.layers for each in layer.inputs)
    while readers[name] == 1:
        (reader,) = (layer for layer in net.layers if name in layer.inputs)
        if reader.HasField("linear"):
            return reader.linear.outputs == 1
        if not reader.HasField("concat"):
            return False
        name = reader.name
    return False
