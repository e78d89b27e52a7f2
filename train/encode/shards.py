"""Shards: the second pass: rows of parts become files of ids and numbers that training maps.

A shard is a file of arrays: ids.TYPE (n, T) little-endian for each type of id, numbers (n, D) float32 of the dense
features, labels (n,) float32, weights (n,) float32, groups (n,) int64. Of ROWS rows each,
but for the last of a split.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protos import manifest_pb2 as pb
from ...protos.ids import MISSING, VocabularyValues, bucket_ids, ids_of
from ...protos.schema import cardinality, has_ids, layout
from .arrays import map_arrays, write_arrays
from .parts import Part, Rows

ROWS = 2**19
_SLAB = 2**16  # rows of a part at a time


@dataclass(frozen=True)
class Slot:
    """Where a feature's ids stand: so many columns, from `column` on, of the array of its type.

    first: the first of its slots among all ids of a row, as the model takes them.
    """

    feature: str
    first: int
    length: int
    type: str
    column: int


def lay_out(schema: pb.Schema) -> list[Slot]:
    """The slots of a fitted schema: every feature in the narrowest type that holds its ids, and a bag's -1."""
    slots, first, widths = list[Slot](), 0, dict[str, int]()
    for feature in schema.features:
        if not has_ids(feature):
            continue
        bag = feature.HasField("bag")
        length, largest = (feature.bag.max_length if bag else 1), cardinality(feature) - 1
        kinds = ("int8", "int16", "int32", "int64") if bag else ("uint8", "uint16", "int32", "int64")
        kind = next(each for each in kinds if largest <= np.iinfo(each).max)
        slots.append(Slot(feature.name, first, length, kind, widths.get(kind, 0)))
        widths[kind] = widths.get(kind, 0) + length
        first += length
    return slots


@dataclass(frozen=True)
class Made:
    """A shard that is written."""

    file: str
    rows: int
    positives: int
    sha256: str


def make_shard(
    schema: bytes,
    slots: Sequence[Slot],
    vocabularies: Mapping[str, str],
    stretches: Sequence[tuple[Part, int, int]],
    split: str,
    path: Path,
) -> Made:
    """Write one shard, unless it is there.

    Args:
        schema: fitted, serialized.
        slots: of it.
        vocabularies: feature -> the file of its vocabulary.
        stretches: parts, and which of their rows of the split, from and to.
        split: train, valid or test.
        path: the shard.
    """
    if not path.exists():
        fitted = pb.Schema.FromString(schema)
        rows = sum(last - first for _, first, last in stretches)
        arrays, at = dict[str, NDArray[Any]](), 0
        for part, first, last in stretches:
            held = Rows(part, split)
            tables = _tables(fitted, slots, vocabularies, held)
            for start in range(first, last, _SLAB):
                stop = min(start + _SLAB, last)
                for name, piece in _encode(fitted, slots, tables, held, start, stop).items():
                    if name not in arrays:
                        arrays[name] = np.empty((rows, *piece.shape[1:]), piece.dtype)
                    arrays[name][at : at + len(piece)] = piece
                at += stop - start
        write_arrays(path, arrays, {"positives": str(int(arrays["labels"].sum()))})
    arrays, notes = map_arrays(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Made(path.name, len(arrays["labels"]), int(notes["positives"]), digest)


def _tables(
    schema: pb.Schema, slots: Sequence[Slot], vocabularies: Mapping[str, str], held: Rows
) -> dict[str, NDArray[Any]]:
    """For each feature with distinct values in a part, their ids, in the slot's type."""
    tables, types = dict[str, NDArray[Any]](), {slot.feature: slot.type for slot in slots}
    for index, feature in enumerate(schema.features):
        if f"values.{index}" not in held.arrays:
            continue
        values, vocabulary = held.arrays[f"values.{index}"], None
        if feature.name in vocabularies:
            mapped = map_arrays(Path(vocabularies[feature.name]))[0]
            vocabulary = VocabularyValues(mapped["values"], mapped["ids"])
        ids = ids_of(feature, np.ascontiguousarray(values), vocabulary)
        if feature.HasField("bag"):
            ids = np.where(values == MISSING, -1, ids)
        tables[feature.name] = ids.astype(types[feature.name])
    return tables


def _encode(
    schema: pb.Schema,
    slots: Sequence[Slot],
    tables: Mapping[str, NDArray[Any]],
    held: Rows,
    start: int,
    stop: int,
) -> dict[str, NDArray[Any]]:
    places, numbers = layout(schema), held.take("numbers", start, stop)
    indices = {feature.name: index for index, feature in enumerate(schema.features)}
    made = dict[str, NDArray[Any]]()
    for slot in slots:
        width = sum(each.length for each in slots if each.type == slot.type)
        ids = made.setdefault(f"ids.{slot.type}", np.empty((stop - start, width), slot.type))
        index = indices[slot.feature]
        if slot.feature in tables:
            found = tables[slot.feature][held.take(f"codes.{index}", start, stop)]
        else:
            edges = np.array(schema.features[index].bucket.boundaries, np.float32)
            found = bucket_ids(edges, numbers[:, places.dense[slot.feature]])
        ids[:, slot.column : slot.column + slot.length] = found.reshape(stop - start, slot.length)
    dense = [places.dense[each.name] for each in schema.features if not has_ids(each)]
    made["numbers"] = np.ascontiguousarray(numbers[:, dense])
    made |= {name: held.take(name, start, stop) for name in ("labels", "weights", "groups") if name in held.arrays}
    return made


def raw_rows(schema: pb.Schema, parts: Sequence[Part], split: str, places: NDArray[np.int64]) -> dict[str, Any]:
    """Rows of a split as a graph takes them: `ids` (R, S) int64 raw64, `dense` (R, D') float32."""
    where, at, before = layout(schema), 0, 0
    ids = np.empty((len(places), where.slot_count), np.int64)
    dense = np.empty((len(places), where.dense_count), np.float32)
    for part in parts:
        held = Rows(part, split)
        end = int(np.searchsorted(places, before + len(held)))
        rows = places[at:end] - before
        if len(rows):
            dense[at:end] = held.at("numbers", rows)
            for index, feature in enumerate(schema.features):
                if feature.name in where.slots:
                    first, length = where.slots[feature.name]
                    found = held.arrays[f"values.{index}"][held.at(f"codes.{index}", rows)]
                    ids[at:end, first : first + length] = found.reshape(-1, length)
        before += len(held)
        at = end
    return {"ids": ids, "dense": dense}
