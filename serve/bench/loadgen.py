"""Loadgen: MLCommons' load generator in a process of its own, and the system under test that it calls.

LoadGen cannot be stopped from Python, and what its callbacks raise ends the process: hence a process for every run.
"""

import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Literal, Protocol

import grpc

from ..channel import Access

Scenario = Literal["Server", "Offline"]

MODEL = "dlrm-v2"  # of LoadGen's own table of minimums: recommendation, p99 under 60 ms
LOOK_S, DEAD_S = 0.2, 5.0  # between looks; without an answer while calls fail


@dataclass(frozen=True)
class Job:
    """A run. rate: of Poisson arrivals, or (Offline) that is expected; queries: at least, None: as MLPerf asks.

    in_flight: calls of the Offline scenario; Server has as many as there are.
    """

    access: Access
    path: str
    requests: Sequence[bytes]
    scenario: Scenario
    rate: float
    bound_ms: float
    seconds: float
    queries: int | None
    connections: int
    in_flight: int
    warmup_s: float
    timeout_s: float
    logs: Path


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    ended: LoadGen ended by itself, was stopped by the parent, got no answer (any more), or never began.
    why: of the last two, what was met.
    answered, failures: samples; failures by the status they ended with. cpu_s: of this process.
    minimums: what MLPerf asks for, of LoadGen's own table.
    """

    ended: Literal["done", "stopped", "dead", "broken"]
    why: str = ""
    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu_s: float = 0.0
    minimums: dict[str, float] = field(default_factory=dict)


class Sample(Protocol):
    """LoadGen's sample: an id to complete it by, and the index of its request."""

    id: int
    index: int


