"""The one encoder: columns of raw values -> the arrays that a graph reads.

Training, `quorem bench` and the server's edge all encode here; nothing else turns a raw value into raw64.
Legend: R rows; S slots; D dense columns; L items of a bag column over all rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from . import manifest_pb2 as pb
from .errors import MissingColumn, OutOfRange, UnknownColumn, WrongLength, WrongType
from .ids import MISSING, Int64s, offsets, raw64_of_strings
from .schema import layout, told_range

Float32s = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Column:
    """One feature's raw values: exactly one of `integers`, `strings`, `floats`.

    integers: (R,) or (L,) int64.
    strings: UTF-8 bytes, R or L of them; or the distinct ones, with `codes` (R,) or (L,) int64 pointing at them.
    floats: (R,) float32, NaN = missing.
    lengths: (R,) int64, bags only: items per row.
    missing: (R,) or (L,) bool; True = missing, whatever the value.
    """

    integers: Int64s | None = None
    strings: Sequence[bytes] | None = None
    codes: Int64s | None = None
    floats: Float32s | None = None
    lengths: Int64s | None = None
    missing: Flags | None = None

    def __len__(self) -> int:
        """Number of values: R, or L for a bag."""
        for values in (self.codes, self.integers, self.strings, self.floats):
            if values is not None:
                return len(values)
        return 0


@dataclass(frozen=True)
class Encoded:
    """A graph's inputs: `ids` int64 [R, S] holds raw64 values, `dense` float32 [R, D]."""

    ids: Int64s
    dense: Float32s


def encode(
    schema: pb.Schema, columns: Mapping[str, Column], rows: int, *, long_bags: Literal["cut", "refuse"]
) -> Encoded:
    """Encode rows under a schema, once; see `Encoder.encode`."""
    return Encoder(schema).encode(columns, rows, long_bags=long_bags)


@dataclass(frozen=True)
class _Place:
    """A feature and where its values go: a column of `dense`, or slots of `ids`."""

    feature: pb.Feature
    name: str
    column: int | None
    start: int
    length: int
    is_bag: bool


class Encoder:
    """The encoder of one schema, which is worked out once: for callers that encode request after request."""

    def __init__(self, schema: pb.Schema) -> None:
        places = layout(schema)
        self._names = frozenset(feature.name for feature in schema.features)
        self._slots, self._columns = places.slot_count, places.dense_count
        self._places = [
            _Place(
                feature,
                feature.name,
                places.dense.get(feature.name),
                *places.slots.get(feature.name, (0, 0)),
                feature.HasField("bag"),
            )
            for feature in schema.features
        ]

    def encode(self, columns: Mapping[str, Column], rows: int, *, long_bags: Literal["cut", "refuse"]) -> Encoded:
        """Encode `rows` rows, column by column.

        Args:
            columns: feature -> its values; each feature of the schema must stand there, and no other column may.
            rows: R; every column holds R values (a bag: R lengths).
            long_bags: "cut" keeps a bag's first `max_length` items (training), "refuse" is an error (serving).

        Raises:
            UnknownColumn, MissingColumn, WrongType, WrongLength, OutOfRange: one for each rule, naming the column.
        """
        for name in columns:
            if name not in self._names:
                raise UnknownColumn(
                    "every column is a feature of the schema",
                    found=f"column {name!r}",
                    where="columns",
                    remedy=f"Send only {sorted(self._names)}",
                )
        ids = np.full((rows, self._slots), MISSING, np.int64)
        dense = np.empty((rows, self._columns), np.float32)
        for place in self._places:
            feature, column = place.feature, columns.get(place.name)
            if column is None:
                raise MissingColumn(
                    "every feature of the schema has a column",
                    found=f"no column {place.name!r}",
                    where="columns",
                    remedy="Send it; mark values that are not known as missing",
                )
            if place.column is not None:
                dense[:, place.column] = _numbers(feature, column, rows)
                continue
            raw = _raw64(feature, column)
            if place.is_bag:
                ids[:, place.start : place.start + place.length] = _bag(feature, column, raw, rows, long_bags)
            else:
                _expect_no_lengths(feature, column)
                _expect_rows(feature, len(raw), rows)
                ids[:, place.start] = raw
        if np.isinf(dense).any():  # once for all columns: a look at each costs more than their encoding
            self._refuse_infinity(dense)
        return Encoded(ids, dense)

    def _refuse_infinity(self, dense: Float32s) -> None:
        row, column = (int(each) for each in np.argwhere(np.isinf(dense))[0])
        name = next(place.name for place in self._places if place.column == column)
        raise OutOfRange(
            "a number is finite, or NaN for missing",
            found=str(dense[row, column]),
            where=f"column {name!r}, row {row}",
            remedy="Send NaN where the value is not known",
        )


def _expect_rows(feature: pb.Feature, found: int, rows: int) -> None:
    if found != rows:
        raise WrongLength(
            "a column has one value per row",
            found=f"{found} values for {rows} rows",
            where=f"column {feature.name!r}",
            remedy="Send as many values as rows",
        )


