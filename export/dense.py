"""Dense features in the graph: NaN becomes the value for missing, then (f(x) - mean) / scale, all columns at once."""

import numpy as np

from ..protos import manifest_pb2 as pb
from ..protos.schema import dense_features, layout
from .graph import Graph, Value
from .ids import DENSE


def transform(graph: Graph, schema: pb.Schema) -> Value:
    """The net's input `dense`: float32 [B, D] with NaN -> float32 [B, dense features].

    Steps that no column needs are left out. Nothing is folded into the next layer or turned into a product: with a mean
    that is large beside the scale, that would lose digits.
    """
    places, features = layout(schema), dense_features(schema)
    positions = [places.dense[feature.name] for feature in features]
    missing, mean, scale = (
        np.array([getattr(feature.dense, name) for feature in features], np.float32)
        for name in ("missing", "mean", "scale")
    )
    logarithmic = np.array([feature.dense.transform == pb.LOG1P for feature in features])

    x = graph.pick("dense/columns", DENSE, positions, places.dense_count)
    unknown = graph.node("dense/unknown", "IsNaN", x)
    x = graph.node("dense/known", "Where", unknown, graph.constant("dense/missing", missing), x)
    if logarithmic.any():
        zero, one = (graph.constant(f"number/{number}", np.array([number], np.float32)) for number in (0, 1))
        grown = graph.node("dense/grown", "Add", graph.node("dense/positive", "Max", x, zero), one)
        logarithm = graph.node("dense/logarithm", "Log", grown)
        if logarithmic.all():
            x = logarithm
        else:
            which = graph.constant("dense/logarithmic", logarithmic)
            x = graph.node("dense/shaped", "Where", which, logarithm, x)
    if mean.any():
        x = graph.node("dense/centred", "Sub", x, graph.constant("dense/mean", mean))
    if (scale != 1).any():
        x = graph.node("dense/scaled", "Div", x, graph.constant("dense/scale", scale))
    return Value(x, (len(features),))