class Sut:
    """The system under test: a sample is a call; every sample is completed once, whether answered or not.

    Args:
        complete: tells LoadGen that the sample of this id is done.
        calls: one of every connection.
        limit: calls in flight; None: every sample is sent at once.
    """

    def __init__(
        self,
        calls: Sequence[grpc.UnaryUnaryMultiCallable],
        requests: Sequence[bytes],
        complete: Callable[[int], None],
        limit: int | None,
        timeout_s: float,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._calls, self._requests, self._complete, self._limit = calls, requests, complete, limit
        self._timeout_s, self._metadata = timeout_s, metadata
        self._waiting, self._turn, self._lock = deque[tuple[int, int]](), count(), Lock()
        self.answered, self.failures = 0, Counter[str]()

    def issue(self, samples: Sequence[Sample]) -> None:
        """Take samples from LoadGen and return at once; nothing is raised."""
        if self._limit is None:
            for each in samples:
                self._send(each.id, each.index, next(self._turn))
            return
        self._waiting.extend((each.id, each.index) for each in samples)
        for lane in range(min(self._limit, len(samples))):
            self._send_next(lane)

    def _send_next(self, lane: int) -> None:
        """Send the next sample that waits, if any; a lane keeps to its connection."""
        sent = False
        while not sent:
            try:
                id, index = self._waiting.popleft()
            except IndexError:
                return
            sent = self._send(id, index, lane)

    def _send(self, id: int, index: int, lane: int) -> bool:
        try:
            future = self._calls[lane % len(self._calls)].future(
                self._requests[index], timeout=self._timeout_s, metadata=self._metadata
            )
        except Exception as error:
            self._end(id, type(error).__name__)
            return False
        future.add_done_callback(lambda done: self._done(id, lane, done))
        return True

    def _done(self, id: int, lane: int, future: grpc.Future) -> None:
        status: grpc.StatusCode = future.code()  # pyright: ignore[reportAttributeAccessIssue]  # it is a grpc.Call too
        self._end(id, None if status is grpc.StatusCode.OK else status.name)
        if self._limit is not None:
            self._send_next(lane)

    def _end(self, id: int, failure: str | None) -> None:
        with self._lock:
            if failure is None:
                self.answered += 1
            else:
                self.failures[failure] += 1
        self._complete(id)


def serve_job(pipe: Connection) -> None:
    """The process: take a job, run it until it ends or the pipe says a word, tell what came of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent says when to stop
    try:
        job: Job = pipe.recv()
        pipe.send(_run(job, pipe))
    except Exception as error:
        pipe.send(Outcome("broken", f"{type(error).__name__}: {error}"))
    finally:
        os._exit(0)  # a LoadGen that was stopped still has threads, which would not outlive Python's own end


def _run(job: Job, pipe: Connection) -> Outcome:
    channels = [job.access.channel() for _ in range(job.connections)]
    calls, metadata = [channel.unary_unary(job.path) for channel in channels], job.access.metadata()
    if gone := _warm_up(job, calls, metadata):
        return Outcome("dead", gone)
    limit = job.in_flight if job.scenario == "Offline" else None
    sut = Sut(calls, job.requests, _complete, limit, job.timeout_s, metadata)
    minimums, errors = dict[str, float](), list[str]()

    def test() -> None:
        try:
            _start(job, sut, minimums)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")

    thread = Thread(target=test, daemon=True)
    began, cpu_s = time.monotonic(), time.process_time()
    thread.start()
    ended = _watch(thread, sut, pipe)
    seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu_s
    if errors:
        return Outcome("broken", errors[0])
    failed = ", ".join(f"{count} x {status}" for status, count in sorted(sut.failures.items()))
    why = f"no answer in {DEAD_S:g} s: {failed}" if ended == "dead" else ""
    return Outcome(ended, why, sut.answered, sut.failures.copy(), seconds, cpu_s, minimums)


def _warm_up(
    job: Job, calls: Sequence[grpc.UnaryUnaryMultiCallable], metadata: tuple[tuple[str, str], ...]
) -> str | None:
    """Call by every connection in turn, at least once; what is told of a server that is not there."""
    end = time.monotonic() + job.warmup_s
    for number in count():
        if number >= len(calls) and time.monotonic() > end:
            return None
        request = job.requests[number % len(job.requests)]
        try:
            calls[number % len(calls)](request, timeout=job.timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            status: grpc.StatusCode = error.code()
            if status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return f"{status.name}: {error.details()}"
    return None


def _watch(thread: Thread, sut: Sut, pipe: Connection) -> Literal["done", "stopped", "dead"]:
    """Wait for the end of the test, of the parent's patience, or of answers where calls fail."""
    since, answered, failed = time.monotonic(), 0, 0
    while thread.is_alive():
        if pipe.poll():
            return "stopped"
        thread.join(LOOK_S)
        if sut.answered > answered:
            since, answered, failed = time.monotonic(), sut.answered, sut.failures.total()
        elif time.monotonic() - since > DEAD_S and sut.failures.total() > failed:
            return "dead"
    return "done"


def _complete(id: int) -> None:
    import mlperf_loadgen as loadgen

    loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(id, 0, 0)])


def _start(job: Job, sut: Sut, minimums: dict[str, float]) -> None:
    """LoadGen's test, from its own table of settings; it returns when the last sample is completed."""
    import mlperf_loadgen as loadgen

    settings: Any = loadgen.TestSettings()
    if settings.FromConfig("", MODEL, job.scenario, 0):  # 0: the table that is built in
        raise RuntimeError("LoadGen does not read its own table")
    settings.scenario = getattr(loadgen.TestScenario, job.scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    minimums |= {
        "seconds": settings.min_duration_ms / 1e3,
        "queries": settings.min_query_count,
        "samples": settings.performance_sample_count_override,
    }
    if job.scenario == "Server":
        minimums["bound_ms"] = settings.server_target_latency_ns / 1e6
        settings.server_target_qps = job.rate
        settings.server_target_latency_ns = round(job.bound_ms * 1e6)
    else:
        settings.offline_expected_qps = job.rate
    settings.min_duration_ms = round(job.seconds * 1e3)
    settings.performance_sample_count_override = 0  # as many as the library of samples has
    if job.queries is not None:
        settings.min_query_count = job.queries
    logs: Any = loadgen.LogSettings()
    logs.enable_trace = False
    output: Any = loadgen.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = str(job.logs), False
    logs.log_output = output
    system = loadgen.ConstructSUT(sut.issue, lambda: None)
    library = loadgen.ConstructQSL(len(job.requests), len(job.requests), lambda _: None, lambda _: None)
    loadgen.StartTestWithLogSettings(system, library, settings, logs, str(job.logs / "audit.config"))
