"""Dense layers in int8: uint8 inputs of a fixed scale times int8 weights of a scale per output, summed in int32.

Static, so that no row's score depends on the others of its batch; uint8 times int8, which processors multiply four at a
time (int8 times int8 is 16 times slower in ONNX Runtime). ONNX Runtime's QGemm is written down directly: a product
whose bias is computed, as a ranking graph's is, would not be fused from its float form.
Legend: B rows; K inputs; O outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from onnx import TensorProto

from ..protos import manifest_pb2 as pb
from .graph import MICROSOFT, Array, Graph
from .values import Piece, Range, flat

LEAST_INPUTS, LEAST_OUTPUTS = 64, 16  # below, the conversions cost as much as they save
WIDEST_WEIGHT, SMALLEST_SHARE = 127, 256
MOST_STEPS = 2.0**30  # of an addend: half of int32, so that the sum of products beside it has room


@dataclass(frozen=True)
class Calibrated:
    """Layers in int8, and the ranges of the values that they read, by the values' names."""

    layers: frozenset[str] = frozenset()
    ranges: Mapping[str, Range] = field(default_factory=lambda: MappingProxyType({}))

    def range_of(self, layer: pb.Layer, source: int = 0) -> Range | None:
        """The range of a source of a layer in int8; None of another layer, and where none is known yet."""
        return self.ranges.get(layer.inputs[source]) if layer.name in self.layers else None


FLOAT_LAYERS = Calibrated()  # none in int8


def layers_in_int8(net: pb.Net) -> list[str]:
    """The layers whose matrices are worth it: wide ones, so neither the last layer nor a first one of few numbers."""
    found = list[str]()
    for layer in net.layers:
        if layer.HasField("linear"):
            inputs, outputs = layer.linear.inputs, layer.linear.outputs
        elif layer.HasField("cross_matrix") and not layer.cross_matrix.rank:
            inputs = outputs = layer.cross_matrix.width
        else:
            continue
        if inputs >= LEAST_INPUTS and outputs >= LEAST_OUTPUTS:
            found.append(layer.name)
    return found


def weight_scales(weight: Array) -> Array:
    """The scale of each output's weights, float32 [O]: the greatest of them is 127; weight [O, K].

    None is below a 256th of the greatest scale: an output of hardly any weights would count its addend in steps too
    small for int32.
    """
    greatest = np.abs(weight).max(axis=1)
    least = greatest.max() / SMALLEST_SHARE or 1.0
    return (np.maximum(greatest, least) / WIDEST_WEIGHT).astype(np.float32)


def product(
    graph: Graph,
    role: str,
    name: str,
    source: Piece,
    weight: Array,
    addend: Array | str,
    known: Range,
    output: float | None,
) -> str:
    """source W^T + addend, float32 [B, O], or its positive part as uint8 in steps of `output`.

    Args:
        graph: gets the nodes.
        role: what the result is to the layer: the product is named `role/name`.
        name: of the layer.
        source: [B, K], float32, or uint8 where it has a code.
        weight: float64 [O, K].
        addend: float64 [O], or a tensor float32 [1, O].
        known: of the columns of the source's value.
        output: None for float32.
    """
    where = f"{role}/{name}"
    tensor, (scale, zero) = source.tensor, known.scale(source.columns)
    if source.code is not None:
        scale, zero = np.float32(source.code), np.uint8(0)
    scales = weight_scales(weight)
    a_scale, a_zero = graph.constant(f"scale.{where}", np.array(scale)), graph.constant(f"zero.{where}", np.array(zero))
    if source.code is None:
        tensor = graph.node(f"quantised.{where}", "QuantizeLinear", flat(graph, source), a_scale, a_zero)
    codes = np.rint(weight / scales[:, None].astype(np.float64)).astype(np.int8)
    b = graph.constant(f"weight.int8.{where}", np.ascontiguousarray(codes.T))
    b_scale = graph.constant(f"weight.scale.{where}", scales)
    b_zero = graph.constant(f"weight.zero.{where}", np.zeros(len(scales), np.int8))
    steps = np.float64(scale) * scales
    if isinstance(addend, str):
        whole = graph.node(
            f"context.steps.{where}", "Div", addend, graph.constant(f"steps.{where}", steps.astype(np.float32))
        )
        most = (
            graph.constant(f"number/{number:g}", np.array(number, np.float32)) for number in (-MOST_STEPS, MOST_STEPS)
        )
        whole = graph.node(
            f"context.rounded.{where}", "Round", graph.node(f"context.within.{where}", "Clip", whole, *most)
        )
        c = graph.node(f"context.addend.{where}", "Cast", whole, to=TensorProto.INT32)
    else:
        c = graph.constant(
            f"addend.{where}", np.rint(np.clip(addend / steps, -MOST_STEPS, MOST_STEPS)).astype(np.int32)
        )
    inputs = [tensor, a_scale, a_zero, b, b_scale, b_zero, c]
    if output is not None:
        inputs += [
            graph.constant(f"output.{where}", np.array(output, np.float32)),
            graph.constant("zero/output", np.array(0, np.uint8)),
        ]
    return graph.node(where, "QGemm", *inputs, domain=MICROSOFT)
