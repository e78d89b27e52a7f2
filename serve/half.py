"""Half: the columns of one side of a request become the arrays of that side, as fast as callers let it.

Columns that hold a plain number for every row are joined, not decoded one by one; all others go through the encoder.
Legend: R rows of this side; S slots and D dense columns that its features fill.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..protos import manifest_pb2
from ..protos import scoring_pb2 as pb
from ..protos.encode import Column, Encoded, Encoder
from ..protos.errors import WrongLength
from ..protos.ids import MISSING, Int64s, offsets
from ..protos.schema import layout
from .columns import FLOAT32, INT64, decode


@dataclass(frozen=True)
class Part:
    """The encoder of some of a schema's features, and the slots of `ids` and columns of `dense` that they fill."""

    encoder: Encoder
    slots: Int64s
    dense: Int64s

    @property
    def width(self) -> int:
        """How many slots and columns they fill."""
        return len(self.slots) + len(self.dense)


class Half:
    """One side of requests that put the same features there; worked out once, for request after request."""

    def __init__(self, features: Sequence[manifest_pb2.Feature], part_of: Callable[[frozenset[str]], Part]) -> None:
        """Prepare for columns of these features, in the schema's order; `part_of` selects some of the schema's."""
        self.part = part_of(frozenset(feature.name for feature in features))
        places = layout(manifest_pb2.Schema(features=features))
        plain = [
            feature
            for feature in features
            if feature.name in places.slots and feature.values == manifest_pb2.INTEGER and not feature.HasField("bag")
        ]
        self._integers, self._floats = [feature.name for feature in plain], list(places.dense)
        self._others = places.slots.keys() - self._integers
        self._rest = part_of(frozenset(self._others))
        self._slots = np.array([places.slots[name][0] for name in self._integers], np.int64)
        own = [
            slot
            for name, (start, length) in places.slots.items()
            if name in self._others
            for slot in range(start, start + length)
        ]
        self._rest_slots = np.array(own, np.int64)
        ranges = {
            row: feature.id
            for row, feature in enumerate(plain)
            if feature.WhichOneof("encoding") == "id" and feature.id.out_of_range == manifest_pb2.ERROR
        }
        self._bounded = np.array(list(ranges), np.int64)
        self._firsts = np.array([each.first for each in ranges.values()], np.int64)[:, None]
        self._sizes = np.array([each.size for each in ranges.values()], np.uint64)[:, None]

    def encode(self, columns: Mapping[str, pb.Column], rows: int, *, shared: bool = False) -> Encoded:
        """The arrays of R rows: int64 [R, S] and float32 [R, D].

        Args:
            columns: of the features that this half was made for, by name.
            rows: R.
            shared: they are a context's.

        Raises:
            WrongLength: a context column of another length than one.
            WrongType, WrongLength, OutOfRange: as `Encoder.encode` and `columns.decode` say.
        """
        plain = self._plain(columns, rows)
        if plain is None:
            return self.part.encoder.encode(_decoded(columns, columns, shared), rows, long_bags="refuse")
        if not self._others:
            return plain
        rest = self._rest.encoder.encode(_decoded(columns, self._others, shared), rows, long_bags="refuse")
        ids = np.empty((rows, len(self.part.slots)), np.int64)
        ids[:, self._slots], ids[:, self._rest_slots] = plain.ids, rest.ids
        return Encoded(ids, plain.dense)

    def _plain(self, columns: Mapping[str, pb.Column], rows: int) -> Encoded | None:
        """What plain numbers fill; None where one of those columns has flags, lengths, or a value that is refused."""
        integers = [columns[name].int64s for name in self._integers]
        floats = [columns[name].float32s for name in self._floats]
        if not {*map(len, integers)} <= {8 * rows} or not {*map(len, floats)} <= {4 * rows}:
            return None
        for column in columns.values():
            if column.missing or column.lengths:
                return None
        raw = np.frombuffer(b"".join(integers), INT64).reshape(len(integers), rows)
        dense = np.frombuffer(b"".join(floats), FLOAT32).reshape(len(floats), rows)
        if len(self._bounded):
            bounded = raw[self._bounded]
            if ((offsets(bounded, self._firsts) >= self._sizes) & (bounded != MISSING)).any():
                return None
        if np.isinf(dense).any():
            return None
        return Encoded(np.ascontiguousarray(raw.T), np.ascontiguousarray(dense.T))


def _decoded(columns: Mapping[str, pb.Column], names: Iterable[str], shared: bool) -> dict[str, Column]:
    found = {name: decode(columns[name]) for name in names}
    for name, column in found.items() if shared else ():
        values = len(column) if column.lengths is None else len(column.lengths)
        if values != 1:
            raise WrongLength(
                "a context column has one value, which all candidates share",
                found=f"{values} values",
                where=f"context, column {name!r}",
                remedy="Send columns that differ between candidates in `candidates`",
            )
    return found
