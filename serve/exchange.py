"""Exchange: what a client asks a Scorer for, and what it makes of the replies.

Legend: K scores of a reply: as many as rows were sent, or the `top_k` best of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf import json_format

from ..protos import manifest_pb2
from ..protos import scoring_pb2 as pb
from ..protos.encode import Column, Float32s
from ..protos.errors import Malformed, QuoremError, WrongType
from ..protos.ids import Int64s
from . import columns as wire
from .rows import Batch
from .settings import Limits


@dataclass(frozen=True)
class Description:
    """A served version: its schema, the schema's fingerprint, and what one request may ask for."""

    model: str
    version: int
    fingerprint: str
    schema: manifest_pb2.Schema
    limits: Limits


@dataclass(frozen=True)
class Scores:
    """The reply to one request, or to all the calls that many rows were sent in.

    scores: (K,) float32, probabilities or logits.
    indices: (K,) int64, the rows' positions in the request; without `top_k` 0, 1, 2, …
    candidate_ids: (K,) int64 or K strings, the caller's own; None where none were sent.
    timings: where the server's time went, nanoseconds; of several calls the sum.
    """

    model: str
    version: int
    scores: Float32s
    indices: Int64s
    candidate_ids: Int64s | list[bytes] | None
    timings: pb.Timings


class Gathering:
    """The scores of many calls to one version, each written to its rows' place in one array."""

    def __init__(self, rows: int) -> None:
        self._scores, self._timings, self._filled = np.empty(rows, np.float32), pb.Timings(), 0

    def add(self, reply: Scores) -> None:
        """Take the reply to the next rows."""
        end = self._filled + len(reply.scores)
        self._scores[self._filled : end] = reply.scores
        self._filled = end
        for field in pb.Timings.DESCRIPTOR.fields:
            setattr(self._timings, field.name, getattr(self._timings, field.name) + getattr(reply.timings, field.name))

    def scores(self, served: Description) -> Scores:
        """All of them."""
        return Scores(served.model, served.version, self._scores, np.arange(len(self._scores)), None, self._timings)


def request_of(
    columns: Mapping[str, Column],
    rows: int,
    context: Mapping[str, Column] | None = None,
    *,
    model: str = "",
    version: int | None = None,
    label: str | None = None,
    candidate_ids: Int64s | Sequence[bytes] | None = None,
    top_k: int = 0,
    logit: bool = False,
    schema_fingerprint: str = "",
) -> pb.ScoreRequest:
    """A request, its columns packed.

    Raises:
        WrongType: candidate ids that are neither integers nor strings.
    """
    return pb.ScoreRequest(
        model=model,
        version=version,
        label=label,
        schema_fingerprint=schema_fingerprint,
        context=[wire.encode(name, column) for name, column in (context or {}).items()],
        candidates=[wire.encode(name, column) for name, column in columns.items()],
        rows=rows,
        candidate_ids=_packed(candidate_ids),
        top_k=top_k,
        output=pb.LOGIT if logit else pb.PROBABILITY,
    )


def scores_of(reply: pb.ScoreResponse, request: pb.ScoreRequest, endpoint: str) -> Scores:
    """A reply, unpacked.

    Raises:
        Malformed: not as many scores as were asked for.
    """
    scores = np.frombuffer(reply.scores, wire.FLOAT32)
    expected = min(request.rows, request.top_k) if request.top_k else request.rows
    if len(scores) != expected:
        raise Malformed(f"a reply holds {expected} scores", found=str(len(scores)), where=endpoint)
    indices = np.frombuffer(reply.indices, wire.UINT32).astype(np.int64) if request.top_k else np.arange(len(scores))
    echoed = reply.candidate_ids.WhichOneof("ids")
    ids = None
    if echoed == "int64s":
        ids = np.frombuffer(reply.candidate_ids.int64s, wire.INT64)
    elif echoed == "strings":
        ids = wire.split(reply.candidate_ids.strings, "candidate_ids")
    return Scores(reply.model, reply.version, scores, indices, ids, reply.timings)


def description_of(reply: pb.DescribeResponse, endpoint: str) -> Description:
    """A description, unpacked.

    Raises:
        Malformed: its schema is none that this version of quorem knows.
    """
    try:
        schema = json_format.Parse(reply.schema_json, manifest_pb2.Schema())
    except json_format.ParseError as error:
        raise Malformed(
            "a server describes its schema as a quorem.v1.Schema",
            found=str(error),
            where=endpoint,
            remedy="Install the server's version of quorem",
        ) from None
    return Description(
        model=reply.model,
        version=reply.version,
        fingerprint=reply.schema_fingerprint,
        schema=schema,
        limits=Limits(max_rows=reply.limits.max_rows, max_request_bytes=reply.limits.max_request_bytes),
    )


def placed(error: QuoremError, batch: Batch) -> QuoremError:
    """An error of one call among many, with the rows that the call held."""
    error.where = f"{error.where}, rows {batch.first} to {batch.first + batch.rows - 1} (from 0)"
    return error


def _packed(ids: Int64s | Sequence[bytes] | None) -> pb.CandidateIds | None:
    if ids is None:
        return None
    if isinstance(ids, np.ndarray):
        if ids.dtype.kind != "i":
            raise WrongType("candidate ids are integers or strings", found=str(ids.dtype), where="candidate_ids")
        return pb.CandidateIds(int64s=ids.astype(wire.INT64).tobytes())
    return pb.CandidateIds(strings=wire.join(ids))
