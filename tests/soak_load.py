"""Soak load: client processes that call a server at a given rate, whatever becomes of the calls, and check every reply.

Every thread has a connection of its own, one call in flight on it, and takes a new one now and then, as callers of a
server whose workers come and go do. Times are of the monotonic clock, which all processes of a machine share.
"""

import multiprocessing
import random
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import cast

import grpc
from quorem.serve.channel import Access
from soak_versions import Asked

TIMEOUT_S = 30.0
AGE_S = 10.0  # of a connection
MOST_LATE_S = 1.0  # beyond which a caller gives up the calls that it owes
TOLD = 20  # wrong replies that are told in words
AFTER_FAILURE_S = 0.01


@dataclass
class Seen:
    """A version that a connection saw for a while: replies that named it, without another between them.

    first: the end of the first call. begun: the begin of the last one. last: its end.
    """

    version: int
    first: float
    begun: float
    last: float


@dataclass(frozen=True)
class Failed:
    """A call that was not answered."""

    status: str
    details: str
    begun: float
    ended: float


@dataclass
class Heard:
    """What callers heard.

    right: replies by the version that they named. wrong: of the others, the first few in words.
    trails: of one connection each, those of calls by label apart from the others.
    given_up: calls that were due and never made. latencies: seconds from when a call was due to its reply.
    """

    right: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    wrong_count: int = 0
    failed: list[Failed] = field(default_factory=list)
    trails: list[list[Seen]] = field(default_factory=list)
    labelled: list[list[Seen]] = field(default_factory=list)
    given_up: int = 0
    latencies: "array[float]" = field(default_factory=lambda: array("f"))

    def add(self, other: "Heard") -> None:
        """Merge what others heard."""
        self.right.update(other.right)
        for name in ("wrong", "failed", "trails", "labelled", "latencies"):
            getattr(self, name).extend(getattr(other, name))
        self.wrong_count += other.wrong_count
        self.given_up += other.given_up


class Callers:
    """Client processes: `calls` of them at first in a closed loop, then at a rate."""

    def __init__(self, address: str, asked: Sequence[Asked], processes: int, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._count = processes
        self._pipes, self._processes = list[Connection](), list[BaseProcess]()
        for number in range(processes):
            ours, theirs = cast("tuple[Connection, Connection]", spawn.Pipe())
            process = spawn.Process(target=_work, args=(theirs, address, asked, threads, number), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def begin(self, seconds: float, rate: float | None) -> None:
        """Have them call for a while: `rate` calls a second in all, or each when its last one is answered."""
        for pipe in self._pipes:
            pipe.send((seconds, rate and rate / self._count))

    def end(self) -> Heard:
        """What they heard, once they are done."""
        heard = Heard()
        for pipe in self._pipes:
            heard.add(pipe.recv())
        return heard

    def close(self) -> None:
        """End them."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join(2 * TIMEOUT_S)


def _work(pipe: Connection, address: str, asked: Sequence[Asked], threads: int, number: int) -> None:
    try:
        while True:
            seconds, rate = pipe.recv()
            parts = [Heard() for _ in range(threads)]
            callers = [
                Thread(target=_Caller(address, asked, number * threads + at, part).run, args=(seconds, rate, threads))
                for at, part in enumerate(parts)
            ]
            for each in callers:
                each.start()
            for each in callers:
                each.join()
            heard = Heard()
            for part in parts:
                heard.add(part)
            pipe.send(heard)
    except (EOFError, KeyboardInterrupt):
        return


class _Caller:
    def __init__(self, address: str, asked: Sequence[Asked], number: int, heard: Heard) -> None:
        self._access, self._asked, self._heard = Access(address), asked, heard
        self._dice = random.Random(number)

    def run(self, seconds: float, rate: float | None, threads: int) -> None:
        """Call until the time is over; a call's latency counts from when it was due."""
        start = time.monotonic()
        end, pause_s = start + seconds, threads / rate if rate else 0.0
        due = start + pause_s * self._dice.random()
        while True:
            with self._access.channel() as channel:
                calls = {each.path: channel.unary_unary(each.path) for each in self._asked}
                trail, labelled = list[Seen](), list[Seen]()
                renew = min(end, time.monotonic() + AGE_S * self._dice.uniform(0.5, 1.5))
                while (now := time.monotonic()) < renew and due < end:
                    if due > now:
                        time.sleep(due - now)
                    elif rate and now - due > MOST_LATE_S:
                        lost = int((now - due) / pause_s)
                        self._heard.given_up += lost
                        due += lost * pause_s
                    asked = self._dice.choice(self._asked)
                    self._call(calls[asked.path], asked, labelled if asked.labelled else trail, due if rate else now)
                    due = due + pause_s if rate else time.monotonic()
                self._heard.trails += [trail] if trail else []
                self._heard.labelled += [labelled] if labelled else []
            if renew >= end or due >= end:
                return

    def _call(self, call: grpc.UnaryUnaryMultiCallable, asked: Asked, trail: list[Seen], due: float) -> None:
        begun = time.monotonic()
        try:
            reply: bytes = call(asked.request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            failure = Failed(error.code().name, str(error.details()), begun, time.monotonic())
            self._heard.failed.append(failure)
            time.sleep(AFTER_FAILURE_S)
            return
        ended = time.monotonic()
        version, wrong = asked.answered(reply)
        if wrong:
            self._heard.wrong_count += 1
            self._heard.wrong += [f"{asked.path}: {wrong}"] if len(self._heard.wrong) < TOLD else []
        else:
            self._heard.right[version] += 1
        if trail and trail[-1].version == version:
            trail[-1].begun, trail[-1].last = begun, ended
        else:
            trail.append(Seen(version, ended, begun, ended))
        self._heard.latencies.append(ended - due)
