"""Threads: the pools that gRPC's calls run on, cheaper than the standard library's and with a count of what waits.

They are ThreadPoolExecutors only in name: grpcio runs a method on a pool of its own if it is one of those.
"""

import logging
import time
from collections.abc import Callable
from concurrent import futures
from queue import SimpleQueue
from threading import Event, Lock, Thread, local
from typing import Any

MOST_MORE = 64  # threads beyond those of a pool, where callers keep them waiting
PATIENCE_S = 0.02  # that a message may take after its call

OWN_POOL = "experimental_thread_pool"  # grpcio runs a handler with this attribute on the pool that it holds

log = logging.getLogger(__name__)

_job = local()


def arrived() -> float:
    """When the call that this thread is at was handed to its pool, by `time.monotonic`; now, where that is unknown.

    To be asked once the call's message is there: the thread waits for its caller no longer.
    """
    if (waits := getattr(_job, "waits", None)) is None:
        return time.monotonic()
    waits[_job.number] = 0.0
    return _job.arrived


class _Done(futures.Future[None]):
    """The future of every call: gRPC only counts completions with it, which matters for limits that are not set."""

    def add_done_callback(self, fn: Callable[[futures.Future[None]], object]) -> None:
        """Forget the callback."""


class Threads(futures.ThreadPoolExecutor):
    """Threads behind a SimpleQueue: no lock, future or bookkeeping a call.

    grpcio begins a call on a thread before its message is there. Where all of them wait for messages that do not come,
    of callers that are slow or mean no good, calls that do come get threads beyond the pool's.
    """

    def __init__(self, count: int, name: str) -> None:  # not the base's, whose queue and threads are not used
        self._queue: SimpleQueue[tuple[float, Callable[..., object], tuple[Any, ...]] | None] = SimpleQueue()
        self._done, self._name = _Done(), name
        self._least, self._count, self._changing = count, 0, Lock()
        self._busy = bytearray(count + MOST_MORE)
        self._waits = [0.0] * (count + MOST_MORE)  # since when a thread waits for a message; 0 if it does not
        self._doubt = Event()  # whether calls can be begun: all threads waited for messages when one came
        for _ in range(count):
            self._grow()
        Thread(target=self._watch, name=f"{name}-watch", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Calls that no thread has begun."""
        return self._queue.qsize()

    @property
    def unfinished(self) -> int:
        """Calls that wait or run."""
        return self._queue.qsize() + sum(self._busy)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Queue a call; gRPC passes no keywords."""
        self._queue.put((time.monotonic(), fn, args))
        if all(self._waits[: self._count]):
            self._doubt.set()
        return self._done

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end once the queue is empty."""
        for _ in range(self._count):
            self._queue.put(None)

    def _grow(self) -> None:
        with self._changing:
            number = self._count
            if number < len(self._busy):
                self._count += 1
                Thread(target=self._work, args=(number,), name=f"{self._name}-{number}", daemon=True).start()

    def _watch(self) -> None:
        """Add threads for calls that come while all there are wait for messages, again and again while it is so."""
        while self._doubt.wait():
            time.sleep(PATIENCE_S)
            waits, late = self._waits[: self._count], time.monotonic() - PATIENCE_S
            if self._queue.empty() or not all(waits):
                self._doubt.clear()
            elif max(waits) < late:
                self._grow()

    def _is_spare(self, number: int) -> bool:
        """Whether the last of the threads may end, there being no call for it."""
        with self._changing:
            if number < self._least or number != self._count - 1 or not self._queue.empty():
                return False
            self._count -= 1
            return True

    def _work(self, number: int) -> None:
        _job.waits, _job.number = self._waits, number
        while (job := self._queue.get()) is not None:
            self._busy[number] = 1
            _job.arrived, function, arguments = job
            self._waits[number] = time.monotonic()
            try:
                function(*arguments)
            except Exception:
                log.exception("gRPC failed in a call")
            self._busy[number], self._waits[number] = 0, 0.0
            if self._is_spare(number):
                return
            job = function = arguments = None  # a waiting thread keeps no request alive


class AtOnce(futures.ThreadPoolExecutor):
    """No threads: the caller's own runs what is submitted, which must not block."""

    def __init__(self) -> None:  # not the base's, whose threads are not used
        self._done = _Done()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Run a call."""
        fn(*args)
        return self._done
