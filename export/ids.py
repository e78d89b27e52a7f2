"""Ids in the graph: raw64 values and numbers to be bucketed become ids, one column a slot.

The arithmetic is that of `protos/ids.py`. Legend: C columns, one per single-valued field and `max_length` per bag.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from ..protos import manifest_pb2 as pb
from ..protos.ids import FMIX_FIRST, FMIX_SECOND
from ..protos.schema import layout
from .graph import Array, Graph
from .side import Side
from .vocabulary import Vocabularies, find


@dataclass(frozen=True)
class Ids:
    """Every id of a side: `tensor` [rows, C] of a dtype, and the columns of each of its features as (first, number)."""

    tensor: str
    columns: dict[str, tuple[int, int]]
    dtype: str

    @property
    def width(self) -> int:
        """C."""
        return sum(count for _, count in self.columns.values())


@dataclass(frozen=True)
class _Column:
    feature: pb.Feature
    position: int  # in the side's ids, or in its dense columns for a bucket


def encode(graph: Graph, side: Side, fields: Sequence[pb.Field], vocabularies: Vocabularies, dtype: str) -> Ids:
    """Ids of a side's fields, in their order, which is that of the lookups if those need not permute them.

    Features of one encoding are encoded together: the number of nodes does not grow with that of the features. `dtype`
    is int64, or int32 if that holds all of them.
    """
    to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    places, features = layout(side.schema), {feature.name: feature for feature in side.schema.features}
    columns, starts = list[_Column](), dict[str, tuple[int, int]]()
    for field in fields:
        if field.feature not in features:
            continue
        feature = features[field.feature]
        first, count = places.slots.get(feature.name) or (places.dense[feature.name], 1)
        starts[feature.name] = (len(columns), count)
        columns.extend(_Column(feature, first + k) for k in range(count))
    if not columns:  # a side of numbers alone
        return Ids("", starts, dtype)
    by_kind = dict[str, list[int]]()
    for place, column in enumerate(columns):
        by_kind.setdefault(str(column.feature.WhichOneof("encoding")), []).append(place)
    encoded = list[str]()
    for kind, each in by_kind.items():
        alike = [columns[place] for place in each]
        if kind == "vocabulary":
            owners = [column.feature for column in alike]
            raw = _raw(graph, kind, side, alike)
            encoded.append(find(graph, f"{side.prefix}{kind}", raw, owners, vocabularies, to))
        else:
            encoded.append(_ENCODINGS[kind](graph, side, alike, to))
    joined = graph.concat(f"{side.prefix}ids/joined", encoded)
    found = [place for each in by_kind.values() for place in each]
    order = [found.index(place) for place in range(len(columns))]
    return Ids(graph.pick(f"{side.prefix}ids/ordered", joined, order, len(columns)), starts, dtype)


def _raw(graph: Graph, kind: str, side: Side, columns: Sequence[_Column]) -> str:
    positions = [column.position for column in columns]
    return graph.pick(f"{side.prefix}{kind}/raw", side.ids, positions, layout(side.schema).slot_count)


def _unsigned(values: Sequence[int]) -> Array:
    return np.array(values, np.uint64)


def _id_range(graph: Graph, side: Side, columns: Sequence[_Column], to: int) -> str:
    """min(raw - first, size) in uint64, where what lies below is huge: out of range on either side is the rare id."""
    at = f"{side.prefix}id"
    unsigned = graph.node(f"{at}/unsigned", "Cast", _raw(graph, "id", side, columns), to=TensorProto.UINT64)
    firsts = np.array([column.feature.id.first for column in columns], np.int64).view(np.uint64)
    if firsts.any():
        unsigned = graph.node(f"{at}/offsets", "Sub", unsigned, graph.constant(f"{at}/firsts", firsts))
    sizes = graph.constant(f"{at}/sizes", _unsigned([column.feature.id.size for column in columns]))
    return graph.node(f"{at}/ids", "Cast", graph.node(f"{at}/range", "Min", unsigned, sizes), to=to)


def _hash(graph: Graph, side: Side, columns: Sequence[_Column], to: int) -> str:
    """fmix64(raw xor seed) mod buckets in uint64, where products wrap."""
    at = f"{side.prefix}hash"
    mixed = graph.node(f"{at}/unsigned", "Cast", _raw(graph, "hash", side, columns), to=TensorProto.UINT64)
    seeds = _unsigned([column.feature.hash.seed for column in columns])
    if seeds.any():
        mixed = graph.node(f"{at}/seeded", "BitwiseXor", mixed, graph.constant(f"{at}/seeds", seeds))
    shift = graph.constant(f"{at}/shift", _unsigned([33]))
    for step, factor in enumerate((FMIX_FIRST, FMIX_SECOND, None)):
        shifted = graph.node(f"{at}/shifted.{step}", "BitShift", mixed, shift, direction="RIGHT")
        mixed = graph.node(f"{at}/xor.{step}", "BitwiseXor", mixed, shifted)
        if factor is not None:
            by = graph.constant(f"{at}/factor.{step}", _unsigned([factor]))
            mixed = graph.node(f"{at}/product.{step}", "Mul", mixed, by)
    buckets = graph.constant(f"{at}/buckets", _unsigned([column.feature.hash.buckets for column in columns]))
    return graph.node(f"{at}/ids", "Cast", graph.node(f"{at}/modulo", "Mod", mixed, buckets), to=to)


def _bucket(graph: Graph, side: Side, columns: Sequence[_Column], to: int) -> str:
    """How many of (-inf, boundaries ...) are <= x: none for NaN. Shorter lists end in NaN, which nothing reaches."""
    at, places = f"{side.prefix}bucket", layout(side.schema)
    x = graph.pick(f"{at}/numbers", side.dense, [column.position for column in columns], places.dense_count)
    lists = [column.feature.bucket.boundaries for column in columns]
    boundaries = np.full((len(columns), 1 + max(map(len, lists))), np.nan, np.float32)
    boundaries[:, 0] = -np.inf
    for row, each in enumerate(lists):
        boundaries[row, 1 : 1 + len(each)] = each
    x = graph.node(f"{at}/column", "Unsqueeze", x, graph.integers(2))
    reached = graph.node(f"{at}/reached", "GreaterOrEqual", x, graph.constant(f"{at}/boundaries", boundaries))
    ones = graph.node(f"{at}/ones", "Cast", reached, to=to)
    return graph.node(f"{at}/ids", "ReduceSum", ones, graph.integers(2), keepdims=0)


_ENCODINGS: dict[str, Callable[[Graph, Side, Sequence[_Column], int], str]] = {
    "id": _id_range,
    "hash": _hash,
    "bucket": _bucket,
}
