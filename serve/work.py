"""Work: a request for scores that was read and checked, apart from its computation; `answer` does one by itself."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns

from ..protos.encode import Encoded, Float32s
from .call import Call
from .graph import LOGIT, Graph, Numbers
from .model import Inputs, Model
from .repository import Repository
from .sides import Apart


@dataclass(slots=True)
class Rows:
    """A request's rows.

    graph: that scores them.
    inputs: of the graph, in the order of its names: the numbers of the rows, one row after the other.
    encoded: the same, as they were encoded.
    """

    graph: Graph
    inputs: Sequence[Numbers]
    encoded: Callable[[], Encoded | Apart]


@dataclass(slots=True)
class Work:
    """What a request asks for; rows of one graph, with the same outputs and the same check, may be computed together.

    rows: of the request, at least one.
    outputs: of the graph, in the order in which `finish` takes them.
    encode: gives the rows, once the call is let in; raises InputError for columns that the model cannot take.
    finish: gives the reply, serialized, for the outputs, each (rows,) float32.
    check: raises InputError for inputs that hold what the model refuses; None where `encode` does.
    """

    model: Model
    rows: int
    outputs: tuple[str, ...]
    encode: Callable[[], Rows]
    finish: Callable[[Sequence[Float32s]], bytes]
    check: Callable[[Inputs], None] | None = None

    def joins(self, graph: Graph) -> Hashable:
        """What works have in common that are computed in one run of a graph; one context has a run of its own."""
        return (graph, self.outputs, self.check) if graph.is_row_wise else id(self)


Prepare = Callable[[bytes, Call], Work]
Run = Callable[[Graph, Inputs, Sequence[str]], Sequence[Float32s]]


def answer(repository: Repository, prepare: Prepare, request: bytes, call: Call) -> bytes:
    """Answer a serialized request with a serialized reply, in the thread that asks.

    Raises:
        InputError, NotFound, WrongSchema, Unimplemented: what `prepare` and its work raise.
        Overloaded, TooLate, Gone: no time for it.
    """
    started = perf_counter_ns()
    call.begin()
    return score(repository, prepare(request, call), call, started, partial(repository.compute, call=call))


def score(repository: Repository, work: Work, call: Call, started: int, run: Run) -> bytes:
    """The reply to one request that was read, by itself; `started` is when, by `perf_counter_ns`, and `run` scores.

    Raises:
        InputError: what the work raises.
        Overloaded, TooLate, Gone: no time for it.
    """
    with repository.admission.enter(work.rows, call):
        rows = work.encode()
        inputs = rows.graph.join((rows.inputs,))
        if work.check:
            work.check(inputs)
        ready = perf_counter_ns()
        values = run(rows.graph, inputs, work.outputs)
        computed = perf_counter_ns()
    call.encode_ns, call.compute_ns = ready - started, computed - ready
    repository.statistics.observe(work.model, (rows.encoded,), (values[0],), logits=work.outputs[0] == LOGIT)
    return work.finish(values)
