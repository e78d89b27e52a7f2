"""Sides: one context and N candidates become the arrays that a graph reads.

Context columns are encoded once, one row of them, and repeated only for a graph that reads rows.
Legend: N candidates; S slots of `ids`; D columns of `dense`.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

import numpy as np

from ..protos import manifest_pb2
from ..protos import scoring_pb2 as pb
from ..protos.encode import Encoded, Encoder
from ..protos.errors import InputError, MissingColumn, UnknownColumn
from ..protos.schema import layout
from .half import Half, Part

TOLD_NAMES = 20  # an error names this many features, not thousands


@dataclass(frozen=True)
class Apart:
    """A request whose sides were not joined: the arrays of one context row and of N candidates, and what they fill."""

    context: Encoded
    candidates: Encoded
    parts: tuple[Part, Part]

    def whole(self) -> Encoded:
        """The same as rows, the context repeated; `ids` int64 [N, S] and `dense` float32 [N, D]."""
        context, candidates, rows = *self.parts, len(self.candidates.ids)
        ids = np.empty((rows, len(context.slots) + len(candidates.slots)), np.int64)
        dense = np.empty((rows, len(context.dense) + len(candidates.dense)), np.float32)
        for part, side in ((context, self.context), (candidates, self.candidates)):
            ids[:, part.slots], dense[:, part.dense] = side.ids, side.dense
        return Encoded(ids, dense)


class Sides:
    """The encoder of one schema's requests.

    parts: the schema's context features, and its candidate features.
    """

    def __init__(self, schema: manifest_pb2.Schema) -> None:
        self._schema, self._layout = schema, layout(schema)
        self._names = frozenset(feature.name for feature in schema.features)
        self._context = frozenset(each.name for each in schema.features if each.side == manifest_pb2.CONTEXT)
        self._part = lru_cache(maxsize=64)(self._select)  # callers split their features in few ways
        self._half = lru_cache(maxsize=64)(self._halve)
        self.parts = self._part(self._context), self._part(self._names - self._context)

    def apart(self, context: Encoded, candidates: Encoded) -> Apart:
        """Rows' candidates under one row's context, each given as whole rows."""
        ours, theirs = (
            Encoded(rows.ids.take(part.slots, axis=1), rows.dense.take(part.dense, axis=1))
            for rows, part in zip((context, candidates), self.parts, strict=True)
        )
        return Apart(ours, theirs, self.parts)

    def encode(self, context: Collection[pb.Column], candidates: Collection[pb.Column], rows: int) -> Encoded | Apart:
        """Encode a request: apart where the context holds the schema's context features and no others, else as rows.

        Raises:
            UnknownColumn, MissingColumn: a feature that the schema lacks, or the request.
            InputError: a feature twice.
            WrongLength: a context column of another length than one.
            WrongType, WrongLength, OutOfRange: as `Encoder.encode` and `columns.decode` say.
        """
        shared, own = {each.name: each for each in context}, {each.name: each for each in candidates}
        if len(context) + len(candidates) != len(self._names) or shared.keys() | own.keys() != self._names:
            self._refuse(context, candidates)
        theirs = self._half(frozenset(own))
        if not shared:
            return theirs.encode(own, rows)
        ours = self._half(frozenset(shared))
        encoded = Apart(ours.encode(shared, 1, shared=True), theirs.encode(own, rows), (ours.part, theirs.part))
        return encoded if shared.keys() == self._context else encoded.whole()

    def _refuse(self, context: Iterable[pb.Column], candidates: Iterable[pb.Column]) -> NoReturn:
        """Tell what is wrong with columns whose names are not those of the features, each once."""
        seen = set[str]()
        for columns, side in ((context, "context"), (candidates, "candidates")):
            for column in columns:
                if column.name not in self._names:
                    raise UnknownColumn(
                        "every column is a feature of the schema",
                        found=f"column {column.name[:64]!r}",
                        where=side,
                        remedy=f"Send only {told(self._names)}",
                    )
                if column.name in seen:
                    raise InputError(
                        "a feature stands once, in the context or in the candidates",
                        found=f"{column.name!r} twice",
                        where=side,
                        remedy="Send it on one side only",
                    )
                seen.add(column.name)
        raise MissingColumn(
            "every feature of the schema stands in the context or in the candidates",
            found=f"no column {told(self._names - seen)}",
            where="request",
            remedy="Send it; mark values that are not known as missing",
        )

    def _halve(self, names: frozenset[str]) -> Half:
        return Half([feature for feature in self._schema.features if feature.name in names], self._part)

    def _select(self, names: frozenset[str]) -> Part:
        features = [feature for feature in self._schema.features if feature.name in names]
        slots = [slot for start, length in self._layout.slots.values() for slot in range(start, start + length)]
        owners = [name for name, (_, length) in self._layout.slots.items() for _ in range(length)]
        return Part(
            Encoder(manifest_pb2.Schema(features=features)),
            np.array([slot for slot, name in zip(slots, owners, strict=True) if name in names], np.int64),
            np.array([column for name, column in self._layout.dense.items() if name in names], np.int64),
        )


def told(names: Iterable[str]) -> str:
    """Names for an error's text: the first few, sorted."""
    ordered = sorted(names)
    rest = f" and {len(ordered) - TOLD_NAMES} more" if len(ordered) > TOLD_NAMES else ""
    return str(ordered[:TOLD_NAMES]) + rest
