"""Loops: what a client process does: calls one after the other, or calls sent when they are due; each is noted down.

Times are nanoseconds of `time.perf_counter_ns`, which all processes of a machine share.
"""

import signal
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing.connection import Connection
from threading import Event, Lock, Thread
from typing import Any

import grpc
import numpy as np

from ..channel import Access
from ..statuses import Status

CONNECT_S = 10.0
CONNECTIONS = 4  # of a process that sends calls when they are due: each may reach another worker of the server
PERIOD_S = 0.05  # between reports: a short one holds up the calls for a short time
AFTER_FAILURE_S = 0.01  # a server that refuses at once is not asked again at once
SPIN_NS = 100_000  # a sleep ends some 60 microseconds late, so the last of the wait is spent awake
BLOCK = 1024  # arrivals drawn at a time
NEVER_NS = 1 << 62
NEXT_CALL = -1  # the key of an open loop's call that is not sent yet
NOTES = 5  # numbers that tell a call: due, sent, end, position of its request, status


@dataclass(frozen=True)
class Closed:
    """Calls in flight, each followed by the next when it is answered, on a connection of its own."""

    concurrency: int


@dataclass(frozen=True)
class Poisson:
    """Calls that arrive at random: `rate` a second, whether or not others were answered."""

    rate: float
    seed: int


@dataclass(frozen=True)
class Job:
    """What one process does until it is told to stop.

    requests: serialized, sent in turn, beginning at `first`.
    arrivals: this process's share of them.
    number: of the process; no two draw the same arrivals.
    """

    access: Access
    path: str
    requests: Sequence[bytes]
    first: int
    arrivals: Closed | Poisson
    number: int
    timeout_s: float


@dataclass(frozen=True)
class Stop:
    """The word that ends a job. cancel: calls in flight are not waited for."""

    cancel: bool


@dataclass(frozen=True)
class Report:
    """What happened since the last one.

    at, cpu_s: when, and the processor time of this process until then.
    floor: every call that was due before this time has ended and was reported.
    calls: int64, `NOTES` a call.
    """

    at: int
    cpu_s: float
    floor: int
    calls: bytes


class Log:
    """The calls of a process: those in flight, by when they were due, and those that ended since the last report."""

    def __init__(self) -> None:
        self._due, self._ended, self._lock = dict[int, int](), deque[tuple[int, int, int, int, int]](), Lock()

    def begun(self, key: int, due: int) -> None:
        """A call is due, in the place of an earlier one of the same key."""
        with self._lock:
            self._due[key] = due

    def ended(self, due: int, sent: int, end: int, position: int, status: int) -> None:
        """A call has ended."""
        self._ended.append((due, sent, end, position, status))

    def gone(self, key: int) -> None:
        """No call of this key is in flight any more."""
        with self._lock:
            self._due.pop(key, None)

    def empty(self) -> bool:
        """Whether no call is in flight and none will be."""
        return not self._due

    def report(self) -> Report:
        """What happened since the last one; the floor is read first, so that what is below it is among the calls."""
        with self._lock:
            floor = min(self._due.values(), default=NEVER_NS)
        ended = [self._ended.popleft() for _ in range(len(self._ended))]
        calls = array("q", chain.from_iterable(ended)).tobytes()
        return Report(time.perf_counter_ns(), time.process_time(), floor, calls)


def schedule(arrivals: Poisson, number: int) -> Iterator[int]:
    """When calls are due, nanoseconds from the start, ascending without end: exponential gaps.

    number: of the stream; streams of one seed are independent, so that their sum is Poisson too.
    """
    rng, last = np.random.default_rng([arrivals.seed, number]), 0.0
    while True:
        block = last + np.cumsum(rng.exponential(1e9 / arrivals.rate, BLOCK))
        last = float(block[-1])
        yield from block.astype(np.int64).tolist()


