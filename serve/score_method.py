"""Score: one context and N candidates in, N scores out; a function from bytes to bytes.

Legend: N candidates of a request; K of them in the reply: N, or the best `top_k`.
"""

from time import perf_counter_ns

import numpy as np

from ..protos import scoring_pb2 as pb
from ..protos.errors import TooLarge, Unimplemented, WrongLength, WrongSchema, WrongType
from ..protos.ids import Int64s
from .columns import FLOAT32, INT64, UINT32, join, packed, split
from .graph import CTR, LOGIT
from .messages import parse
from .model import Model
from .repository import Repository
from .settings import Limits


def score(repository: Repository, request: bytes) -> bytes:
    """Answer a serialized ScoreRequest with a serialized ScoreResponse.

    The best candidates are those of the greatest logits, whichever output is asked for. `queue_ns` is 0: a call is
    computed as soon as a thread has it.

    Raises:
        InputError: a request that is none, or columns that the model cannot take.
        NotFound, WrongSchema: another model, version or schema than is served.
    """
    started = perf_counter_ns()
    call = parse(pb.ScoreRequest, "quorem.v1.ScoreRequest", request)
    model = repository.selected(call)
    _check(call, model, repository.limits)
    graph, inputs = model.pick(model.sides.encode(call.context, call.candidates, call.rows))
    ready = perf_counter_ns()
    output = CTR if call.output == pb.PROBABILITY else LOGIT
    scores, *logits = graph.run(inputs, [output, LOGIT] if call.top_k else [output])
    computed = perf_counter_ns()
    order = np.argsort(-logits[0], kind="stable")[: call.top_k] if call.top_k else None
    reply = pb.ScoreResponse(
        model=model.version.name,
        version=model.version.number,
        request_id=call.request_id,
        scores=(scores if order is None else scores[order]).astype(FLOAT32, copy=False).tobytes(),
        candidate_ids=_echo(call, order),
        indices=b"" if order is None else order.astype(UINT32).tobytes(),
    )
    reply.timings.encode_ns = ready - started
    reply.timings.compute_ns = computed - ready
    reply.timings.total_ns = perf_counter_ns() - started
    return reply.SerializeToString()


def unimplemented_stream() -> None:
    """Refuse ScoreStream.

    Raises:
        Unimplemented: always; a stream of calls is not served yet.
    """
    raise Unimplemented(
        "this server has no ScoreStream",
        where="quorem.v1.Scorer/ScoreStream",
        remedy="Call Score, many at a time over one channel",
    )


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
