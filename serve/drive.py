"""Drive: client processes that keep calls in flight and measure them: the closed loop.

Every thread has a connection of its own, so that the server's workers share the load, and sends its next call when the
last is answered.
"""

import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from threading import Thread
from types import TracebackType
from typing import Self, cast

import grpc
from hdrh.histogram import HdrHistogram

from ..protos.errors import Unavailable
from .channel import Access

LEAST_NS, MOST_NS, DIGITS = 1_000, 60_000_000_000, 3
TIMEOUT_S = 30.0
AFTER_FAILURE_S = 0.01  # a server that refuses at once is not asked again at once


@dataclass(frozen=True)
class Job:
    """What one process does: `threads` closed loops over the same requests, after a warm-up that is not measured."""

    access: Access
    path: str
    requests: Sequence[bytes]
    threads: int
    warmup_s: float
    duration_s: float


def histogram() -> HdrHistogram:
    """Of nanoseconds: 1 microsecond to 60 seconds, to 3 digits."""
    return HdrHistogram(LEAST_NS, MOST_NS, DIGITS)


@dataclass
class Measured:
    """Calls begun within the measured time.

    latencies: of answered calls, nanoseconds. failures: calls by the status they ended with.
    wall_s: from the measurement's start to the last answer. cpu_s: of the client.
    """

    latencies: HdrHistogram = field(default_factory=histogram)
    failures: Counter[str] = field(default_factory=Counter)
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def add(self, other: "Measured") -> None:
        """Merge what ran beside it."""
        self.latencies.add(other.latencies)
        self.failures.update(other.failures)
        self.wall_s, self.cpu_s = max(self.wall_s, other.wall_s), self.cpu_s + other.cpu_s


class Drivers:
    """Client processes, started once and used for every cell of a bench."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes = list[Connection]()
        self._processes = list[BaseProcess]()
        for _ in range(count):
            ours, theirs = cast("tuple[Connection, Connection]", context.Pipe())
            process = context.Process(target=_serve_jobs, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            if error is not None:
                process.terminate()
            process.join(TIMEOUT_S)

    def run(
        self, access: Access, path: str, requests: Sequence[bytes], concurrency: int, warmup_s: float, duration_s: float
    ) -> Measured:
        """Keep `concurrency` calls in flight, shared between the processes.

        Raises:
            Unavailable: the server cannot be reached, or a client process died.
        """
        count = len(self._pipes)
        shares = [concurrency // count + (number < concurrency % count) for number in range(count)]
        used = [(pipe, threads) for pipe, threads in zip(self._pipes, shares, strict=True) if threads]
        total = Measured()
        try:
            for pipe, threads in used:
                pipe.send(Job(access, path, requests, threads, warmup_s, duration_s))
            connected = [pipe.recv() for pipe, _ in used]
            for pipe, _ in used:
                pipe.send(all(connected))
            if not all(connected):
                raise Unavailable(
                    "the server takes connections", where=access.endpoint, remedy="Check that it still runs"
                )
            for pipe, _ in used:
                latencies, failures, wall_s, cpu_s = pipe.recv()
                total.add(Measured(_decoded(latencies), failures, wall_s, cpu_s))
        except (EOFError, ConnectionError):
            raise Unavailable("a bench's client processes live", found="one that died", where="bench") from None
        return total


def _serve_jobs(pipe: Connection) -> None:
    """A client process: connect, say so, wait for the word, run, report; until the pipe ends."""
    try:
        while True:
            job: Job = pipe.recv()
            channels = [job.access.channel() for _ in range(job.threads)]
            pipe.send(_connected(channels))
            if pipe.recv():
                pipe.send(_run(job, channels))
            for channel in channels:
                channel.close()
    except (EOFError, KeyboardInterrupt):
        return


def _connected(channels: Sequence[grpc.Channel]) -> bool:
    try:
        for channel in channels:
            grpc.channel_ready_future(channel).result(timeout=TIMEOUT_S)
    except grpc.FutureTimeoutError:
        return False
    return True


def _run(job: Job, channels: Sequence[grpc.Channel]) -> tuple[bytes, Counter[str], float, float]:
    start = time.perf_counter_ns() + int(job.warmup_s * 1e9)
    end = start + int(job.duration_s * 1e9)
    parts = [Measured() for _ in channels]
    threads = [
        Thread(target=_loop, args=(job, channel, number, start, end, part), daemon=True)
        for number, (channel, part) in enumerate(zip(channels, parts, strict=True))
    ]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, (start - time.perf_counter_ns()) / 1e9))
    cpu_s = time.process_time()
    for thread in threads:
        thread.join()
    total = Measured(cpu_s=time.process_time() - cpu_s)
    for part in parts:
        total.add(part)
    return total.latencies.encode(), total.failures, total.wall_s, total.cpu_s


def _loop(job: Job, channel: grpc.Channel, number: int, start: int, end: int, part: Measured) -> None:
    call, requests, metadata = channel.unary_unary(job.path), job.requests, job.access.metadata()
    position, record = number * len(requests) // job.threads, part.latencies.record_value
    while (begin := time.perf_counter_ns()) < end:
        failure = None
        try:
            call(requests[position], timeout=TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            failure = error.code().name
            time.sleep(AFTER_FAILURE_S)
        position = (position + 1) % len(requests)
        if begin < start:
            continue
        finish = time.perf_counter_ns()
        if failure is None:
            record(min(finish - begin, MOST_NS))
        else:
            part.failures[failure] += 1
        part.wall_s = (finish - start) / 1e9


def _decoded(data: bytes) -> HdrHistogram:
    latencies = histogram()
    latencies.decode_and_add(data)
    return latencies
