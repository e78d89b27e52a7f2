"""Bags in the graph: the composed vectors of a bag's items become one vector, their sum or mean.

Legend: C columns of a group, of which a bag takes L; D width of a vector.
"""

from collections.abc import Sequence

import numpy as np

from ..protos import manifest_pb2 as pb
from ..protos.ids import MISSING
from ..protos.schema import layout
from .graph import Graph
from .side import Side


def pool(graph: Graph, name: str, vectors: str, features: Sequence[pb.Feature], side: Side) -> str:
    """Pool the bags among a group's features; float32 [rows, C, D] -> [rows, features, D].

    Stretches of features that are no bags pass through untouched; a group without bags costs nothing.
    """
    stretches = list[tuple[int, pb.Feature | None]]()
    for feature in features:
        if feature.HasField("bag"):
            stretches.append((feature.bag.max_length, feature))
        elif stretches and stretches[-1][1] is None:
            stretches[-1] = (stretches[-1][0] + 1, None)
        else:
            stretches.append((1, None))
    if all(bag is None for _, bag in stretches):
        return vectors
    parts = graph.split(f"{name}/stretches", vectors, [count for count, _ in stretches])
    pooled = [
        part if bag is None else graph.node(f"{name}/bag/{bag.name}", "MatMul", _shares(graph, bag, side), part)
        for part, (_, bag) in zip(parts, stretches, strict=True)
    ]
    return graph.concat(f"{name}/pooled", pooled)


def _shares(graph: Graph, bag: pb.Feature, side: Side) -> str:
    """What each slot adds to its bag's vector, float32 [rows, 1, L]: 0 for padding, else 1, or 1 / items for a mean."""
    at, places = f"{side.prefix}bag", layout(side.schema)
    first, count = places.slots[bag.name]
    row = graph.node(f"{at}/row", "Unsqueeze", side.ids, graph.integers(1))
    slots = graph.pick(f"{at}.slots/{bag.name}", row, range(first, first + count), places.slot_count, axis=2)
    padding = graph.node(f"{at}.padding/{bag.name}", "Equal", slots, graph.integers(MISSING))
    one, zero = (graph.constant(f"number/{number}", np.array([number], np.float32)) for number in (1, 0))
    shares = graph.node(f"{at}.items/{bag.name}", "Where", padding, zero, one)
    if bag.bag.pooling == pb.MEAN:
        items = graph.node(f"{at}.count/{bag.name}", "ReduceSum", shares, graph.integers(2), keepdims=1)
        shares = graph.node(
            f"{at}.shares/{bag.name}", "Div", shares, graph.node(f"{at}.divisor/{bag.name}", "Max", items, one)
        )
    return shares
