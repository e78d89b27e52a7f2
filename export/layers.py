"""Layers in the graph: one function per layer kind, each from values and weights to a value.

A function knows both forms of its kind: all rows alike, or the context's part once and the candidates' for every row.
Legend: B rows; W width. Layers of vectors stand in vectors.py, cross layers in cross.py.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..protos import manifest_pb2 as pb
from .affine import affine
from .cross import cross, cross_matrix
from .graph import Array, Graph, Read
from .int8 import FLOAT_LAYERS, Calibrated
from .values import Piece, Value, at, beside, flat, joined, mapped, piece, whole
from .vectors import attend, bi_interaction, dot, fm, unify


def build(
    graph: Graph,
    net: pb.Net,
    inputs: Mapping[str, Value],
    read: Read,
    calibrated: Calibrated = FLOAT_LAYERS,
) -> dict[str, Value]:
    """Add a net's layers; returns all values by name, of which the last layer's is [B, 1].

    A batch normalisation that alone reads a linear layer is folded into it, or that a linear layer alone reads.

    Args:
        graph: to add the nodes to.
        net: the layers.
        inputs: the net's inputs, by name.
        read: gives a float32 weight by name.
        calibrated: the layers in int8.
    """
    values, norms, later = dict(inputs), _foldable(net), _foldable_later(net, calibrated)
    folded = {norm.name for norm in (*norms.values(), *later.values())}
    for layer in net.layers:
        sources, kind = [values[name] for name in layer.inputs], layer.WhichOneof("kind")
        if layer.name in folded:
            values[layer.name] = sources[0]
        elif kind == "linear":
            known = calibrated.range_of(layer)
            output = _steps_of_reader(net, layer, norms, calibrated) if known else None
            weight, bias = _folded(layer, read, norms.get(layer.name), later.get(layer.name))
            product = affine(graph, "layer", layer.name, sources[0], weight, bias, known, output)
            values[layer.name] = Value((product,))
        elif kind == "cross":
            values[layer.name] = cross(graph, net, layer, sources[0], sources[1], read)
        elif kind == "cross_matrix":
            values[layer.name] = cross_matrix(graph, net, layer, sources[0], sources[1], read, calibrated)
        elif kind in _WEIGHTED:
            values[layer.name] = _WEIGHTED[kind](graph, layer, sources[0], read)
        else:
            values[layer.name] = _KINDS[str(kind)](graph, layer, sources)
    return values


def _foldable(net: pb.Net) -> dict[str, pb.Layer]:
    """Linear layer -> the batch normalisation that is its only reader."""
    readers = Counter(name for layer in net.layers for name in layer.inputs)
    linear = {layer.name for layer in net.layers if layer.HasField("linear") and readers[layer.name] == 1}
    return {layer.inputs[0]: layer for layer in net.layers if layer.HasField("batchnorm") and layer.inputs[0] in linear}


def _foldable_later(net: pb.Net, calibrated: Calibrated) -> dict[str, pb.Layer]:
    """Linear layer -> a batch normalisation that it alone reads, and that no linear layer before it has taken.

    Not one in int8, whose inputs are better normalised.
    """
    before, readers = _foldable(net).values(), Counter(name for layer in net.layers for name in layer.inputs)
    found, open_norms = dict[str, pb.Layer](), dict[str, pb.Layer]()
    for layer in net.layers:
        if layer.HasField("batchnorm") and layer not in before and readers[layer.name] == 1:
            open_norms[layer.name] = layer
        elif layer.inputs[0] in open_norms and layer.HasField("dropout") and readers[layer.name] == 1:
            open_norms[layer.name] = open_norms[layer.inputs[0]]
        elif layer.inputs[0] in open_norms and layer.HasField("linear") and layer.name not in calibrated.layers:
            found[layer.name] = open_norms[layer.inputs[0]]
    return found


def _steps_of_reader(
    net: pb.Net, layer: pb.Layer, norms: Mapping[str, pb.Layer], calibrated: Calibrated
) -> float | None:
    """The steps in which the next linear layer reads this one's positive part, if it alone reads it, in int8."""
    name, positive = layer.name, False
    while True:
        readers = [each for each in net.layers if name in each.inputs]
        if len(readers) != 1:
            return None
        (reader,) = readers
        if reader.HasField("linear"):
            known = calibrated.range_of(reader)
            return float(known.scale(np.arange(reader.linear.inputs))[0]) if known and positive else None
        if reader.HasField("activation") and reader.activation.function == pb.RELU and not positive:
            positive = True
        elif not reader.HasField("dropout") and reader not in norms.values():
            return None
        name = reader.name


