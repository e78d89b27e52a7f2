"""Supervisor: starts the workers, replaces those that die, and drains them all when told to stop.

It loads neither grpc nor a model: a process that does may not start others safely, and would hold memory for nothing.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import wait
from queue import SimpleQueue
from typing import Any

from .errands import Errands
from .metrics import Server
from .place import Place
from .port import Port
from .rollout import Rollout
from .settings import Settings
from .verified import Verified

GIVE_UP = 5  # deaths in a row before a worker was ever ready
SNAPSHOT_S = 5.0  # for all workers to tell what they have counted
OVERTIME_S = 5.0  # beyond the grace, before a worker that does not end is killed


class Supervisor:
    """The workers of one server. Call `run` in the main thread: it handles SIGTERM and SIGINT."""

    def __init__(self, settings: Settings, port: Port, verified: Verified) -> None:
        self._settings = replace(settings, host=port.host, port=port.number)
        self._places = [Place(number) for number in range(settings.workers)]
        self._announced = False
        self._waker, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)
        self._waker.setblocking(False)
        self._rollout = Rollout(
            settings.root, settings.policy, settings.catalogue, verified, settings.watch_s, self.wake, _tell
        )
        self._errands = Errands(self._places, self._rollout, _tell)
        self._requests = SimpleQueue[Callable[[Any], None]]()

    def wake(self) -> None:
        """Have the main thread look at what has changed; from any thread."""
        with suppress(BlockingIOError):  # it is awake
            self._waker.send(b"1")

    def snapshot(self) -> dict[str, Any]:
        """What all workers have counted, and how they fare; from another thread than the main one."""
        found = Future[dict[str, Any]]()
        self._requests.put(found.set_result)
        self.wake()
        return found.result(SNAPSHOT_S)

    @property
    def facts(self) -> Server:
        """What metrics tell of the processes; from any thread."""
        pids = {"supervisor": os.getpid()}
        pids |= {f"worker-{place.number}": place.pid for place in self._places if place.pid}
        return Server(
            self._errands.serving,
            self._settings.device,
            self._settings.transport,
            pids,
            sum(place.ready for place in self._places),
            sum(place.restarts for place in self._places),
        )

    def run(self, announce: Callable[[list[int]], None]) -> int:
        """Serve until SIGTERM or SIGINT; the exit status: 0, or 1 when workers cannot be kept alive.

        `announce` gets the workers' process ids once all of them are ready.

        Raises:
            QuoremError: a worker refused to start at first (a graph that does not open, a port that is taken).
        """
        with _signals() as stop:
            try:
                while True:
                    self._start_due()
                    self._wait(stop)
                    if _told(stop):
                        return self._drain(stop)
                    self._listen()
                    self._bury()
                    while not self._requests.empty():
                        self._errands.count(self._requests.get())
                    self._errands.advance()
                    if not self._announced and all(place.ready for place in self._places):
                        self._announced = True
                        announce([place.pid for place in self._places])
                        self._rollout.watch()
                    if any(place.ready for place in self._places):
                        continue  # those that serve go on, and the others are tried again
                    if worst := next((place for place in self._places if place.stillborn >= GIVE_UP), None):
                        _tell(f"worker {worst.number} died {GIVE_UP} times before it could serve: {worst.reason}")
                        self._drain(stop)
                        return 1
            finally:
                for place in self._places:
                    place.kill()

    def _start_due(self) -> None:
        cores = self._settings.cores
        for place in self._places:
            if place.process is None and time.monotonic() >= place.due:
                try:
                    place.start(
                        replace(self._settings, catalogue=self._errands.serving),
                        cores[place.number % len(cores)] if cores else None,
                    )
                except OSError as error:  # no memory, process or descriptor left: perhaps a moment later
                    pause_s = place.miscarry(str(error))
                    _tell(f"worker {place.number} cannot start: {error}; it is tried again in {pause_s:.1f} s")

    def _wait(self, stop: socket.socket) -> None:
        """Until a worker speaks or dies, a signal comes, or a worker is due."""
        dues = [place.due for place in self._places if place.process is None]
        timeout = max(0.0, min(dues) - time.monotonic()) if dues else None
        wait([stop, self._wakes, *(each for place in self._places for each in place.watched)], timeout)
        with suppress(BlockingIOError):
            self._wakes.recv(4096)

    def _listen(self) -> None:
        for place in self._places:
            for word in place.listen():
                if word[0] != "failed":
                    self._errands.hear(place, word)
                elif not self._announced:
                    raise word[1]

    def _bury(self) -> None:
        for place in self._places:
            if place.process is not None and not place.process.is_alive():
                pause_s = place.bury()
                _tell(f"worker {place.number} ended: {place.reason}; the next one starts in {pause_s:.1f} s")

    def _drain(self, stop: socket.socket) -> int:
        """Tell every worker to finish its calls and end; a second Ctrl-C ends them at once.

        A second SIGTERM does not: who stops a group of processes sends it twice.
        """
        for place in self._places:
            place.dismiss()
        deadline = time.monotonic() + self._settings.grace_s + OVERTIME_S
        while running := [
            place.process.sentinel for place in self._places if place.process and place.process.is_alive()
        ]:
            left = deadline - time.monotonic()
            if left <= 0 or signal.SIGINT in _told(stop):
                _tell(f"{len(running)} workers did not end in time and are killed")
                return 1
            wait([stop, *running], left)
        return 0


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that becomes readable on SIGTERM and SIGINT, instead of what they did before."""
    readable, writable = socket.socketpair()
    readable.setblocking(False)
    writable.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    wakeup = signal.set_wakeup_fd(writable.fileno())
    try:
        yield readable
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        readable.close()
        writable.close()


def _told(stop: socket.socket) -> bytes:
    """The numbers of the signals that came."""
    try:
        return stop.recv(64)
    except BlockingIOError:
        return b""


def _tell(message: str) -> None:
    with suppress(OSError):  # a reader that has gone, a full disk: no reason to stop serving
        print(f"quorem serve (pid {os.getpid()}): {message}", file=sys.stderr, flush=True)
