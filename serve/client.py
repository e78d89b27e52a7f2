"""Client: calls to a Scorer with numpy columns, and errors that are quorem's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import grpc
import numpy as np
from google.protobuf import json_format

from ..protos import manifest_pb2, scoring_pb2_grpc
from ..protos import scoring_pb2 as pb
from ..protos.encode import Column, Float32s
from ..protos.errors import Malformed, QuoremError, TooLarge, Unavailable, WrongType
from ..protos.ids import Int64s
from . import columns as wire
from .settings import Limits
from .statuses import ERROR_OF, Status

TIMEOUT_S = 30.0
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


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
    """The reply to one request.

    scores: (K,) float32, probabilities or logits; K is the number of rows, or the `top_k` best of them.
    indices: (K,) int64, the rows' positions in the request; without `top_k` 0, 1, 2, …
    candidate_ids: (K,) int64 or K strings, the caller's own; None where none were sent.
    timings: where the server's time went, nanoseconds.
    """

    model: str
    version: int
    scores: Float32s
    indices: Int64s
    candidate_ids: Int64s | list[bytes] | None
    timings: pb.Timings


class Failure(Protocol):
    """What an RPC error tells: grpc's class of it has no such methods, its instances do."""

    def code(self) -> grpc.StatusCode:
        """The status."""
        ...

    def details(self) -> str | None:
        """The server's text, or grpc's own."""
        ...


class Client:
    """One connection to a server; safe to share between threads.

    Every call raises InputError, NotFound, WrongSchema, Unimplemented or Unavailable for what the server refused, and
    Unavailable where it cannot be reached or does not answer within the time.
    """

    def __init__(self, endpoint: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.endpoint, self._timeout_s = endpoint, timeout_s
        self._channel = grpc.insecure_channel(endpoint, options=UNLIMITED)
        self._stub = scoring_pb2_grpc.ScorerStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def describe(self, model: str = "", *, version: int | None = None, label: str | None = None) -> Description:
        """What a model takes; an empty name means the only model there is."""
        reply = self._call(self._stub.Describe, pb.DescribeRequest(model=model, version=version, label=label))
        try:
            schema = json_format.Parse(reply.schema_json, manifest_pb2.Schema())
        except json_format.ParseError as error:
            raise Malformed(
                "a server describes its schema as a quorem.v1.Schema",
                found=str(error),
                where=self.endpoint,
                remedy="Install the server's version of quorem",
            ) from None
        return Description(
            model=reply.model,
            version=reply.version,
            fingerprint=reply.schema_fingerprint,
            schema=schema,
            limits=Limits(max_rows=reply.limits.max_rows, max_request_bytes=reply.limits.max_request_bytes),
        )

    def score(
        self,
        model: str,
        columns: Mapping[str, Column],
        rows: int,
        *,
        context: Mapping[str, Column] | None = None,
        version: int | None = None,
        label: str | None = None,
        candidate_ids: Int64s | Sequence[bytes] | None = None,
        top_k: int = 0,
        logit: bool = False,
        schema_fingerprint: str = "",
    ) -> Scores:
        """Score `rows` candidates: `columns` holds one value a row, `context` one value for all of them."""
        request = request_of(columns, rows, context)
        request.MergeFrom(
            pb.ScoreRequest(
                model=model,
                version=version,
                label=label,
                top_k=top_k,
                output=pb.LOGIT if logit else pb.PROBABILITY,
                schema_fingerprint=schema_fingerprint,
                candidate_ids=_ids(candidate_ids),
            )
        )
        reply: pb.ScoreResponse = self._call(self._stub.Score, request)
        scores = np.frombuffer(reply.scores, wire.FLOAT32)
        indices = np.frombuffer(reply.indices, wire.UINT32).astype(np.int64)
        echoed = reply.candidate_ids.WhichOneof("ids")
        ids = None
        if echoed == "int64s":
            ids = np.frombuffer(reply.candidate_ids.int64s, wire.INT64)
        elif echoed == "strings":
            ids = wire.split(reply.candidate_ids.strings, "candidate_ids")
        indices = indices if top_k else np.arange(len(scores))
        return Scores(reply.model, reply.version, scores, indices, ids, reply.timings)

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise error_of(error, self.endpoint) from None


def request_of(
    columns: Mapping[str, Column], rows: int, context: Mapping[str, Column] | None = None
) -> pb.ScoreRequest:
    """The columns of a request, packed; the rest is the caller's to fill in."""
    return pb.ScoreRequest(
        context=[wire.encode(name, column) for name, column in (context or {}).items()],
        candidates=[wire.encode(name, column) for name, column in columns.items()],
        rows=rows,
    )


def error_of(error: Failure, endpoint: str) -> QuoremError:
    """quorem's error for an RPC's: its class from the status, its text from the server."""
    status, details = Status(error.code().value[0]), error.details() or "no reason given"
    kind = ERROR_OF.get(status, QuoremError)
    if kind is Unavailable:
        return Unavailable(
            "the server answers",
            found=f"{error.code().name}: {details}",
            where=endpoint,
            remedy="Check that `quorem serve` runs there, and try again",
        )
    return kind(details, where=endpoint, remedy="Send fewer rows per call" if kind is TooLarge else "")


def _ids(ids: Int64s | Sequence[bytes] | None) -> pb.CandidateIds | None:
    if ids is None:
        return None
    if isinstance(ids, np.ndarray):
        if ids.dtype.kind != "i":
            raise WrongType("candidate ids are integers or strings", found=str(ids.dtype), where="candidate_ids")
        return pb.CandidateIds(int64s=ids.astype(wire.INT64).tobytes())
    return pb.CandidateIds(strings=wire.join(ids))
