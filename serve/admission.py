"""Admission: which requests are let in to be computed, by rows in flight and by the caller's deadline."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from ..protos.errors import Gone, Overloaded, TooLate
from .call import Call

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

    def learn(self, cost_s: float, rows: int, now: float) -> None:
        weight = 1.0 if self.is_stale(now) else WEIGHT
        self.cost_s += weight * (cost_s - self.cost_s)
        self.rows += weight * (rows - self.rows)
        self.learned = now


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

    @contextmanager
    def enter(self, rows: int, call: Call) -> Iterator[None]:
        """Let a call in for as long as the context lasts, within which it is encoded and computed.

        Args:
            rows: of the request, at least one.
            call: whose `model` is known.

        Raises:
            Overloaded: too many rows are in flight, or the caller's deadline passes before those ahead are done.
            TooLate: the deadline has passed, or would even if nothing else were in flight.
            Gone: nobody waits for the answer.
        """
        if not call.is_wanted():
            raise Gone("a call's caller waits for the answer", found="one that has cancelled it, or gone")
        with self._lock:
            expected_s = self._expected_s(rows, call, self._move())
            self._calls, self._rows, self._ahead_s = self._calls + 1, self._rows + rows, self._ahead_s + expected_s
            began_s = self._shared_s
        done = False
        try:
            yield
            done = True
        finally:
            with self._lock:
                now = self._move()
                self._calls, self._rows = self._calls - 1, self._rows - rows
                self._ahead_s = self._ahead_s - expected_s if self._calls else 0.0  # an idle worker forgets roundings
                if done:
                    cost_s = self._shared_s - began_s
                    for pace in (self._paces.setdefault(call.model, _Pace()), self._overall):
                        pace.learn(cost_s, rows, now)

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
        left_s = float("inf") if call.deadline is None else call.deadline - now
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
