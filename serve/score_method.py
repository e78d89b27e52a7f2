"""Score: one context and N candidates in, N scores out; a function from bytes to bytes.

Legend: N candidates of a request; K of them in the reply: N, or the best `top_k`.
"""

from time import perf_counter_ns

import numpy as np

from ..protos import scoring_pb2 as pb
from ..protos.errors import TooLarge, WrongLength, WrongSchema, WrongType
from ..protos.ids import Int64s
from .call import Call
from .columns import FLOAT32, INT64, UINT32, join, packed, split
from .graph import CTR, LOGIT
from .messages import parse
from .model import Model
from .repository import Repository
from .settings import Limits


def score(repository: Repository, request: bytes, call: Call) -> bytes:
    """Answer a serialized ScoreRequest with a serialized ScoreResponse.

    The best candidates are those of the greatest logits, whichever output is asked for.

    Raises:
        InputError: a request that is none, or columns that the model cannot take.
        NotFound, WrongSchema: another model, version or schema than is served.
        Overloaded, TooLate, Gone: no time for it.
    """
    started = perf_counter_ns()
    call.begin()
    asked = parse(pb.ScoreRequest, "quorem.v1.ScoreRequest", request)
    model = repository.selected(asked)
    call.model, call.version, call.rows = model.version.name, model.version.number, asked.rows
    _check(asked, model, repository.limits)
    output = CTR if asked.output == pb.PROBABILITY else LOGIT
    with repository.admission.enter(asked.rows, call):
        encoded = model.sides.encode(asked.context, asked.candidates, asked.rows)
        graph, inputs = model.pick(encoded)
        ready = perf_counter_ns()
        wanted = [output, LOGIT] if asked.top_k else [output]
        scores, *logits = repository.compute(graph, inputs, wanted, call)
        computed = perf_counter_ns()
    call.encode_ns, call.compute_ns = ready - started, computed - ready
    repository.statistics.observe(model, encoded, scores, logits=output == LOGIT)
    order = np.argsort(-logits[0], kind="stable")[: asked.top_k] if asked.top_k else None
    reply = pb.ScoreResponse(
        model=model.version.name,
        version=model.version.number,
        request_id=asked.request_id,
        scores=(scores if order is None else scores[order]).astype(FLOAT32, copy=False).tobytes(),
        candidate_ids=_echo(asked, order),
        indices=b"" if order is None else order.astype(UINT32).tobytes(),
    )
    reply.timings.queue_ns = call.queue_ns
    reply.timings.encode_ns = call.encode_ns
    reply.timings.compute_ns = call.compute_ns
    reply.timings.total_ns = perf_counter_ns() - started
    return reply.SerializeToString()


def _check(call: pb.ScoreRequest, model: Model, limits: Limits) -> None:
    """What is asked for, apart from the columns."""
    if call.schema_fingerprint and call.schema_fingerprint != model.fingerprint:
        raise WrongSchema(
            "a caller's schema is the served model's",
            found=f"fingerprint {call.schema_fingerprint[:64]!r} instead of {model.fingerprint!r}",
            where=f"model {model.version}",
            remedy="Call Describe and build requests for the schema that it returns",
        )
    check_rows(call.rows, model, limits, "request, rows")
    if call.output not in (pb.PROBABILITY, pb.LOGIT):
        raise WrongType(
            "an output is PROBABILITY or LOGIT", found=str(call.output), where="output", remedy="Ask for one of them"
        )


def check_rows(rows: int, model: Model, limits: Limits, where: str) -> None:
    """Refuse a request without rows, or with too many for the limits or for the model's slots.

    Raises:
        WrongLength, TooLarge.
    """
    if rows < 1:
        raise WrongLength("a request has at least one row", found=str(rows), where=where, remedy="Send one or more")
    if rows > (most := most_rows(model, limits)):
        raise TooLarge(
            f"a request for this model has at most {most} rows",
            found=str(rows),
            where=where,
            remedy="Send several requests, or serve with a greater --max-rows",
        )


def most_rows(model: Model, limits: Limits) -> int:
    """The rows that one request for a model may have."""
    return min(limits.max_rows, max(1, limits.max_slots // max(1, model.layout.slot_count)))


def _echo(call: pb.ScoreRequest, order: Int64s | None) -> pb.CandidateIds | None:
    """The caller's ids of the K candidates, in the order of the reply."""
    kind, where = call.candidate_ids.WhichOneof("ids"), "candidate_ids"
    if kind is None:
        return None
    integers = packed(call.candidate_ids.int64s, INT64, where) if kind == "int64s" else None
    strings = split(call.candidate_ids.strings, where) if kind == "strings" else []
    found = len(strings) if integers is None else len(integers)
    if found != call.rows:
        raise WrongLength(
            "there is one candidate id per row, or none at all",
            found=f"{found} ids for {call.rows} rows",
            where=where,
            remedy="Send as many ids as rows",
        )
    if order is None:
        return call.candidate_ids
    if integers is not None:
        return pb.CandidateIds(int64s=integers[order].tobytes())
    return pb.CandidateIds(strings=join([strings[position] for position in order]))
