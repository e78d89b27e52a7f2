"""Steps: commands of quorem as child processes of the demo: timed, logged, watched for memory, and ended with it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from .protos.errors import QuoremError

LOG = "demo.log"
TAIL_LINES = 20
READY_SECONDS = 60.0
GRACE_SECONDS = 15.0  # a server that drains takes up to 10
SAMPLE_SECONDS = 0.25
PROC = Path("/proc")


class Steps:
    """The demo's children, one after the other, with a server beside them."""

    def __init__(self, out: Path, console: Console) -> None:
        self.out, self.console = out, console
        self.done = list[dict[str, Any]]()  # name, command, seconds, peak_bytes
        self.memory = Memory()
        self._children = list[subprocess.Popen[str]]()

    def __enter__(self) -> "Steps":
        self.memory.start()
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._children):
            _end(child)
        self.memory.stop()

    def run(self, name: str, *arguments: str) -> dict[str, Any]:
        """Run `quorem ARGUMENTS --json` to its end; the object that it printed.

        Raises:
            QuoremError: it failed; the end of the log is shown.
        """
        with self._step(name, arguments):
            child = self._start(arguments)
            printed, _ = child.communicate()
            self._log(printed)
            if child.returncode:
                raise self._failure(arguments, f"exit status {child.returncode}")
        return json.loads(printed)

    def serve(self, *arguments: str) -> tuple["subprocess.Popen[str]", dict[str, Any]]:
        """Start `quorem ARGUMENTS --json`, a server; it and its line of readiness.

        Raises:
            QuoremError: it ended, or was not ready in time; the end of the log is shown.
        """
        with self._step("serve", arguments):
            child = self._start(arguments)
            assert child.stdout
            patience = threading.Timer(READY_SECONDS, child.kill)
            patience.start()
            line = child.stdout.readline()
            patience.cancel()
            self._log(line)
            if not line:
                raise self._failure(arguments, f"exit status {child.wait()} before it was ready")
        return child, json.loads(line)

    def stop(self, server: "subprocess.Popen[str]") -> None:
        """Tell the server to end, and wait until it has drained.

        Raises:
            QuoremError: it ended otherwise than well.
        """
        if status := _end(server):
            raise self._failure(("serve",), f"exit status {status}")

    @contextmanager
    def _step(self, name: str, arguments: Sequence[str]) -> Iterator[None]:
        """Show that a step is under way, then how long it took."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        start = time.perf_counter()
        self.memory.lap()
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            progress.add_task(name)
            yield
        seconds, peak = round(time.perf_counter() - start, 2), self.memory.lap()
        self.done.append({"name": name, "command": _told(arguments), "seconds": seconds, "peak_bytes": peak})
        self.console.print(f"{name:<12} {seconds:6.1f} s" + (f" {peak / 1e6:8,.0f} MB" if peak else ""))

    def _start(self, arguments: Sequence[str]) -> "subprocess.Popen[str]":
        self._log(f"$ {_told(arguments)}\n")
        with (self.out / LOG).open("ab") as log, _undisturbed():
            child = subprocess.Popen(
                [sys.executable, "-m", "quorem", *arguments, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
            )
            self._children.append(child)
        return child

    def _log(self, text: str) -> None:
        with (self.out / LOG).open("a", encoding="utf-8") as log:
            log.write(text)

    def _failure(self, arguments: Sequence[str], found: str) -> QuoremError:
        lines = (self.out / LOG).read_text("utf-8", errors="replace").splitlines()
        self.console.print("\n".join(lines[-TAIL_LINES:]), style="dim", markup=False, soft_wrap=True)
        return QuoremError(
            "every step of the demo ends well",
            found=f"{found}, from `{_told(arguments)}`",
            where=str(self.out / LOG),
            remedy="The end of that log tells why",
        )


class Memory:
    """Memory of this process and all below it, sampled: proportional set sizes, so that what is shared counts once.

    Where there is no /proc, nothing is known: sizes are 0 and peaks are those of the largest child.
    """

    def __init__(self) -> None:
        self._lap, self._highest = 0, 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def stop(self) -> None:
        """Sample no more."""
        self._stopping.set()
        self._thread.join()

    def lap(self) -> int:
        """The peak since the last call, in bytes."""
        peak, self._lap = self._lap, 0
        return peak

    def peak(self) -> int:
        """The peak of all, in bytes: the highest sample, or the largest process that ended, if that was more."""
        return max(self._highest, _largest_child())

    def of_processes(self, pids: Sequence[int]) -> int:
        """What these processes hold together, in bytes."""
        return sum(_proportional(pid) for pid in pids)

    def of_files(self, pids: Sequence[int], files: Mapping[str, Path]) -> dict[str, int]:
        """Name -> bytes of its file that these processes hold mapped in memory, pages that they share counted once."""
        names, held = {str(path.resolve()): name for name, path in files.items()}, dict.fromkeys(files, 0)
        for pid in pids:
            name = None
            for line in _lines(PROC / str(pid) / "smaps"):
                words = line.split(maxsplit=5)
                if not words[0].endswith(":"):  # a mapping's header: address, rights, offset, device, inode, path
                    name = names.get(words[5]) if len(words) > 5 else None
                elif words[0] == "Pss:" and name is not None:
                    held[name] += int(words[1]) * 1024
        return held

    def _watch(self) -> None:
        while not self._stopping.wait(SAMPLE_SECONDS):
            now = self.of_processes(_family())
            self._lap, self._highest = max(self._lap, now), max(self._highest, now)


def _family() -> list[int]:
    """This process and all below it."""
    children = dict[int, list[int]]()
    for stat in PROC.glob("[0-9]*/stat"):
        for line in _lines(stat):
            parent = int(line.rpartition(")")[2].split()[1])  # after the name, which may hold spaces: state, parent
            children.setdefault(parent, []).append(int(stat.parent.name))
    family = [os.getpid()]
    for pid in family:
        family += children.get(pid, [])
    return family


def _proportional(pid: int) -> int:
    sizes = [line.split()[1] for line in _lines(PROC / str(pid) / "smaps_rollup") if line.startswith("Pss:")]
    return sum(int(size) * 1024 for size in sizes)


def _lines(path: Path) -> list[str]:
    """The lines of a file of /proc; none when its process has gone."""
    try:
        return path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _largest_child() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def _told(arguments: Sequence[str]) -> str:
    return shlex.join(["quorem", *arguments])


@contextmanager
def _undisturbed() -> Iterator[None]:
    """What would stop the demo meanwhile stops it afterwards: no child is born that nobody knows of."""
    came = list[int]()
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _end(child: "subprocess.Popen[str]") -> int:
    """End a child, kindly at first; its exit status."""
    with child:  # closes its pipe
        child.terminate()  # does nothing to one that has ended
        try:
            return child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()
