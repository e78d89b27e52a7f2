"""Turn: calls for scores that wait together are computed together, by the one thread of an event loop.

    put -> waiting -> step: taken, at most `max_rows` rows or one call -> read -> let in -> encoded -> joined -> run
                                                                          |         |         |                 |
                                                                          +---------+- done --+-----------------+

Calls are taken in their order. Those of one graph, with equal outputs, are computed in one run; one that fails, at
whatever point, is told so and leaves, and the others go on without it.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from time import perf_counter_ns

from .admission import Visit
from .batching import refusal
from .call import Call
from .graph import LOGIT, Graph
from .repository import Repository
from .work import Prepare, Rows, Work, score

Done = Callable[[bytes | Exception], None]
Waiting = tuple[Prepare, bytes, Call, Done]
Taken = tuple[Work, Call, Done]  # once it was read
Member = tuple[Taken, Rows]  # once it was let in and encoded


class Turn:
    """The calls for scores of one event loop; not safe to share between threads."""

    def __init__(self, repository: Repository, max_rows: int = 128) -> None:
        """Compute at most `max_rows` rows a step; a call of more is computed by itself."""
        self._repository, self._admission, self._statistics = repository, repository.admission, repository.statistics
        self._max_rows = min(max_rows, repository.limits.max_rows_in_flight)
        self._waiting = deque[Waiting]()
        self._next: Taken | None = None  # read, and too large for the step that read it

    @property
    def waiting(self) -> int:
        """Calls that were put and not yet taken."""
        return len(self._waiting) + (self._next is not None)

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
        with visit:
            runs: dict[Hashable, list[Member]] = {}
            for place, each in enumerate(taken):
                work, _, done = each
                if place in refused:
                    done(refused[place])
                    continue
                try:
                    rows = work.encode()
                except Exception as error:
                    self._fail(each, error, visit)
                    continue
                runs.setdefault(work.joins(rows.graph), []).append((each, rows))
            for members in runs.values():
                self._compute(members, began, visit)

    def _take(self) -> list[Taken]:
        """The next calls, read, of so many rows as a step has."""
        taken: list[Taken] = []
        left, now = self._max_rows, time.monotonic()
        for _ in range(min(left, self.waiting)):
            each, self._next = self._next, None
            if each is None:
                prepare, request, call, done = self._waiting.popleft()
                call.queue_ns = int(1e9 * (now - call.arrived))
                try:
                    if error := refusal(call, now):
                        raise error
                    each = prepare(request, call), call, done
                except Exception as error:
                    done(error)
                    continue
            left -= each[0].rows
            if left < 0 and taken:
                self._next = each
                break
            taken.append(each)
        return taken

    def _compute(self, members: Sequence[Member], began: int, visit: Visit) -> None:
        """Answer calls by one run; where it fails, those that are to blame are told, and the others begin anew."""
        ((work, _, _), rows), *_ = members
        graph = rows.graph
        try:
            inputs = graph.join([rows.inputs for _, rows in members])
            if work.check:
                work.check(inputs)
            ready = perf_counter_ns()
            values = graph.run(inputs, work.outputs)
            computed = perf_counter_ns()
        except Exception as error:
            self._retry(members, began, visit, error)
            return
        fed = [rows.encoded for _, rows in members]
        self._statistics.observe(work.model, fed, values[0], logits=work.outputs[0] == LOGIT)
        start, encode_ns, compute_ns = 0, ready - began, computed - ready
        for (own, call, done), _ in members:
            stop = start + own.rows
            call.encode_ns, call.compute_ns = encode_ns, compute_ns
            try:
                reply = own.finish([value[start:stop] for value in values])
            except Exception as error:
                reply = error
            done(reply)
            start = stop

    def _retry(self, members: Sequence[Member], began: int, visit: Visit, error: Exception) -> None:
        """Tell the calls whose rows the model refuses, and compute the others."""
        if len(members) == 1:
            self._fail(members[0][0], error, visit)
            return
        sound = [member for member in members if self._is_sound(*member, visit)]
        if len(sound) == len(members):  # it was the run that failed
            for member in members:
                self._compute([member], began, visit)
        elif sound:
            self._compute(sound, began, visit)

    def _is_sound(self, taken: Taken, rows: Rows, visit: Visit) -> bool:
        """Whether the model takes a call's rows; if not, the call is told."""
        check = taken[0].check
        try:
            if check:
                check(rows.graph.join([rows.inputs]))
        except Exception as error:
            self._fail(taken, error, visit)
            return False
        return True

    def _fail(self, taken: Taken, error: Exception, visit: Visit) -> None:
        _, call, done = taken
        visit.fail(call)
        done(error)
