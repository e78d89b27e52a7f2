"""Drive: client processes that send calls, and what came of the calls, one window of time after the other.

A closed loop sends its next call when the last is answered; calls of an open one are sent when they are due, whatever
became of those before, and their latency is counted from then.
"""

import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Self, cast

import numpy as np
from hdrh.histogram import HdrHistogram

from ...protos.errors import Unavailable
from ...protos.ids import Int64s
from ..channel import Access
from ..statuses import Status
from .load import Load
from .loops import CONNECT_S, NOTES, Closed, Job, Poisson, Report, Stop, work
from .result import LEAST_NS, MOST_NS, histogram

Arrivals = Closed | Poisson
LATE_NS = 1_000_000
HEAD_START_NS = 20_000_000  # for the word to reach every client process before the clock starts
JOIN_S = 30.0
KEPT_BITS = 12  # of a number on its way into a histogram, which keeps 11


@dataclass
class Window:
    """What came of a window of time, or of several.

    latencies, failed: nanoseconds of the calls that were due in it and were answered, or were not.
    failures: of the latter, by status.
    late: nanoseconds by which those that have a schedule were sent after it; overdue: how many over a millisecond.
    answers, rows: calls answered within it, whenever they were due, and their rows.
    wall_s: its length. cpu_s: of all client processes. busiest: the greatest share of a core that one of them used.
    """

    latencies: HdrHistogram = field(default_factory=histogram)
    failed: HdrHistogram = field(default_factory=histogram)
    late: HdrHistogram = field(default_factory=histogram)
    failures: Counter[str] = field(default_factory=Counter)
    overdue: int = 0
    answers: int = 0
    rows: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    busiest: float = 0.0

    @property
    def answered(self) -> int:
        """Calls that were due in it and were answered."""
        return self.latencies.get_total_count()

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.wall_s if self.wall_s else 0.0

    def add(self, other: "Window") -> None:
        """Join another window of the same calls."""
        for mine, theirs in (
            (self.latencies, other.latencies),
            (self.failed, other.failed),
            (self.late, other.late),
        ):
            mine.add(theirs)
        self.failures.update(other.failures)
        self.overdue += other.overdue
        self.answers += other.answers
        self.rows += other.rows
        self.wall_s += other.wall_s
        self.cpu_s += other.cpu_s
        self.busiest = max(self.busiest, other.busiest)


def record(into: HdrHistogram, values: Int64s) -> None:
    """Count nanoseconds: the same as recording each, but those that share a bucket together."""
    clipped = np.clip(values, LEAST_NS, MOST_NS)
    spare_bits = np.maximum(np.frexp(clipped.astype(np.float64))[1] - KEPT_BITS, 0)
    for value, times in zip(*np.unique(clipped >> spare_bits << spare_bits, return_counts=True), strict=True):
        into.record_value(int(value), int(times))


def window_of(calls: Int64s, counts: Int64s, begin: int, end: int, *, scheduled: bool) -> Window:
    """What came of the time from `begin` to `end`, without the clients' own cost.

    Args:
        calls: (calls, NOTES) int64, more than those of the window.
        counts: rows of each request.
        begin: nanoseconds, as in `calls`.
        end: the same.
        scheduled: whether the calls were due at a time of their own.
    """
    window = Window(wall_s=(end - begin) / 1e9)
    arrived = calls[(calls[:, 2] >= begin) & (calls[:, 2] < end) & (calls[:, 4] == 0)]
    window.answers, window.rows = len(arrived), int(counts[arrived[:, 3]].sum())
    due, sent, ended, _, status = calls[(calls[:, 0] >= begin) & (calls[:, 0] < end)].T
    record(window.latencies, (ended - due)[status == 0])
    record(window.failed, (ended - due)[status != 0])
    codes, times = np.unique(status[status != 0], return_counts=True)
    window.failures.update({Status(code).name: int(n) for code, n in zip(codes, times, strict=True)})
    if scheduled:
        record(window.late, sent - due)
        window.overdue = int((sent - due > LATE_NS).sum())
    return window


def shares(arrivals: Arrivals, processes: int) -> list[Arrivals]:
    """What each process does of it: loops are dealt out, a rate is split; as many shares as processes have one."""
    if isinstance(arrivals, Poisson):
        return [replace(arrivals, rate=arrivals.rate / processes)] * processes
    dealt = [len(range(number, arrivals.concurrency, processes)) for number in range(processes)]
    return [Closed(each) for each in dealt if each]


class Silent(Unavailable):
    """A window without an answer but with failures."""

    def __init__(self, window: Window, endpoint: str) -> None:
        failures = ", ".join(f"{count} x {status}" for status, count in window.failures.most_common())
        super().__init__(
            "the server answers",
            found=f"no answer in {window.wall_s:.3g} s: {failures}",
            where=endpoint,
            remedy="Check that it serves this model, and see its log",
        )
        self.window = window


