"""Children: runs at work, each in a process of its own; they are watched, stopped, and end with this process."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """How many cores this process may use: those it may run on, or fewer where a container's quota grants fewer."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        limit, period = QUOTA.read_text().split()
        return max(1, min(allowed, -(-int(limit) // int(period))))
    except (OSError, ValueError):  # no cgroup v2 here, or "max"
        return allowed


@dataclass(frozen=True)
class Task:
    """A run to do: its name here, the command of quorem that does it, and the file for what it says.

    plan: the directory of the plan that is trained.
    """

    name: str
    verb: str
    recipe: Path
    out: Path
    log: Path
    resume: bool = False
    plan: Path | None = None


@dataclass(frozen=True)
class Ended:
    """A run that ended: exit status (negative: the signal), wall seconds, peak memory, what it printed."""

    name: str
    status: int
    seconds: float
    peak_bytes: int
    printed: str


class Children:
    """At most `jobs` runs at a time. The first SIGINT or SIGTERM has them saved and ended, a second one killed.

    jobs: how many. device: as `quorem train` takes it. held: a file descriptor that lives as long as the last of them.
    stopping: whether a signal came; nothing is to be started any more.
    """

    def __init__(self, jobs: int, device: str, held: int | None = None) -> None:
        self.jobs, self.device, self.stopping = jobs, device, False
        self._threads = max(1, cores() // jobs)
        self._held = () if held is None else (held,)
        self._at_work = dict[str, tuple[subprocess.Popen[str], threading.Thread]]()
        self._events = queue.SimpleQueue[Ended | None]()  # the one that a signal handler may put into
        self._signals = 0

    def __enter__(self) -> Self:
        """Take over SIGINT and SIGTERM."""
        self._before = {kind: signal.signal(kind, self._asked) for kind in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Kill what is at work still, and give the signals back."""
        self._tell(signal.SIGKILL)
        for _, watcher in self._at_work.values():
            watcher.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def busy(self) -> int:
        """How many are at work."""
        return len(self._at_work)

    def start(self, task: Task) -> None:
        """Start a run."""
        command = [sys.executable, "-m", f"{__package__}.child", task.verb, str(task.recipe), "--out", str(task.out)]
        command += ["--device", self.device, "--json", "--quiet", *(["--resume"] if task.resume else [])]
        command += [] if task.plan is None else ["--plan", str(task.plan)]
        with task.log.open("wb") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # see child.py: its end is the child's
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                env=os.environ | {"OMP_NUM_THREADS": str(self._threads)},
                process_group=0,  # Ctrl-C in a terminal is this process's to pass on, once
                pass_fds=self._held,
            )
        watcher = threading.Thread(target=self._watch, args=(task.name, child), daemon=True)
        self._at_work[task.name] = child, watcher
        watcher.start()

    def next(self) -> Ended:
        """The next run that ends."""
        while True:
            event = self._events.get()
            if event is not None:
                _, watcher = self._at_work.pop(event.name)
                watcher.join()
                return event
            self._signals += 1
            self._tell(signal.SIGINT if self._signals == 1 else signal.SIGKILL)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        self._events.put(None)

    def _tell(self, number: signal.Signals) -> None:
        for child, _ in self._at_work.values():
            with suppress(ProcessLookupError):  # it has ended, and waits in the queue
                os.kill(child.pid, number)

    def _watch(self, name: str, child: "subprocess.Popen[str]") -> None:
        start = time.perf_counter()
        assert child.stdin
        assert child.stdout
        with child.stdin, child.stdout:
            printed = child.stdout.read()
            _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        peak = used.ru_maxrss if sys.platform == "darwin" else used.ru_maxrss * 1024
        self._events.put(Ended(name, child.returncode, time.perf_counter() - start, peak, printed))
