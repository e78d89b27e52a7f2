"""The race: variants in processes of their own that step in turn, so that their ratios come from the same minutes.

A round lets each variant take a few steps, in an order that rotates. Told are medians over the rounds, with the least
and the greatest; a ratio is that of two variants within a round.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A variant (worker.py), its rows and its columns' sizes, and the Python that runs it (None: this one)."""

    name: str
    variant: str
    rows: Path
    sizes: Sequence[int]
    python: Path | None


def race(
    entries: Sequence[Entry], *, rounds: int, steps: int, threads: int
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """By name: `wall` and `cpu` seconds of a step, round by round, `held` and `resident` bytes; and who cannot run."""
    workers, found, notes = dict[str, subprocess.Popen[str]](), dict[str, dict[str, Any]](), list[str]()
    try:
        for entry in entries:
            worker = _start(entry, threads)
            if (line := _answer(worker)) is None:
                notes.append(f"{entry.name} could not run: {_last_words(worker)}")
                continue
            workers[entry.name], found[entry.name] = worker, {**line, "wall": [], "cpu": []}
        names = list(workers)
        for number in range(rounds):
            start = number % len(names)
            for name in names[start:] + names[:start]:
                print(steps, file=workers[name].stdin, flush=True)
                line = _answer(workers[name])
                assert line is not None, f"{name} ended"
                for key in ("wall", "cpu"):
                    found[name][key].append(round(line[key], 6))
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    return found, notes


def medians(cell: dict[str, Any], key: str) -> tuple[float, float, float]:
    """Median, least and greatest of a cell's rounds."""
    return statistics.median(cell[key]), min(cell[key]), max(cell[key])


def ratio(one: dict[str, Any], other: dict[str, Any], key: str) -> tuple[float, float, float]:
    """Of the times of another variant to those of one, round by round: how many times as fast the one is."""
    shares = [theirs / own for own, theirs in zip(one[key], other[key], strict=True)]
    return statistics.median(shares), min(shares), max(shares)


def _start(entry: Entry, threads: int) -> subprocess.Popen[str]:
    sizes = ",".join(map(str, entry.sizes))
    command = [str(entry.python or sys.executable), "-W", "ignore", "-m", "benchmarks.training.worker"]
    return subprocess.Popen(
        [*command, entry.variant, str(entry.rows), sizes, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _answer(worker: subprocess.Popen[str]) -> dict[str, Any] | None:
    """The next line of JSON; a package may say other things before it. None: the worker has ended."""
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith("{"):
            return json.loads(line)
    return None


def _last_words(worker: subprocess.Popen[str]) -> str:
    assert worker.stderr is not None
    return (worker.stderr.read().strip().splitlines() or ["it said nothing"])[-1][:200]