def _expect_flags(feature: pb.Feature, missing: Flags, values: int) -> None:
    if len(missing) != values:
        raise WrongLength(
            "`missing` has one flag per value",
            found=f"{len(missing)} flags for {values} values",
            where=f"column {feature.name!r}",
            remedy="Send one byte per value, or none at all",
        )


def _expect_no_lengths(feature: pb.Feature, column: Column) -> None:
    if column.lengths is not None:
        raise WrongType(
            "only a bag has lengths",
            found="lengths",
            where=f"column {feature.name!r}",
            remedy="Send one value per row and no lengths",
        )


def _numbers(feature: pb.Feature, column: Column, rows: int) -> Float32s:
    """(R,) float32, NaN = missing. Integers are taken as numbers; strings are refused."""
    _expect_no_lengths(feature, column)
    if column.floats is not None:
        numbers = column.floats
    elif column.integers is not None:
        numbers = column.integers.astype(np.float32)
    else:
        raise _wrong_type(feature, "numbers", column)
    _expect_rows(feature, len(numbers), rows)
    if column.missing is not None:
        _expect_flags(feature, column.missing, len(numbers))
        numbers = np.where(column.missing, np.float32(np.nan), numbers)
    return numbers


def _raw64(feature: pb.Feature, column: Column) -> Int64s:
    """(R,) or (L,) int64: the values' raw64, `MISSING` where missing; range-checked where the schema says so."""
    if column.missing is not None:
        _expect_flags(feature, column.missing, len(column))
    if feature.values == pb.INTEGER:
        if column.integers is None:
            raise _wrong_type(feature, "integers", column)
        raw = column.integers
    else:
        if column.strings is None:
            raise _wrong_type(feature, "strings", column)
        raw = raw64_of_strings(column.strings)
        if column.codes is not None:
            raw = _decoded(feature, raw, column.codes, column.missing)
    if column.missing is not None:
        raw = np.where(column.missing, MISSING, raw)
    if feature.WhichOneof("encoding") == "id" and feature.id.out_of_range == pb.ERROR:
        outside = (offsets(raw, feature.id.first) >= np.uint64(feature.id.size)) & (raw != MISSING)
        if outside.any():
            position = int(np.flatnonzero(outside)[0])
            raise OutOfRange(
                f"an id lies in {told_range(feature.id.first, feature.id.size)}",
                found=str(raw[position]),
                where=f"column {feature.name!r}, value {position}",
                remedy="Mark ids that are not known as missing",
            )
    return raw


def _decoded(feature: pb.Feature, raw: Int64s, codes: Int64s, missing: Flags | None) -> Int64s:
    """(R,) or (L,) int64: the raw64 that each code points at; a missing value's code points nowhere."""
    if missing is not None:
        codes = np.where(missing, len(raw), codes)
        raw = np.append(raw, MISSING)
    outside = (codes < 0) | (codes >= len(raw))
    if outside.any():
        position = int(np.flatnonzero(outside)[0])
        raise OutOfRange(
            "a code points at one of the distinct strings",
            found=str(codes[position]),
            where=f"column {feature.name!r}, value {position}",
            remedy="Send the dictionary that the codes were made with",
        )
    return raw[codes]


def _bag(feature: pb.Feature, column: Column, raw: Int64s, rows: int, long_bags: Literal["cut", "refuse"]) -> Int64s:
    """(R, max_length) int64: each row's items from the left, padded with `MISSING`. Missing items are left out."""
    where, longest = f"column {feature.name!r}", feature.bag.max_length
    if column.lengths is None:
        raise WrongType(
            "a bag has lengths: items per row", found="none", where=where, remedy="Send `lengths` beside the values"
        )
    lengths = column.lengths
    _expect_rows(feature, len(lengths), rows)
    if ((lengths < 0) | (lengths > len(raw))).any() or int(lengths.sum()) != len(raw):
        raise WrongLength(
            "a bag's lengths are at least 0 and add up to its values",
            found=f"lengths of sum {sum(lengths.tolist())} over {len(raw)} values",
            where=where,
            remedy="Send one length per row",
        )
    row_of = np.repeat(np.arange(rows), lengths)
    kept = raw != MISSING
    raw, row_of = raw[kept], row_of[kept]
    counts = np.bincount(row_of, minlength=rows)
    if long_bags == "refuse" and len(counts) and int(counts.max()) > longest:
        row = int(counts.argmax())
        raise WrongLength(
            f"a bag holds at most {longest} items",
            found=f"{int(counts[row])} items",
            where=f"{where}, row {row}",
            remedy=f"Send the {longest} that matter most",
        )
    slot = np.arange(len(raw)) - np.repeat(np.cumsum(counts) - counts, counts)
    fits = slot < longest
    bag = np.full((rows, longest), MISSING, np.int64)
    bag[row_of[fits], slot[fits]] = raw[fits]
    return bag


def _wrong_type(feature: pb.Feature, expected: str, column: Column) -> WrongType:
    kinds = {"integers": column.integers, "strings": column.strings, "floats": column.floats}
    found = next((kind for kind, values in kinds.items() if values is not None), "no values")
    return WrongType(
        f"feature {feature.name!r} takes {expected}",
        found=found,
        where=f"column {feature.name!r}",
        remedy=f"Send the column as {expected}",
    )
