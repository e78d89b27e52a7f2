"""Dense features in the graph: NaN becomes the value for missing, then (f(x) - mean) / scale, all columns at once."""

from collections.abc import Sequence

import numpy as np

from ..protos import manifest_pb2 as pb
from ..protos.schema import dense_features, layout
from .graph import Graph
from .side import Side
from .values import Piece, Value


def transform(graph: Graph, schema: pb.Schema, sides: Sequence[Side]) -> Value:
    """The net's input `dense`: float32 [rows, columns] with NaN of each side -> float32, in the order of the schema."""
    places = {feature.name: place for place, feature in enumerate(dense_features(schema))}
    return Value(tuple(_side(graph, side, places) for side in sides if dense_features(side.schema)))


def _side(graph: Graph, side: Side, places: dict[str, int]) -> Piece:
    """Steps that no column needs are left out.

    Nothing is folded into the next layer or turned into a product: with a mean that is large beside the scale, that
    would lose digits.
    """
    columns, features, at = layout(side.schema), dense_features(side.schema), f"{side.prefix}dense"
    positions = [columns.dense[feature.name] for feature in features]
    missing, mean, scale = (
        np.array([getattr(feature.dense, name) for feature in features], np.float32)
        for name in ("missing", "mean", "scale")
    )
    logarithmic = np.array([feature.dense.transform == pb.LOG1P for feature in features])

    x = graph.pick(f"{at}/columns", side.dense, positions, columns.dense_count)
    unknown = graph.node(f"{at}/unknown", "IsNaN", x)
    x = graph.node(f"{at}/known", "Where", unknown, graph.constant(f"{at}/missing", missing), x)
    if logarithmic.any():
        zero, one = (graph.constant(f"number/{number}", np.array([number], np.float32)) for number in (0, 1))
        grown = graph.node(f"{at}/grown", "Add", graph.node(f"{at}/positive", "Max", x, zero), one)
        logarithm = graph.node(f"{at}/logarithm", "Log", grown)
        if logarithmic.all():
            x = logarithm
        else:
            which = graph.constant(f"{at}/logarithmic", logarithmic)
            x = graph.node(f"{at}/shaped", "Where", which, logarithm, x)
    if mean.any():
        x = graph.node(f"{at}/centred", "Sub", x, graph.constant(f"{at}/mean", mean))
    if (scale != 1).any():
        x = graph.node(f"{at}/scaled", "Div", x, graph.constant(f"{at}/scale", scale))
    return Piece(x, (len(features),), np.array([places[feature.name] for feature in features]), side.once)