def _factor_and_shift(norm: pb.Layer, read: Read) -> tuple[Array, Array]:
    """A batch normalisation as y = x * factor + shift: float64 [W] each."""
    weight, bias, mean, variance = (
        read(f"{norm.name}.{role}").astype(np.float64) for role in ("weight", "bias", "mean", "variance")
    )
    factor = weight / np.sqrt(variance + norm.batchnorm.epsilon)
    return factor, bias - mean * factor


def _folded(layer: pb.Layer, read: Read, after: pb.Layer | None, before: pb.Layer | None) -> tuple[Array, Array]:
    """A linear layer's weight [O, W] and bias [O], batch normalisations after and before it included; float64."""
    weight, bias = (read(f"{layer.name}.{role}").astype(np.float64) for role in ("weight", "bias"))
    if before is not None:
        factor, shift = _factor_and_shift(before, read)
        weight, bias = weight * factor, bias + weight @ shift
    if after is not None:
        factor, shift = _factor_and_shift(after, read)
        weight, bias = weight * factor[:, None], bias * factor + shift
    return weight, bias


def _batchnorm(graph: Graph, layer: pb.Layer, source: Value, read: Read) -> Value:
    factor, shift = (each.astype(np.float32) for each in _factor_and_shift(layer, read))

    def normalised(each: Piece) -> str:
        where = f"{at(each.once)}layer/{layer.name}"
        by = graph.constant(f"factor.{where}", factor[each.columns])
        scaled = graph.node(f"scaled.{where}", "Mul", flat(graph, each), by)
        return graph.node(where, "Add", scaled, graph.constant(f"shift.{where}", shift[each.columns]))

    return mapped(_two_pieces(graph, layer, source), normalised)


def _bias(graph: Graph, layer: pb.Layer, source: Value, read: Read) -> Value:
    bias = read(f"{layer.name}.bias")

    def added(each: Piece) -> str:
        where = f"{at(each.once)}layer/{layer.name}"
        return graph.node(where, "Add", flat(graph, each), graph.constant(f"bias.{where}", bias[each.columns]))

    return mapped(_two_pieces(graph, layer, source), added)


def _concat(_graph: Graph, _layer: pb.Layer, sources: Sequence[Value]) -> Value:
    return beside(sources)


def _sum(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    if len(sources) == 1:
        return sources[0]
    tensors = [whole(graph, f"{layer.name}/{k}", source) for k, source in enumerate(sources)]
    once = all(source.once for source in sources)
    return Value((piece(graph.node(f"{at(once)}layer/{layer.name}", "Sum", *tensors), sources[0].width, once=once),))


def _row_sum(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    return Value((total(graph, layer.name, sources[0]),))


def total(graph: Graph, name: str, value: Value) -> Piece:
    """The sum of each row's numbers, [B, 1]."""
    found = list[str]()
    for once in (True, False):
        pieces, where = value.side(once=once), f"{at(once)}row_sum/{name}"
        if pieces and all(each.shape[1:] == (1,) for each in pieces):  # [rows, V, 1], as first-order weights come
            cube = graph.concat(f"{where}/weights", [each.tensor for each in pieces])
            found.append(graph.node(where, "ReduceSum", cube, graph.integers(1), keepdims=0))
        elif one := joined(graph, f"row_sum/{name}", value, once=once):
            found.append(graph.node(where, "ReduceSum", flat(graph, one), graph.integers(1), keepdims=1))
    tensor = found[0] if len(found) == 1 else graph.node(f"layer/{name}", "Add", *found)
    return piece(tensor, 1, once=value.once)


def _activation(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    operator = "Relu" if layer.activation.function == pb.RELU else "Sigmoid"

    def activated(each: Piece) -> str:
        return graph.node(f"{at(each.once)}layer/{layer.name}", operator, flat(graph, each))

    if all(each.code is not None for each in sources[0].pieces):  # the positive part already
        return sources[0]
    return mapped(_two_pieces(graph, layer, sources[0]), activated)


def _two_pieces(graph: Graph, layer: pb.Layer, value: Value) -> Value:
    """A value in at most a piece a side, so that what is done to every number is one node each."""
    found = [joined(graph, f"layer/{layer.name}", value, once=once) for once in (True, False)]
    return Value(tuple(each for each in found if each))


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
_WEIGHTED: dict[str, Callable[[Graph, pb.Layer, Value, Read], Value]] = {
    "batchnorm": _batchnorm,
    "bias": _bias,
    "unify": unify,
    "attention": attend,
}
