"""Turn: calls for scores that wait together are computed together, by the one thread of an event loop.

    put -> waiting -> step: taken, of so many rows, or one call -> read -> let in -> encoded -> joined -> run -> done
                                                                   |         |         |                  |
                                                                   +---------+- done --+------------------+

Calls are taken in their order. Those of one graph, with equal outputs, are computed in one run as far as its rows go;
one that fails, at whatever point, is told so and leaves, and the others go on without it.

Where more wait than one run takes, a step has several: all calls are read, then all are run, then all are answered.
What reads and answers finds its caches cold after a run, and costs several times as much where it takes turns with
runs. A short step leaves the rows of one run for the next, to be computed while the callers of this one send again.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from time import perf_counter_ns

from ..protos.encode import Float32s
from .admission import Visit
from .call import Call
from .graph import LOGIT, Graph
from .model import Inputs, Model
from .refusals import unwanted
from .repository import Repository
from .statistics import Fed
from .work import Prepare, Rows, Work, score

STEP_RUNS = 10  # of full runs' rows, in a step: some milliseconds, for which the loop answers nobody
LONG_RUNS = 4  # beside so many, the time is little in which nothing waits because all were answered at once

log = logging.getLogger(__name__)

Done = Callable[[bytes | Exception], None]
Waiting = tuple[Prepare, bytes, Call, Done]
Taken = tuple[Work, Call, Done]  # once it was read
Member = tuple[Taken, Rows]  # once it was let in and encoded
Run = tuple[Sequence[Member], Inputs]  # once they were joined
Computed = tuple[Sequence[Member], Sequence[Float32s]]


class Turn:
    """The calls for scores of one event loop; not safe to share between threads."""

    def __init__(self, repository: Repository, max_rows: int = 128) -> None:
        """Compute at most `max_rows` rows a run; a call of more is computed by itself."""
        self._repository, self._admission, self._statistics = repository, repository.admission, repository.statistics
        self._run_rows, self._step_rows = max_rows, min(STEP_RUNS * max_rows, repository.limits.max_rows_in_flight)
        self._waiting = deque[Waiting]()
        self._ready = deque[Taken]()  # read, and not computed yet

    @property
    def waiting(self) -> int:
        """Calls that were put and have not had their step."""
        return len(self._waiting) + len(self._ready)

    def put(self, prepare: Prepare, request: bytes, call: Call, done: Done) -> None:
        """Let a call wait for its step, which calls `done` once, with the reply or the error; never before it."""
        self._waiting.append((prepare, request, call, done))

    def step(self) -> bool:
        """Answer the calls whose turn it is; whether others wait."""
        began = perf_counter_ns()
        taken = self._take()
        if len(taken) == 1:
            self._answer(*taken[0], began)
        elif taken:
            self._answer_together(taken, began)
        return self.waiting > 0

    def _answer(self, work: Work, call: Call, done: Done, began: int) -> None:
        try:
            reply = score(self._repository, work, call, began, Graph.run)
        except Exception as error:
            reply = error
        done(reply)

    def _answer_together(self, taken: Sequence[Taken], began: int) -> None:
        visit, refused = self._admission.enter_together([call for _, call, _ in taken])
        computed = list[Computed]()
        with visit:
            for place, error in refused.items():
                taken[place][2](error)
            groups = self._group([each for place, each in enumerate(taken) if place not in refused], visit)
            runs = [run for members in groups for run in self._join(members, visit)]
            encoded = perf_counter_ns()
            for members, inputs in runs:
                computed += self._compute(members, inputs, began, encoded, visit)
        try:
            self._observe(computed)
        except Exception:  # what counts calls must not fail them
            log.exception("what models said could not be counted")
        for members, values in computed:
            self._finish(members, values)

    def _group(self, taken: Sequence[Taken], visit: Visit) -> Sequence[Sequence[Member]]:
        """Encode calls and tell which are run together; those that cannot be encoded are told why."""
        groups = list[list[Member]]()
        newest = dict[Hashable, tuple[list[Member], int]]()  # group of its kind, and its rows
        for each in taken:
            work = each[0]
            try:
                rows = work.encode()
            except Exception as error:
                self._fail(each, error, visit)
                continue
            kind = work.joins(rows.graph)
            members, count = newest.get(kind, (None, 0))
            if members is None or count + work.rows > self._run_rows:
                members, count = [], 0
                groups.append(members)
            members.append((each, rows))
            newest[kind] = members, count + work.rows
        return groups

    def _take(self) -> list[Taken]:
        """The calls of a step: those of one run, or all that were read but those of one, or of many runs all."""
        ready, now = self._ready, time.monotonic()
        rows = 0
        for work, call, _ in ready:  # by an earlier step
            call.queue_ns = int(1e9 * (now - call.arrived))
            rows += work.rows
        for _ in range(min(len(self._waiting), self._step_rows)):
            if rows >= self._step_rows:
                break
            prepare, request, call, done = self._waiting.popleft()
            call.queue_ns = int(1e9 * (now - call.arrived))
            try:
                if error := unwanted(call, now):
                    raise error
                work = prepare(request, call)
            except Exception as error:
                done(error)
                continue
            ready.append((work, call, done))
            rows += work.rows
        most = rows if rows >= LONG_RUNS * self._run_rows else max(self._run_rows, rows - self._run_rows)
        left = min(self._step_rows, most)
        taken = list[Taken]()
        while ready and (left >= ready[0][0].rows or not taken):
            taken.append(ready.popleft())
            left -= taken[-1][0].rows
        return taken

    def _join(self, members: Sequence[Member], visit: Visit) -> Sequence[Run]:
        """The inputs of calls that are run together; those whose rows the model refuses are told so, and left out."""
        ((work, _, _), rows), *_ = members
        try:
            inputs = rows.graph.join([rows.inputs for _, rows in members])
            if work.check:
                work.check(inputs)
        except Exception as error:
            if len(members) == 1:
                self._fail(members[0][0], error, visit)
                return []
            alone = [run for member in members for run in self._join([member], visit)]
            sound = [member for own, _ in alone for member in own]
            return alone if len(sound) == len(members) else self._join(sound, visit) if sound else []
        return [(members, inputs)]

    def _compute(
        self, members: Sequence[Member], inputs: Inputs, began: int, encoded: int, visit: Visit
    ) -> Sequence[Computed]:
        """Run calls together; if that fails, each by itself, and those that fail then are told so.

        began, encoded: when all calls of the step were taken and when the last was encoded, by `perf_counter_ns`.
        """
        ((work, _, _), rows), *_ = members
        started = perf_counter_ns()
        try:
            values = rows.graph.run(inputs, work.outputs)
        except Exception as error:
            if len(members) == 1:
                self._fail(members[0][0], error, visit)
                return []
            alone = [run for member in members for run in self._join([member], visit)]
            return [done for own, inputs in alone for done in self._compute(own, inputs, began, encoded, visit)]
        computed = perf_counter_ns()
        for (_, call, _), _ in members:
            call.queue_ns += started - encoded  # while other runs had their turn
            call.encode_ns, call.compute_ns = encoded - began, computed - started
        return [(members, values)]

    def _observe(self, computed: Sequence[Computed]) -> None:
        """Count what models were fed and what they said, those of one step at once."""
        said = dict[tuple[Model, bool], tuple[list[Fed], list[Float32s]]]()
        for members, values in computed:
            work = members[0][0][0]
            fed, scores = said.setdefault((work.model, work.outputs[0] == LOGIT), ([], []))
            fed += [rows.encoded for _, rows in members]
            scores.append(values[0])
        for (model, logits), (fed, scores) in said.items():
            self._statistics.observe(model, fed, scores, logits=logits)

    def _finish(self, members: Sequence[Member], values: Sequence[Float32s]) -> None:
        """Answer the calls of a run."""
        start = 0
        for (own, _, done), _ in members:
            stop = start + own.rows
            try:
                reply = own.finish([value[start:stop] for value in values])
            except Exception as error:
                reply = error
            done(reply)
            start = stop

    def _fail(self, taken: Taken, error: Exception, visit: Visit) -> None:
        _, call, done = taken
        visit.fail(call)
        done(error)
