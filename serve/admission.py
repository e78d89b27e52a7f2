"""Admission: which requests are let in to be computed, by rows in flight and by the caller's deadline."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

from ..protos.errors import Gone, Overloaded, QuoremError, TooLate
from .call import Call
from .refusals import gone

WEIGHT = 0.05  # of the newest call in the averages: they are those of about the last 20
STALE_S = 1.0  # an estimate that nothing has confirmed for so long is dropped, or one bad measurement refused for ever
LEAST_RETRY_S = 0.001


@dataclass
class _Pace:
    """Moving averages over calls: what one costs and how many rows it has. learned: when the last one ended."""

    cost_s: float = 0.0
    rows: float = 0.0
    learned: float = -STALE_S

    @property
    def row_s(self) -> float:
        """Seconds a row; 0 before the first call."""
        return self.cost_s / self.rows if self.rows else 0.0

    def is_stale(self, now: float) -> bool:
        return now - self.learned >= STALE_S

    def learn(self, cost_s: float, rows: Sequence[int], now: float) -> None:
        """Learn of calls that ended together, each of that cost, from the rows of the mean one."""
        count = len(rows)
        weight = 1.0 if now - self.learned >= STALE_S else WEIGHT if count == 1 else 1 - (1 - WEIGHT) ** count
        self.cost_s += weight * (cost_s - self.cost_s)
        self.rows += weight * (sum(rows) / count - self.rows)
        self.learned = now


class Visit:
    """Calls that were let in together, until the context ends; only Admission looks inside.

    rows: of each call, by model. expected_s: of all of them.
    began_s: what a call that never left would have cost until they came.
    """

    __slots__ = ("_admission", "began_s", "expected_s", "rows")

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self.expected_s, self.began_s = 0.0, 0.0
        self.rows: dict[str, list[int]] = {}

    def __enter__(self) -> None:
        """They are in since they were let in."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let those out that are still in; what failed teaches nothing."""
        self._admission.leave(self, done=kind is None)

    def fail(self, call: Call) -> None:
        """Let one of them out that has failed, before the others."""
        self._admission.drop(self, call)


