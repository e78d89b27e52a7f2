"""Place: where one worker stands: the process that fills it now, and how those before it fared."""

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, cast

from . import worker
from .catalogue import Catalogue
from .line import error_from
from .settings import Settings, Version
from .statistics import add

FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 10.0  # before a worker is replaced: doubled with every death in a row
STEADY_S = 30.0  # a worker that served this long died of something new


@dataclass
class Place:
    """One worker's place: the process that fills it now, and how those before it fared."""

    number: int
    process: BaseProcess | None = None
    pipe: Connection | None = None
    ready: bool = False
    since: float = 0.0  # when it became ready
    due: float = 0.0  # when to start the next one
    deaths: int = 0  # in a row
    stillborn: int = 0  # deaths in a row before being ready
    restarts: int = 0  # after the first start
    reason: str = ""
    counted: dict[str, Any] = field(default_factory=dict)  # what the process told last
    past: dict[str, Any] = field(default_factory=dict)  # and what those before it did: sums never fall with a death
    opened: set[Version] = field(default_factory=set)
    opening: set[Version] = field(default_factory=set)
    serves: Catalogue | None = None
    told: Catalogue | None = None  # the last one that it was told to serve

    @property
    def pid(self) -> int:
        """The process id of the worker; 0 between two."""
        return (self.process.pid or 0) if self.process else 0

    @property
    def watched(self) -> list[Connection | int]:
        """What becomes readable when the worker speaks or dies."""
        if self.process is None:
            return []
        return [self.process.sentinel] if self.pipe is None else [self.process.sentinel, self.pipe]

    def start(self, settings: Settings, core: int | None) -> None:
        """Fill the place with a new process."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = cast("tuple[Connection, Connection]", context.Pipe())
        self.process = context.Process(target=worker.main, args=(settings, core, theirs), name=f"worker-{self.number}")
        # Ctrl-C in a terminal reaches every process; blocked signals are inherited, so it never meets a young worker.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()
        self.ready, self.reason = False, ""
        self.opened, self.opening = set(settings.catalogue.all), set()
        self.serves = self.told = settings.catalogue

    def listen(self) -> Iterator[tuple[Any, ...]]:
        """Take the words of the worker: ("failed", its refusal to start), or those of line.py; ready is noted."""
        while self.pipe is not None and self.pipe.poll():
            try:
                word = self.pipe.recv()
            except (EOFError, OSError):  # it died; its exit status says more
                self.pipe = None
                return
            if word[0] == "ready":
                self.ready, self.since, self.stillborn = True, time.monotonic(), 0
            elif word[0] == "failed":
                error = error_from(word[1])
                self.reason = str(error)
                yield "failed", error
            else:
                yield word

    def tell(self, *word: Any) -> None:
        """Tell the worker something; nothing where it is gone, of which its end will tell."""
        if self.pipe is not None:
            with suppress(OSError):
                self.pipe.send(word)

    def miscarry(self, reason: str) -> float:
        """Note that no process could be started; the seconds until the next try."""
        if self.pipe is not None:
            self.pipe.close()
        self.process, self.reason = None, reason
        return self._rest()

    def bury(self) -> float:
        """Note a death; the seconds until the next start."""
        assert self.process is not None
        status = self.process.exitcode or 0
        self.reason = self.reason or (f"signal {-status}" if status < 0 else f"exit status {status}")
        steady = self.ready and time.monotonic() - self.since >= STEADY_S
        self.deaths = 0 if steady else self.deaths
        self.process.close()
        return self._rest()

    def _rest(self) -> float:
        """Leave the place empty for a while: the longer, the more deaths in a row."""
        self.deaths += 1
        self.stillborn += not self.ready
        self.restarts += 1
        self.past, self.counted = add(self.past, self.counted), {}
        pause_s = min(LAST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self.deaths - 1, 16))
        self.process, self.pipe, self.ready, self.due = None, None, False, time.monotonic() + pause_s
        return pause_s

    def dismiss(self) -> None:
        """Tell the worker to drain: the end of the pipe is the word. One that is dead cannot hear, and need not."""
        if self.pipe is not None:
            self.pipe.close()

    def kill(self) -> None:
        """End the worker at once, if there is one."""
        if self.process is not None and self.process.is_alive():
            self.process.kill()
            self.process.join()
