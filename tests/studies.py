"""Studies run by tests: the command as a process and in this one, what it left, and who is at work on it."""

import contextlib
import io
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from quorem.command import main

PATIENCE_SECONDS = 300


def command(study: Path, out: Path, *more: str) -> list[str]:
    """The command, two runs at a time."""
    return [sys.executable, "-m", "quorem", "compare", str(study), "--out", str(out), "--jobs", "2", *more]


def compare(*arguments: str | Path) -> tuple[int, str, str]:
    """Run the command in this process: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["compare", *map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


def finished(out: Path) -> dict[str, int]:
    """The finished runs, trainings and searches, and when each was finished."""
    last = [path for name in ("manifest.json", "search.json") for path in out.glob(f"runs/*/{name}")]
    return {path.parent.name: path.stat().st_mtime_ns for path in last}


def without_seconds(table: str, columns: int = 1) -> list[str]:
    """The lines of a table without its last columns."""
    return [re.sub(rf"(\|[^|]*){{{columns}}}\|$", "|", line) for line in table.splitlines()]


def until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait for something that a living process brings about."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def at_work(out: Path) -> list[int]:
    """Process numbers of the living runs of this study."""
    found = list[int]()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"{out}/runs".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found