class Admission:
    """What one worker has in flight, and what it costs; safe to use from several threads.

    A call's cost is its share of the worker: while n calls are in flight, each is charged the n-th part of the time. So
    the costs of all add up to the time that the worker was busy, however many calls it takes in turns.
    """

    def __init__(self, max_rows: int) -> None:
        """Let at most `max_rows` rows be in flight or wait; a single call may have more."""
        self._max_rows = max_rows
        self._lock = Lock()
        self._rows, self._calls, self._ahead_s = 0, 0, 0.0
        self._shared_s, self._moved = 0.0, 0.0  # what a call that never left would have cost, up to when
        self._paces, self._overall = dict[str, _Pace](), _Pace()

    def enter(self, rows: int, call: Call) -> Visit:
        """Let a call in for as long as the context lasts, within which it is encoded and computed.

        Args:
            rows: of the request, at least one.
            call: whose `model` is known.

        Raises:
            Overloaded: too many rows are in flight, or the caller's deadline passes before those ahead are done.
            TooLate: the deadline has passed, or would even if nothing else were in flight.
            Gone: nobody waits for the answer.
        """
        visit = Visit(self)
        if not call.is_wanted():
            raise gone()
        with self._lock:
            self._let_in(visit, rows, call, self._move())
        return visit

    def enter_together(self, calls: Iterable[Call]) -> tuple[Visit, dict[int, QuoremError]]:
        """Let in, one after the other, calls that are computed together; those that are not, by place, and why not.

        Args:
            calls: whose `model` and `rows` are known.
        """
        visit = Visit(self)
        refused: dict[int, QuoremError] = {}
        with self._lock:
            now = self._move()
            for place, call in enumerate(calls):
                try:
                    if not call.is_wanted():
                        raise gone()
                    self._let_in(visit, call.rows, call, now)
                except (Gone, Overloaded, TooLate) as error:
                    refused[place] = error
        return visit, refused

    def _let_in(self, visit: Visit, rows: int, call: Call, now: float) -> None:
        expected_s = self._expected_s(rows, call, now)
        self._calls += 1
        self._rows += rows
        self._ahead_s += expected_s
        visit.expected_s += expected_s
        visit.began_s = self._shared_s
        visit.rows.setdefault(call.model, []).append(rows)

    def drop(self, visit: Visit, call: Call) -> None:
        """See `Visit.fail`."""
        with self._lock:
            self._move()
            self._calls, self._rows = self._calls - 1, self._rows - call.rows
            visit.rows[call.model].remove(call.rows)
            if not visit.rows[call.model]:
                del visit.rows[call.model]

    def leave(self, visit: Visit, *, done: bool) -> None:
        """See `Visit`."""
        with self._lock:
            now = self._move()
            for rows in visit.rows.values():
                self._calls, self._rows = self._calls - len(rows), self._rows - sum(rows)
            self._ahead_s = self._ahead_s - visit.expected_s if self._calls else 0.0  # an idle worker forgets roundings
            if done:
                cost_s = self._shared_s - visit.began_s
                for model, rows in visit.rows.items():
                    if model not in self._paces:
                        self._paces[model] = _Pace()
                    self._paces[model].learn(cost_s, rows, now)
                    self._overall.learn(cost_s, rows, now)

    def refusal(self, calls: int) -> Overloaded | None:
        """Why there is no room for one more call, if so, before its rows are known: it is taken for an average one.

        Args:
            calls: that wait or run, those that have entered among them.
        """
        with self._lock:
            waiting = max(0, calls - self._calls) * self._overall.rows
            rows = self._rows + waiting
            if not calls or rows + self._overall.rows <= self._max_rows:
                return None
            return self._overloaded(round(rows), self._ahead_s + waiting * self._overall.row_s)

    def _expected_s(self, rows: int, call: Call, now: float) -> float:
        """What the call will cost, if there is room and time for it; 0 if that is not known."""
        if self._calls and self._rows + rows > self._max_rows:
            raise self._overloaded(self._rows, self._ahead_s)
        pace = self._paces.get(call.model)
        expected_s = 0.0 if pace is None or pace.is_stale(now) else rows * pace.row_s
        if call.deadline is None:
            return expected_s
        left_s = call.deadline - now
        if left_s <= 0 or left_s < expected_s:
            raise TooLate(
                "a call is computed if its deadline leaves the time",
                found=f"{1000 * max(0.0, left_s):.1f} ms left, {1000 * expected_s:.1f} ms of work for {rows} rows",
                remedy="Allow it more time, or send fewer rows a call",
            )
        if left_s < self._ahead_s + expected_s:
            raise _overloaded(
                "the calls in flight leave the time for another before its deadline",
                f"{1000 * self._ahead_s:.1f} ms of work ahead, {1000 * expected_s:.1f} ms of its own, "
                f"{1000 * left_s:.1f} ms left",
                self._ahead_s,
            )
        return expected_s

    def _overloaded(self, rows: int, retry_s: float) -> Overloaded:
        return _overloaded(f"a worker has at most {self._max_rows} rows in flight", f"{rows} before this call", retry_s)

    def _move(self) -> float:
        """Charge the calls in flight for the time until now, which is returned."""
        now = time.monotonic()
        if self._calls:
            self._shared_s += (now - self._moved) / self._calls
        self._moved = now
        return now


def _overloaded(rule: str, found: str, retry_s: float) -> Overloaded:
    retry_s = max(LEAST_RETRY_S, retry_s)
    error = Overloaded(rule, found=found, remedy=f"Try again in {1000 * retry_s:.0f} ms, or call another server")
    error.retry_s = retry_s
    return error