class _Client:
    """A client process, and what it reported."""

    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self.process, self.pipe = process, pipe

    def begin(self, start: int) -> None:
        """Give it the word to start."""
        self.floor, self._at, self._cpu_s = 0, list[int](), list[float]()
        self.pipe.send(start)

    def calls(self) -> Int64s:
        """Read a report; its calls, (calls, NOTES)."""
        report: Report = self.pipe.recv()
        self.floor = min(report.floor, report.at)
        self._at.append(report.at)
        self._cpu_s.append(report.cpu_s)
        return np.frombuffer(report.calls, np.int64).reshape(-1, NOTES)

    def used_s(self, begin: int, end: int) -> float:
        """Processor seconds between two times."""
        first, last = np.interp([begin, end], self._at, self._cpu_s)
        return float(last - first)


class Drivers:
    """Client processes, started once and used for every cell of a bench."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._clients = list[_Client]()
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is this process's to answer
        try:
            for _ in range(count):
                ours, theirs = cast("tuple[Connection, Connection]", context.Pipe())
                process = context.Process(target=work, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                self._clients.append(_Client(process, ours))
        finally:
            signal.signal(signal.SIGINT, before)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.pipe.close()
            if error is not None:
                client.process.terminate()
        for client in self._clients:
            client.process.join(JOIN_S)

    def windows(
        self,
        access: Access,
        path: str,
        load: Load,
        arrivals: Arrivals,
        warmup_s: float,
        window_s: float,
        timeout_s: float,
    ) -> Generator[Window, None, None]:
        """Keep calls going, without a pause, and tell what came of each window once all that were due in it have ended.

        Closing it ends the calls: those in flight are waited for. After an interruption the processes are gone.

        Raises:
            Unavailable: no connection, a window without an answer but with failures, or a client process died.
        """
        parts = shares(arrivals, len(self._clients))
        jobs = [
            Job(access, path, load.requests, number * len(load.requests) // len(parts), part, number, timeout_s)
            for number, part in enumerate(parts)
        ]
        told = _Told(self._clients[: len(jobs)], access.endpoint, np.asarray(load.counts), arrivals)
        try:
            yield from _windows(told, jobs, int(warmup_s * 1e9), int(window_s * 1e9))
        except (GeneratorExit, Unavailable):
            raise
        except BaseException as error:
            for client in self._clients:  # a report may have been cut short: there is no talking to them any more
                client.process.terminate()
            if isinstance(error, (EOFError, ConnectionError)):
                raise Unavailable("a bench's client processes live", found="one that died", where="bench") from None
            raise


def _windows(told: "_Told", jobs: Sequence[Job], warmup_ns: int, window_ns: int) -> Generator[Window, None, None]:
    try:
        for client, job in zip(told.clients, jobs, strict=True):
            client.pipe.send(job)
        connected = [client.pipe.recv() for client in told.clients]
        if not all(connected):
            raise Unavailable(
                "the server takes connections",
                found=f"none in {min(CONNECT_S, jobs[0].timeout_s):g} s",
                where=told.endpoint,
                remedy="Check that it still runs",
            )
        start = time.perf_counter_ns() + HEAD_START_NS
        for client in told.clients:
            client.begin(start)
        told.window(start, start + warmup_ns)
        for begin in count(start + warmup_ns, window_ns):
            yield told.window(begin, begin + window_ns)
    except (GeneratorExit, Unavailable) as reason:
        for client in told.clients:
            client.pipe.send(Stop(cancel=isinstance(reason, Unavailable)))
        for client in told.clients:
            while client.pipe.recv() is not None:
                pass
        raise


class _Told:
    """What client processes told of their calls, cut into windows."""

    def __init__(self, clients: Sequence[_Client], endpoint: str, counts: Int64s, arrivals: Arrivals) -> None:
        self.clients, self.endpoint = clients, endpoint
        self._counts, self._scheduled = counts, isinstance(arrivals, Poisson)
        self._calls = np.empty((0, NOTES), np.int64)

    def window(self, begin: int, end: int) -> Window:
        """The next one, once all calls that were due in it have ended.

        Raises:
            Silent: they all failed.
        """
        reports = [self._calls]
        pipes = {client.pipe: client for client in self.clients}
        while min(client.floor for client in self.clients) < end:
            reports += [pipes[cast("Connection", pipe)].calls() for pipe in wait(list(pipes))]
        calls = np.concatenate(reports)
        window = window_of(calls, self._counts, begin, end, scheduled=self._scheduled)
        used_s = [client.used_s(begin, end) for client in self.clients]
        window.cpu_s, window.busiest = sum(used_s), max(used_s) / window.wall_s if window.wall_s else 0.0
        self._calls = calls[calls[:, 2] >= end]  # answered in a later window, or due in one
        if window.failures and not window.answered:
            raise Silent(window, self.endpoint)
        return window
