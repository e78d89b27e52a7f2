"""ScoreForm: a ScoreRequest without its values, read once for all requests that are otherwise equal.

Only requests of plain numbers have one: without strings, bags, flags and `top_k`; all others are read as they come.
A message is its records, one after the other, so that one which has a form's bytes wherever values do not stand says
what the form says.
Legend: N candidates of a request.
"""

import struct
from collections.abc import Iterator, Sequence
from itertools import chain
from time import perf_counter_ns

from google.protobuf.message import Message

from ..protos import scoring_pb2 as pb
from ..protos.encode import Float32s
from .call import Call
from .columns import FLOAT32
from .graph import CTR, LOGIT, Graph
from .model import Inputs, Model
from .plain_numbers import PlainNumbers

MOST, LONGEST = 1024, 8192  # forms that are remembered: one for each N; bytes of one
MOST_OFFERS, MOST_SIZES = 8, 4 * MOST  # of one size; sizes
REQUEST_ID = 1  # its place among the parts of a request; the candidates' ids are the last but one
TIMINGS = pb.ScoreResponse(timings=pb.Timings()).SerializeToString()[:1]  # begins their record; its length is a byte


class ScoreForm:
    """What a request asks of a model, and how it is to be answered.

    rows: N.
    outputs: of the graph.
    size: bytes of a request of this form.
    length: of them, those that are the form's.
    """

    def __init__(self, model: Model, graph: Graph, asked: pb.ScoreRequest) -> None:
        """Read a request of plain numbers that this graph of the model scores."""
        self.model, self.graph, self.rows = model, graph, asked.rows
        self.name, self.number = model.version.name, model.version.number
        self.outputs = (CTR if asked.output == pb.PROBABILITY else LOGIT,)
        records = list(_records(asked))
        marks, sizes = [mark for mark, _ in records], [size for _, size in records]
        self.length, self.size = sum(map(len, marks)), sum(map(len, marks)) + sum(sizes)
        self._first, self._marks = marks[0], tuple(marks)
        self._parts = struct.Struct("".join(f"{len(mark)}s{size}s" for mark, size in records))
        names = [column.name for column in chain(asked.context, asked.candidates)]
        places = {name: 3 + 2 * place for place, name in enumerate(names)}
        context = frozenset(names[: len(asked.context)])
        self._ids, self._dense = (
            PlainNumbers(model, graph, places, context, self.rows, ids=is_ids) for is_ids in (True, False)
        )
        self._echo = len(places) * 2 + 3
        nothing = bytes(FLOAT32.itemsize * self.rows)
        named = pb.ScoreResponse(model=self.name, version=self.number, request_id=asked.request_id)
        echoed = pb.ScoreResponse(candidate_ids=asked.candidate_ids if asked.HasField("candidate_ids") else None)
        self._head = _before(named, asked.request_id.encode())
        self._before_scores = _before(pb.ScoreResponse(scores=nothing), nothing)
        self._before_ids = _before(echoed, asked.candidate_ids.int64s)

    def cut(self, request: bytes) -> Sequence[bytes] | None:
        """The parts of a request of this form; None for any other of its size, and for some of this form."""
        if not request.startswith(self._first):
            return None
        parts = self._parts.unpack(request)
        return parts if parts[::2] == self._marks and parts[REQUEST_ID].isascii() else None

    def inputs(self, parts: Sequence[bytes]) -> Inputs | None:
        """The inputs of the graph; None where a value is to be refused."""
        found: Inputs = {}
        return found if self._ids.inputs(parts, found) and self._dense.inputs(parts, found) else None

    def reply(self, parts: Sequence[bytes], scores: Float32s, call: Call, started: int) -> bytes:
        """The serialized ScoreResponse, from (N,) scores: its fields stand in the order of theirs."""
        times = pb.Timings(
            queue_ns=call.queue_ns,
            encode_ns=call.encode_ns,
            compute_ns=call.compute_ns,
            total_ns=perf_counter_ns() - started,
        ).SerializeToString()
        values = (self._before_scores, scores.tobytes(), self._before_ids, parts[self._echo])
        return b"".join((self._head, parts[REQUEST_ID], *values, TIMINGS, bytes((len(times),)), times))


class ScoreForms:
    """The forms of requests, remembered while what they ask of is served."""

    def __init__(self) -> None:
        self._by_size: dict[int, list[ScoreForm]] = {}
        self._seen: dict[int, int] = {}  # requests of a size that were offered
        self._count = 0

    def cut(self, request: bytes) -> tuple[ScoreForm, Sequence[bytes]] | None:
        """The form and the parts of a serialized request, if it need not be parsed."""
        for form in self._by_size.get(len(request), ()):
            if parts := form.cut(request):
                return form, parts
        return None

    def offer(self, request: bytes, model: Model, graph: Graph, asked: pb.ScoreRequest) -> None:
        """Remember the form of a request that was scored, if it has one; all others are forgotten if there are many.

        The first request of a size is left: it may be the only one. So are those after a few, which may never have one.
        """
        size = len(request)
        if self._count >= MOST or len(self._seen) >= MOST_SIZES:
            self._by_size, self._seen, self._count = {}, {}, 0
        self._seen[size] = seen = self._seen.get(size, 0) + 1
        if not 1 < seen <= MOST_OFFERS or not _is_plain(asked, model) or self.cut(request):
            return
        form = ScoreForm(model, graph, asked)
        if form.length <= LONGEST and form.size == size and form.cut(request):
            self._by_size.setdefault(size, []).append(form)
            self._count += 1


def _is_plain(asked: pb.ScoreRequest, model: Model) -> bool:
    """Whether a request that was scored holds nothing but packed numbers, of which each stands for itself."""
    kinds, columns = model.plain, (*asked.context, *asked.candidates)
    if not kinds or asked.top_k or asked.candidate_ids.HasField("strings") or not asked.request_id.isascii():
        return False
    if any(column.missing or column.lengths for column in columns):
        return False
    return all(column.WhichOneof("values") == kinds[column.name] for column in columns)


def _records(asked: pb.ScoreRequest) -> Iterator[tuple[bytes, int]]:
    """The bytes before each value of a request, and its size: its id, columns, candidates' ids; then the rest."""
    request_id, ids = asked.request_id.encode(), asked.candidate_ids.int64s
    yield _before(_only(asked, "model", "version", "label", "request_id"), request_id), len(request_id)
    before = _only(asked, "schema_fingerprint").SerializeToString()
    columns = [(pb.ScoreRequest(context=[column]), column) for column in asked.context]
    columns += [(pb.ScoreRequest(candidates=[column]), column) for column in asked.candidates]
    for message, column in columns:
        value = column.int64s or column.float32s
        yield before + _before(message, value), len(value)
        before = b""
    yield _before(_only(asked, "rows", "candidate_ids"), ids), len(ids)
    yield _only(asked, "output").SerializeToString(), 0


def _only(asked: pb.ScoreRequest, *names: str) -> pb.ScoreRequest:
    """A request's fields of these names."""
    return pb.ScoreRequest(**{field.name: value for field, value in asked.ListFields() if field.name in names})


def _before(message: Message, value: bytes) -> bytes:
    """What stands before the value that is a message's last."""
    return message.SerializeToString().removesuffix(value)
