"""Sides: one context and N candidates become the arrays that a graph reads.

Context columns are encoded once, one row of them, and repeated afterwards.
Legend: N candidates; S slots of `ids`; D columns of `dense`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..protos import manifest_pb2
from ..protos import scoring_pb2 as pb
from ..protos.encode import Column, Encoded, Encoder
from ..protos.errors import InputError, MissingColumn, UnknownColumn, WrongLength
from ..protos.ids import Int64s
from ..protos.schema import layout
from .columns import decode

TOLD_NAMES = 20  # an error names this many features, not thousands


@dataclass(frozen=True)
class _Part:
    """The encoder of some of a schema's features, and the slots of `ids` and columns of `dense` that they fill."""

    encoder: Encoder
    slots: Int64s
    dense: Int64s


class Sides:
    """The encoder of one schema's requests."""

    def __init__(self, schema: manifest_pb2.Schema) -> None:
        self._schema, self._layout, self._whole = schema, layout(schema), Encoder(schema)
        self._names = frozenset(feature.name for feature in schema.features)
        self._part = lru_cache(maxsize=64)(self._select)  # callers split their features in few ways

    def encode(self, context: Iterable[pb.Column], candidates: Iterable[pb.Column], rows: int) -> Encoded:
        """Encode a request; `ids` int64 [N, S] and `dense` float32 [N, D].

        Raises:
            UnknownColumn, MissingColumn: a feature that the schema lacks, or the request.
            InputError: a feature twice.
            WrongLength: a context column of another length than one.
            WrongType, WrongLength, OutOfRange: as `Encoder.encode` and `columns.decode` say.
        """
        shared, own = dict[str, Column](), dict[str, Column]()
        for columns, found, side in ((context, shared, "context"), (candidates, own, "candidates")):
            for column in columns:
                name = column.name
                if name not in self._names:
                    raise UnknownColumn(
                        "every column is a feature of the schema",
                        found=f"column {name[:64]!r}",
                        where=side,
                        remedy=f"Send only {told(self._names)}",
                    )
                if name in shared or name in own:
                    raise InputError(
                        "a feature stands once, in the context or in the candidates",
                        found=f"{name!r} twice",
                        where=side,
                        remedy="Send it on one side only",
                    )
                found[name] = decode(column)
        if missing := self._names - shared.keys() - own.keys():
            raise MissingColumn(
                "every feature of the schema stands in the context or in the candidates",
                found=f"no column {told(missing)}",
                where="request",
                remedy="Send it; mark values that are not known as missing",
            )
        if not shared:
            return self._whole.encode(own, rows, long_bags="refuse")
        for name, column in shared.items():
            values = len(column) if column.lengths is None else len(column.lengths)
            if values != 1:
                raise WrongLength(
                    "a context column has one value, which all candidates share",
                    found=f"{values} values",
                    where=f"context, column {name!r}",
                    remedy="Send columns that differ between candidates in `candidates`",
                )
        ids = np.empty((rows, self._layout.slot_count), np.int64)
        dense = np.empty((rows, self._layout.dense_count), np.float32)
        for columns, count in ((shared, 1), (own, rows)):
            part = self._part(frozenset(columns))
            encoded = part.encoder.encode(columns, count, long_bags="refuse")
            ids[:, part.slots], dense[:, part.dense] = encoded.ids, encoded.dense
        return Encoded(ids, dense)

    def _select(self, names: frozenset[str]) -> _Part:
        features = [feature for feature in self._schema.features if feature.name in names]
        slots = [slot for start, length in self._layout.slots.values() for slot in range(start, start + length)]
        owners = [name for name, (_, length) in self._layout.slots.items() for _ in range(length)]
        return _Part(
            Encoder(manifest_pb2.Schema(features=features)),
            np.array([slot for slot, name in zip(slots, owners, strict=True) if name in names], np.int64),
            np.array([column for name, column in self._layout.dense.items() if name in names], np.int64),
        )


def told(names: Iterable[str]) -> str:
    """Names for an error's text: the first few, sorted."""
    ordered = sorted(names)
    rest = f" and {len(ordered) - TOLD_NAMES} more" if len(ordered) > TOLD_NAMES else ""
    return str(ordered[:TOLD_NAMES]) + rest