def closed_loop(job: Job, channel: grpc.Channel, key: int, log: Log, stop: Event) -> None:
    """Send a call, wait for its answer, and so on, until `stop`."""
    call, requests, metadata = channel.unary_unary(job.path), job.requests, job.access.metadata()
    position, timeout_s = (job.first + key) % len(requests), job.timeout_s
    try:
        while not stop.is_set():
            status, begin = 0, time.perf_counter_ns()
            log.begun(key, begin)
            try:
                call(requests[position], timeout=timeout_s, metadata=metadata)
            except grpc.RpcError as error:
                status = _code(error)
            log.ended(begin, begin, time.perf_counter_ns(), position, status)
            if status:
                stop.wait(AFTER_FAILURE_S)
            position = (position + 1) % len(requests)
    except ValueError:  # what gRPC raises for a call on a channel that was closed, as it is to cancel calls
        pass
    finally:
        log.gone(key)


def open_loop(
    job: Job, channels: Sequence[grpc.Channel], due_times: Iterator[int], start: int, log: Log, stop: Event
) -> None:
    """Send calls when they are due, nanoseconds after `start`, until `stop`."""
    calls, requests, metadata = [each.unary_unary(job.path) for each in channels], job.requests, job.access.metadata()
    try:
        for number, after in enumerate(due_times):
            due, position = start + after, (job.first + number) % len(requests)
            log.begun(NEXT_CALL, due)
            while (left := due - time.perf_counter_ns()) > SPIN_NS and not stop.is_set():
                stop.wait((left - SPIN_NS) / 1e9)
            if stop.is_set():
                return
            while (sent := time.perf_counter_ns()) < due:
                pass
            if sent - due > job.timeout_s * 1e9:  # a client far behind its schedule gives up what nobody waits for
                log.ended(due, sent, sent, position, Status.DEADLINE_EXCEEDED)
                continue
            log.begun(number, due)
            future: Any = calls[number % len(calls)].future(
                requests[position], timeout=job.timeout_s, metadata=metadata
            )
            future.add_done_callback(partial(_answered, log, number, due, sent, position))
    except ValueError:  # as in `closed_loop`
        pass
    finally:
        log.gone(NEXT_CALL)


def _answered(log: Log, number: int, due: int, sent: int, position: int, future: Any) -> None:
    log.ended(due, sent, time.perf_counter_ns(), position, _code(future))
    log.gone(number)


def _code(call: Any) -> int:
    """The status of a call as a number."""
    return call.code().value[0]


def work(pipe: Connection) -> None:
    """A client process: jobs from the pipe, reports into it, until it ends; None follows a job's last report.

    After a job came, it connects and says whether it could; the next word is when to start, or `Stop`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the bench's to answer
    try:
        while True:
            job = pipe.recv()
            if isinstance(job, Job):
                channels = [job.access.channel() for _ in range(_connections(job))]
                pipe.send(_connected(channels, min(CONNECT_S, job.timeout_s)))
                start = pipe.recv()
                if isinstance(start, int):
                    _run(job, channels, start, pipe)
                for channel in channels:
                    channel.close()
            pipe.send(None)
    except (EOFError, ConnectionError):
        return


def _connections(job: Job) -> int:
    return job.arrivals.concurrency if isinstance(job.arrivals, Closed) else CONNECTIONS


def _connected(channels: Sequence[grpc.Channel], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    try:
        for channel in channels:
            grpc.channel_ready_future(channel).result(timeout=max(0.0, deadline - time.monotonic()))
    except grpc.FutureTimeoutError:
        return False
    return True


def _run(job: Job, channels: Sequence[grpc.Channel], start: int, pipe: Connection) -> None:
    log, stop = Log(), Event()
    loops = list[Callable[[], None]]()
    if isinstance(job.arrivals, Closed):
        for key, channel in enumerate(channels):
            log.begun(key, start)
            loops.append(partial(closed_loop, job, channel, key, log, stop))
    else:
        due_times = schedule(job.arrivals, job.number)
        log.begun(NEXT_CALL, start)
        loops.append(partial(open_loop, job, channels, due_times, start, log, stop))
    time.sleep(max(0.0, (start - time.perf_counter_ns()) / 1e9))
    pipe.send(log.report())
    for loop in loops:
        Thread(target=loop, daemon=True).start()
    while not pipe.poll(PERIOD_S):
        pipe.send(log.report())
    word: Stop = pipe.recv()
    stop.set()
    deadline = time.monotonic() + job.timeout_s
    while not (word.cancel or log.empty()) and time.monotonic() < deadline:
        time.sleep(PERIOD_S / 5)
