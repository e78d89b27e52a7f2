"""Vocabularies in the graph: raw64 values become ids by a perfect hash, all columns of all vocabularies in step.

The arithmetic, and what tells a value from those that were not kept, is that of `perfect_hash.py`.
Legend: B rows; C columns; n values of a vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from ..protos import manifest_pb2 as pb
from .graph import Array, Graph, Read
from .perfect_hash import FACTOR, SHIFT, perfect_hash


@dataclass(frozen=True)
class Place:
    """Where a vocabulary stands: its buckets from `bucket` on, its entries from `entry` on; its hash's seed, and n."""

    seed: int
    bucket: int
    buckets: int
    entry: int
    values: int


@dataclass(frozen=True)
class Vocabularies:
    """All vocabularies of a schema, one after the other.

    displacements: int32, of each bucket.
    entries: uint64, n of each vocabulary; one of an empty one.
    """

    places: Mapping[str, Place]
    displacements: Array
    entries: Array


def vocabularies(schema: pb.Schema, read: Read) -> Vocabularies:
    """Build the hashes; `read` gives `vocabulary.<feature>.values`, int64 [n], distinct, and `.ids`, int32, 1 to n."""
    places, bucket, entry = dict[str, Place](), 0, 0
    displacements, entries = [np.zeros(0, np.int32)], [np.zeros(0, np.uint64)]
    for feature in schema.features:
        if feature.WhichOneof("encoding") == "vocabulary":
            values, ids = (read(f"vocabulary.{feature.name}.{role}") for role in ("values", "ids"))
            found = perfect_hash(values, ids)
            places[feature.name] = Place(found.seed, bucket, len(found.displacements), entry, len(values))
            displacements.append(found.displacements)
            entries.append(found.entries)
            bucket, entry = bucket + len(found.displacements), entry + len(found.entries)
    return Vocabularies(places, np.concatenate(displacements), np.concatenate(entries))


def find(
    graph: Graph,
    prefix: str,
    raw: str,
    features: Sequence[pb.Feature],
    known: Vocabularies,
    to: int = TensorProto.INT64,
) -> str:
    """Ids of raw values, [B, C] int64 -> [B, C] of the type `to`; 0 of values that were not kept.

    Args:
        graph: gets the nodes.
        prefix: what their names begin with.
        raw: the raw64 values.
        features: of each column.
        known: the vocabularies.
        to: int64, or int32.
    """

    def each(name: str, dtype: str) -> Array:
        return np.array([getattr(known.places[feature.name], name) for feature in features], dtype)

    def apply(name: str, operator: str, value: str, by: str | Array) -> str:
        other = by if isinstance(by, str) else graph.constant(f"{prefix}/{name}.by", by)
        return graph.node(f"{prefix}/{name}", operator, value, other)

    def mixed(name: str, value: str) -> str:
        bits = graph.constant("vocabulary/shift", np.array(SHIFT, np.uint64))
        high = graph.node(f"{prefix}/{name}.high", "BitShift", value, bits, direction="RIGHT")
        return apply(f"{name}.mixed", "BitwiseXor", value, high)

    def cast(name: str, value: str, kind: int) -> str:
        return graph.node(f"{prefix}/{name}", "Cast", value, to=kind)

    def placed(name: str, position: str, starts: Array) -> str:
        return apply(name, "Add", position, starts) if starts.any() else position

    rows = {"displacements": known.displacements, "entries": known.entries}
    tables = {
        name: graph.table(f"vocabulary/{name}", array.dtype.name, (), [array], len(array))
        for name, array in rows.items()
    }
    spread = apply("spread", "Mul", cast("unsigned", raw, TensorProto.UINT64), np.array(FACTOR, np.uint64))
    seeded = apply("seeded", "Mul", mixed("spread", spread), each("seed", "uint64"))
    hashes = cast("hashes", mixed("seeded", seeded), TensorProto.INT64)  # the same bits: Mod takes the divisor's sign
    bucket = placed("bucket", apply("own_bucket", "Mod", hashes, each("buckets", "int64")), each("bucket", "int64"))
    packed = graph.node(f"{prefix}/displacement", "Gather", tables["displacements"], bucket)
    displaced = apply("displaced", "BitwiseXor", hashes, cast("displacement.wide", packed, TensorProto.INT64))
    sizes = each("values", "int64")
    slot = placed("slot", apply("own_slot", "Mod", displaced, np.maximum(sizes, 1)), each("entry", "int64"))
    entry = graph.node(f"{prefix}/entry", "Gather", tables["entries"], slot)
    left = apply("left", "Min", apply("told", "BitwiseXor", entry, spread), sizes.astype(np.uint64))
    dtype = helper.tensor_dtype_to_np_dtype(to)
    known_sizes = graph.constant(f"{prefix}/sizes", sizes.astype(dtype))
    return graph.node(f"{prefix}/ids", "Sub", known_sizes, cast("left.signed", left, to))
