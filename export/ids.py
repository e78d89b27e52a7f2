"""Ids in the graph: raw64 values and numbers to be bucketed become ids, one column a slot.

The arithmetic is that of `protos/ids.py`. Legend: C columns, one per single-valued field and `max_length` per bag.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from ..protos import manifest_pb2 as pb
from ..protos.ids import FMIX_FIRST, FMIX_SECOND
from ..protos.schema import Layout, layout
from .graph import Array, Graph, Read

IDS, DENSE = "ids", "dense"


@dataclass(frozen=True)
class Ids:
    """Every id of a request: `tensor` int64 [B, C], and the columns of each feature as (first, number)."""

    tensor: str
    columns: dict[str, tuple[int, int]]

    @property
    def width(self) -> int:
        """C."""
        return sum(count for _, count in self.columns.values())


@dataclass(frozen=True)
class _Column:
    feature: pb.Feature
    position: int  # in `ids`, or in `dense` for a bucket


def encode(graph: Graph, schema: pb.Schema, fields: Sequence[pb.Field], read: Read) -> Ids:
    """Ids of all fields, in the order of the plan, so that the lookups need not permute them.

    Features of one encoding are encoded together: the number of nodes does not grow with that of the features.
    """
    places, features = layout(schema), {feature.name: feature for feature in schema.features}
    columns, starts = list[_Column](), dict[str, tuple[int, int]]()
    for field in fields:
        feature = features[field.feature]
        first, count = places.slots.get(feature.name) or (places.dense[feature.name], 1)
        starts[feature.name] = (len(columns), count)
        columns.extend(_Column(feature, first + k) for k in range(count))
    by_kind = dict[str, list[int]]()
    for place, column in enumerate(columns):
        by_kind.setdefault(str(column.feature.WhichOneof("encoding")), []).append(place)
    encoded = list[str]()
    for kind, each in by_kind.items():
        alike = [columns[place] for place in each]
        if kind == "vocabulary":
            encoded.append(_vocabulary(graph, alike, places, read))
        else:
            encoded.append(_ENCODINGS[kind](graph, alike, places))
    joined = graph.concat("ids/joined", encoded)
    found = [place for each in by_kind.values() for place in each]
    order = [found.index(place) for place in range(len(columns))]
    return Ids(graph.pick("ids/ordered", joined, order, len(columns)), starts)


def _raw(graph: Graph, kind: str, columns: Sequence[_Column], places: Layout) -> str:
    return graph.pick(f"{kind}/raw", IDS, [column.position for column in columns], places.slot_count)


def _unsigned(values: Sequence[int]) -> Array:
    return np.array(values, np.uint64)


def _id_range(graph: Graph, columns: Sequence[_Column], places: Layout) -> str:
    """min(raw, size) in uint64, where a negative is huge: out of range on either side is the rare id."""
    unsigned = graph.node("id/unsigned", "Cast", _raw(graph, "id", columns, places), to=TensorProto.UINT64)
    sizes = graph.constant("id/sizes", _unsigned([column.feature.id.size for column in columns]))
    return graph.node("id/ids", "Cast", graph.node("id/range", "Min", unsigned, sizes), to=TensorProto.INT64)


def _hash(graph: Graph, columns: Sequence[_Column], places: Layout) -> str:
    """fmix64(raw xor seed) mod buckets in uint64, where products wrap."""
    mixed = graph.node("hash/unsigned", "Cast", _raw(graph, "hash", columns, places), to=TensorProto.UINT64)
    seeds = _unsigned([column.feature.hash.seed for column in columns])
    if seeds.any():
        mixed = graph.node("hash/seeded", "BitwiseXor", mixed, graph.constant("hash/seeds", seeds))
    shift = graph.constant("hash/shift", _unsigned([33]))
    for step, factor in enumerate((FMIX_FIRST, FMIX_SECOND, None)):
        shifted = graph.node(f"hash/shifted.{step}", "BitShift", mixed, shift, direction="RIGHT")
        mixed = graph.node(f"hash/xor.{step}", "BitwiseXor", mixed, shifted)
        if factor is not None:
            by = graph.constant(f"hash/factor.{step}", _unsigned([factor]))
            mixed = graph.node(f"hash/product.{step}", "Mul", mixed, by)
    buckets = graph.constant("hash/buckets", _unsigned([column.feature.hash.buckets for column in columns]))
    return graph.node("hash/ids", "Cast", graph.node("hash/modulo", "Mod", mixed, buckets), to=TensorProto.INT64)


def _vocabulary(graph: Graph, columns: Sequence[_Column], places: Layout, read: Read) -> str:
    """Binary search without branches, all columns in step, over the sorted values of all vocabularies laid end to end.

    A column's window [position, position + left) holds the last value <= raw, if there is one. Each step looks at the
    middle and keeps a half; a window of one stays as it is while longer ones go on. An empty vocabulary is one value
    whose id is 0, the id of values that are not found.
    """
    raw = _raw(graph, "vocabulary", columns, places)
    starts, middles = dict[str, int](), dict[str, int]()
    values, numbers, rows = list[str | Array](), list[str | Array](), 0
    for feature in {column.feature.name: column.feature for column in columns}.values():
        size, name = feature.vocabulary.size, f"vocabulary.{feature.name}"
        starts[feature.name] = rows
        middles[feature.name] = int(read(f"{name}.values")[size // 2]) if size else 0
        values.append(f"{name}.values" if size else np.zeros(1, np.int64))
        numbers.append(f"{name}.ids" if size else np.zeros(1, np.int32))
        rows += max(size, 1)
    sorted_values = graph.table("vocabulary/values", "int64", (), values, rows)
    ids = graph.table("vocabulary/numbers", "int32", (), numbers, rows)
    firsts = np.array([starts[column.feature.name] for column in columns], np.int64)
    left = np.array([max(column.feature.vocabulary.size, 1) for column in columns], np.int64)
    position, step = graph.constant("vocabulary/firsts", firsts), 0
    while left.max() > 1:
        if step:
            half = graph.constant(f"vocabulary/half.{step}", left // 2)
            middle = graph.node(f"vocabulary/middle.{step}", "Add", position, half)
            value = graph.node(f"vocabulary/value.{step}", "Gather", sorted_values, middle)
        else:  # known now; a runtime that gathers constants when it opens the model would read all values for it
            middle = graph.constant("vocabulary/middle.0", firsts + left // 2)
            first_values = np.array([middles[column.feature.name] for column in columns], np.int64)
            value = graph.constant("vocabulary/value.0", first_values)
        reached = graph.node(f"vocabulary/reached.{step}", "LessOrEqual", value, raw)
        position = graph.node(f"vocabulary/position.{step}", "Where", reached, middle, position)
        left, step = left - left // 2, step + 1
    nearest = graph.node("vocabulary/nearest", "Gather", sorted_values, position)
    is_known = graph.node("vocabulary/known", "Equal", nearest, raw)
    known = graph.node("vocabulary/id", "Gather", ids, position)
    unknown = graph.constant("vocabulary/unknown", np.zeros(1, np.int32))
    found = graph.node("vocabulary/found", "Where", is_known, known, unknown)
    return graph.node("vocabulary/ids", "Cast", found, to=TensorProto.INT64)


def _bucket(graph: Graph, columns: Sequence[_Column], places: Layout) -> str:
    """How many of (-inf, boundaries ...) are <= x: none for NaN. Shorter lists end in NaN, which nothing reaches."""
    x = graph.pick("bucket/numbers", DENSE, [column.position for column in columns], places.dense_count)
    lists = [column.feature.bucket.boundaries for column in columns]
    boundaries = np.full((len(columns), 1 + max(map(len, lists))), np.nan, np.float32)
    boundaries[:, 0] = -np.inf
    for row, each in enumerate(lists):
        boundaries[row, 1 : 1 + len(each)] = each
    x = graph.node("bucket/column", "Unsqueeze", x, graph.integers(2))
    reached = graph.node("bucket/reached", "GreaterOrEqual", x, graph.constant("bucket/boundaries", boundaries))
    ones = graph.node("bucket/ones", "Cast", reached, to=TensorProto.INT64)
    return graph.node("bucket/ids", "ReduceSum", ones, graph.integers(2), keepdims=0)


_ENCODINGS: dict[str, Callable[[Graph, Sequence[_Column], Layout], str]] = {
    "id": _id_range,
    "hash": _hash,
    "bucket": _bucket,
}
