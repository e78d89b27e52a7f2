"""Threads: the pools that gRPC's calls run on, cheaper than the standard library's and with a count of what waits.

They are ThreadPoolExecutors only in name: grpcio runs a method on a pool of its own if it is one of those.
"""

import logging
import time
from collections.abc import Callable
from concurrent import futures
from queue import SimpleQueue
from threading import Thread, local
from typing import Any

OWN_POOL = "experimental_thread_pool"  # grpcio runs a handler with this attribute on the pool that it holds

log = logging.getLogger(__name__)

_job = local()


def arrived() -> float:
    """When the call that this thread is at was handed to its pool, by `time.monotonic`; now, where that is unknown."""
    return getattr(_job, "arrived", None) or time.monotonic()


class _Done(futures.Future[None]):
    """The future of every call: gRPC only counts completions with it, which matters for limits that are not set."""

    def add_done_callback(self, fn: Callable[[futures.Future[None]], object]) -> None:
        """Forget the callback."""


class Threads(futures.ThreadPoolExecutor):
    """Threads behind a SimpleQueue: no lock, future or bookkeeping a call."""

    def __init__(self, count: int, name: str) -> None:  # not the base's, whose queue and threads are not used
        self._queue: SimpleQueue[tuple[float, Callable[..., object], tuple[Any, ...]] | None] = SimpleQueue()
        self._done = _Done()
        self._busy = bytearray(count)
        self._workers = [
            Thread(target=self._work, args=(number,), name=f"{name}-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._workers:
            thread.start()

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
        return self._done

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end once the queue is empty."""
        for _ in self._workers:
            self._queue.put(None)

    def _work(self, number: int) -> None:
        while (job := self._queue.get()) is not None:
            self._busy[number] = 1
            _job.arrived, function, arguments = job
            try:
                function(*arguments)
            except Exception:
                log.exception("gRPC failed in a call")
            self._busy[number] = 0
            job = function = arguments = None  # a waiting thread keeps no request alive


class AtOnce(futures.ThreadPoolExecutor):
    """No threads: the caller's own runs what is submitted, which must not block."""

    def __init__(self) -> None:  # not the base's, whose threads are not used
        self._done = _Done()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Run a call."""
        fn(*args)
        return self._done
