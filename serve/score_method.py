"""Score: one context and N candidates in, N scores out; bytes become work whose end is bytes.

Legend: N candidates of a request; K of them in the reply: N, or the best `top_k`.
"""

from collections.abc import Sequence
from time import perf_counter_ns

import numpy as np

from ..protos import scoring_pb2 as pb
from ..protos.encode import Float32s
from ..protos.errors import WrongLength, WrongSchema, WrongType
from ..protos.ids import Int64s
from .call import Call
from .columns import FLOAT32, INT64, UINT32, join, packed, split
from .graph import CTR, LOGIT
from .messages import parse
from .model import Model
from .repository import Repository
from .score_form import ScoreForm
from .settings import Limits
from .work import Rows, Work


def prepare_score(repository: Repository, request: bytes, call: Call) -> Work:
    """Read a serialized ScoreRequest, to be answered with a serialized ScoreResponse.

    The best candidates are those of the greatest logits, whichever output is asked for.

    Raises:
        InputError: a request that is none, or columns that the model cannot take.
        NotFound, WrongSchema: another model, version or schema than is served.
    """
    started = perf_counter_ns()
    if cut := repository.score_forms.cut(request):
        return _of_form(*cut, request, call, started)
    asked = parse(pb.ScoreRequest, "quorem.v1.ScoreRequest", request)
    model = repository.selected(asked)
    call.model, call.version, call.rows = model.version.name, model.version.number, asked.rows
    _check(asked, model, repository.limits)
    output, forms = CTR if asked.output == pb.PROBABILITY else LOGIT, repository.score_forms

    def encode() -> Rows:
        rows = _encode(model, asked)
        forms.offer(request, model, rows.graph, asked)
        return rows

    def finish(values: Sequence[Float32s]) -> bytes:
        scores, *logits = values
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

    return Work(model, asked.rows, (output, LOGIT) if asked.top_k else (output,), encode, finish)


def _of_form(form: ScoreForm, parts: Sequence[bytes], request: bytes, call: Call, started: int) -> Work:
    """The work of a request that has a form; its columns are looked at one by one only where one is to be refused."""
    model = form.model
    call.model, call.version, call.rows = form.name, form.number, form.rows

    def general() -> Rows:
        return _encode(model, pb.ScoreRequest.FromString(request))

    def encode() -> Rows:
        graph, inputs = form.graph, form.inputs(parts)
        if inputs is None:
            return general()
        return Rows(
            graph,
            [inputs[name] for name in graph.names],
            lambda: general().encoded() if graph.is_row_wise else model.apart(inputs),
        )

    def finish(values: Sequence[Float32s]) -> bytes:
        return form.reply(parts, values[0], call, started)

    return Work(model, form.rows, form.outputs, encode, finish)


def _encode(model: Model, asked: pb.ScoreRequest) -> Rows:
    encoded = model.sides.encode(asked.context, asked.candidates, asked.rows)
    graph, arrays = model.pick(encoded)
    return Rows(graph, [arrays[name] for name in graph.names], lambda: encoded)


def _check(call: pb.ScoreRequest, model: Model, limits: Limits) -> None:
    """What is asked for, apart from the columns."""
    if call.schema_fingerprint and call.schema_fingerprint != model.fingerprint:
        raise WrongSchema(
            "a caller's schema is the served model's",
            found=f"fingerprint {call.schema_fingerprint[:64]!r} instead of {model.fingerprint!r}",
            where=f"model {model.version}",
            remedy="Call Describe and build requests for the schema that it returns",
        )
    model.check_rows(call.rows, limits, "request, rows")
    if call.output not in (pb.PROBABILITY, pb.LOGIT):
        raise WrongType(
            "an output is PROBABILITY or LOGIT", found=str(call.output), where="output", remedy="Ask for one of them"
        )


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
