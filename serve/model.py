"""Model: one version, opened: its manifest, its graphs, and a proof that they give the scores of the export."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..protos import manifest, manifest_pb2
from ..protos.encode import Encoded, Float32s
from ..protos.errors import OutOfRange, TooLarge, WrongLength
from ..protos.ids import MISSING, offsets
from ..protos.schema import fingerprint, layout, told_range
from . import golden, tuning
from .graph import LOGIT, Graph, told
from .settings import Device, Limits, Version
from .sides import Apart, Sides
from .survey import GRAPH, RANK

IDS, DENSE = "ids", "dense"
CONTEXT_IDS, CONTEXT_DENSE = "context_ids", "context_dense"
CANDIDATE_IDS, CANDIDATE_DENSE = "candidate_ids", "candidate_dense"
MOST_SQUARES = 4096  # numbers; of more BLAS makes a matter for several threads
WARM_ROWS = 256
WARM_CONTEXTS = 8  # of golden rows, each with one candidate and with many
Inputs = dict[str, npt.NDArray[Any]]


class Model:
    """A version that can be run; safe to call from several threads.

    Legend: B rows; N candidates of one context; S slots of `ids`; D columns of `dense`.
    """

    def __init__(self, version: Version, device: Device) -> None:
        """Open a version whose digests were verified before.

        Raises:
            ArtifactError: a bundle that cannot be trusted.
            Unavailable: no such device.
        """
        self.version = version
        self.manifest = manifest.read(version.directory, verify_digests=False)
        self.schema = self.manifest.schema
        self.fingerprint = fingerprint(self.schema)
        self.layout = layout(self.schema)
        self.sides = Sides(self.schema)
        rows = {name: (dtype, (None, width)) for name, (dtype, width) in self.inputs.items()}
        self._rows = Graph(version.directory / GRAPH, rows, device)
        self._rank_from = tuning.read(version.directory).rank_from
        self._rank = self._open_rank(device)

    @cached_property
    def inputs(self) -> dict[str, tuple[np.dtype[Any], int]]:
        """The row-wise graph's inputs: name -> (dtype, width); `ids` [B, S] and `dense` [B, D], left out at width 0."""
        widths = {
            IDS: (np.dtype(np.int64), self.layout.slot_count),
            DENSE: (np.dtype(np.float32), len(self.layout.dense)),
        }
        return {name: each for name, each in widths.items() if each[1]}

    @cached_property
    def bounded(self) -> list[tuple[str, int, int, manifest_pb2.IdRange]]:
        """The features whose ids are refused out of range: name, first slot, number of slots, range."""
        return [
            (feature.name, *self.layout.slots[feature.name], feature.id)
            for feature in self.schema.features
            if feature.WhichOneof("encoding") == "id" and feature.id.out_of_range == manifest_pb2.ERROR
        ]

    @cached_property
    def plain(self) -> dict[str, str]:
        """The field of a Column that holds each feature's numbers; empty where one has strings, or bags."""
        features, numbers = self.schema.features, self.layout.dense
        if any(each.HasField("bag") or each.values == manifest_pb2.STRING for each in features):
            return {}
        return {each.name: "float32s" if each.name in numbers else "int64s" for each in features}

    def most_rows(self, limits: Limits) -> int:
        """The rows that one request may have."""
        return min(limits.max_rows, max(1, limits.max_slots // max(1, self.layout.slot_count)))

    def check_rows(self, rows: int, limits: Limits, where: str) -> None:
        """Refuse a request without rows, or with too many for the limits or for the model's slots.

        Raises:
            WrongLength, TooLarge.
        """
        if rows < 1:
            raise WrongLength("a request has at least one row", found=str(rows), where=where, remedy="Send one or more")
        if rows > (most := self.most_rows(limits)):
            raise TooLarge(
                f"a request for this model has at most {most} rows",
                found=str(rows),
                where=where,
                remedy="Send several requests, or serve with a greater --max-rows",
            )

    def check(self, inputs: Inputs) -> None:
        """Refuse what the schema wants refused in rows that no encoder has seen: a graph cannot raise.

        Args:
            inputs: of the row-wise graph.

        Raises:
            OutOfRange: an id, or a number that is infinite.
        """
        for name, start, length, held in self.bounded:  # of features, so that there are ids
            raw = inputs[IDS][:, start : start + length]
            outside = (offsets(raw, held.first) >= np.uint64(held.size)) & (raw != MISSING)
            if outside.any():
                row, slot = (int(each) for each in np.argwhere(outside)[0])
                raise OutOfRange(
                    f"an id of feature {name!r} lies in {told_range(held.first, held.size)}",
                    found=str(raw[row, slot]),
                    where=f"input {IDS!r}, row {row}, slot {start + slot}",
                    remedy=f"Send {MISSING} for an id that is not known",
                )
        dense = inputs.get(DENSE)
        if dense is not None and not are_finite(dense):
            row, column = (int(each) for each in np.argwhere(np.isinf(dense))[0])
            raise OutOfRange(
                "a number is finite, or NaN for missing",
                found=str(dense[row, column]),
                where=f"input {DENSE!r}, row {row}, column {column}",
                remedy="Send NaN where the value is not known",
            )

    @property
    def by_rows(self) -> Graph:
        """The row-wise graph."""
        return self._rows

    def pick(self, encoded: Encoded | Apart) -> tuple[Graph, Inputs]:
        """The graph that scores these arrays soonest, and its inputs: by N, where one context has N candidates."""
        if isinstance(encoded, Apart):
            if self._rank and self._rank_from is not None and len(encoded.candidates.ids) >= self._rank_from:
                return self._rank, _rank_inputs(encoded)
            encoded = encoded.whole()
        return self._rows, {IDS: encoded.ids, DENSE: encoded.dense}

    def apart(self, inputs: Inputs) -> Apart:
        """What the inputs of the ranking graph were before they were picked."""
        rows = max(len(inputs[name]) for name in (CANDIDATE_IDS, CANDIDATE_DENSE) if name in inputs)
        one, many = np.empty((1, 0)), np.empty((rows, 0))
        return Apart(
            Encoded(inputs.get(CONTEXT_IDS, one), inputs.get(CONTEXT_DENSE, one)),
            Encoded(inputs.get(CANDIDATE_IDS, many), inputs.get(CANDIDATE_DENSE, many)),
            self.sides.parts,
        )

    def run(self, encoded: Encoded, outputs: Sequence[str]) -> list[Float32s]:
        """The named outputs of the row-wise graph, each (B,) float32."""
        return self._rows.run({IDS: encoded.ids, DENSE: encoded.dense}, outputs)

    def warm(self) -> None:
        """Run golden rows, alone and together, through every graph, and compare the logits with the stored ones.

        Raises:
            ParityError: a logit further off than the bundle's parity bound.
            Malformed, WrongShape: golden rows that are not the model's.
        """
        with told("a bundle's graphs take its golden rows", self.version.directory):
            self._prove()

    def _prove(self) -> None:
        rows, bound = golden.read(self.version.directory, self.layout), self.manifest.export.parity_bound
        count = len(rows.logits)
        for start in (0, *range(1, count, WARM_ROWS)):
            part = slice(start, 1 if start == 0 else start + WARM_ROWS)
            rows.check(self.run(rows.take(part), [LOGIT])[0], part, bound)
        if not self._rank:
            return
        many = slice(0, min(count, WARM_ROWS))
        for owner in dict.fromkeys(np.linspace(0, many.stop - 1, WARM_CONTEXTS, dtype=int).tolist()):
            own = slice(owner, owner + 1)
            for part in (own, many):  # under its context only the owner's logit is known, wherever it stands
                apart = self.sides.apart(rows.take(own), rows.take(part))
                (found,) = self._rank.run(_rank_inputs(apart), [LOGIT])
                rows.check(found[owner - part.start :][:1], own, bound)

    def _open_rank(self, device: Device) -> Graph | None:
        """The ranking graph where there is one and it may be of use.

        Not on CUDA: a device copies the tables for every session, where the CPU's sessions share the file's pages.
        """
        listed = any(graph.file == RANK for graph in self.manifest.export.graphs)
        context, candidates = self.sides.parts
        if not listed or self._rank_from is None or device == "cuda" or not (context.width and candidates.width):
            return None
        inputs = {
            CONTEXT_IDS: (np.dtype(np.int64), (1, len(context.slots))),
            CONTEXT_DENSE: (np.dtype(np.float32), (1, len(context.dense))),
            CANDIDATE_IDS: (np.dtype(np.int64), (None, len(candidates.slots))),
            CANDIDATE_DENSE: (np.dtype(np.float32), (None, len(candidates.dense))),
        }
        return Graph(self.version.directory / RANK, inputs, device)


def are_finite(numbers: Float32s) -> bool:
    """Whether no number is infinite; NaN is a missing one. `isinf` would look at each, and a second call at its flags.

    The sum of the squares of numbers that are not finite is none either, which is found at a glance; the two extremes
    of numbers of which not all are NaN are numbers.
    """
    if numbers.size <= MOST_SQUARES and np.vdot(numbers, numbers) < np.inf:
        return True
    if not numbers.size or (np.fmax.reduce(numbers, None) < np.inf and np.fmin.reduce(numbers, None) > -np.inf):
        return True
    return not np.count_nonzero(np.isinf(numbers))


def _rank_inputs(encoded: Apart) -> Inputs:
    return {
        CONTEXT_IDS: encoded.context.ids,
        CONTEXT_DENSE: encoded.context.dense,
        CANDIDATE_IDS: encoded.candidates.ids,
        CANDIDATE_DENSE: encoded.candidates.dense,
    }
