"""The clock: variants timed in turn on inputs that none has seen, so that their ratios come from the same minutes.

A round times each variant for a few calls, in an order that rotates from round to round. The ratio of two variants is
that of their medians within a round; told are its median, least and greatest over the rounds.
"""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Call = Callable[[], object]  # one call on inputs of its own, ready to be timed
Prepare = Callable[[], Call]  # makes the inputs of one call; not timed


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        digits = 2 if self.greatest < 100 else 0
        return f"{self.median:.{digits}f} [{self.least:.{digits}f} {self.greatest:.{digits}f}]"


@dataclass(frozen=True)
class Timed:
    """A variant's time for one call in microseconds, and how many times as fast as the first variant it is."""

    variant: str
    us: Spread
    speedup: Spread

    def as_json(self) -> dict[str, Any]:
        """For a results file: four digits."""
        rounded = {
            name: {key: float(f"{value:.4g}") for key, value in asdict(spread).items()}
            for name, spread in (("us", self.us), ("speedup", self.speedup))
        }
        return {"variant": self.variant, **rounded}


def race(variants: Mapping[str, Prepare], rounds: int, calls: int) -> list[Timed]:
    """Time all variants in turn; the first is what the others are compared with."""
    names = list(variants)
    medians: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            prepared = [variants[name]() for _ in range(calls + 1)]
            prepared[0]()  # wakes threads and fills the caches of code
            medians[name].append(statistics.median(_time(call) for call in prepared[1:]))
    base = medians[names[0]]
    return [
        Timed(name, _spread(found), _spread([first / own for first, own in zip(base, found, strict=True)]))
        for name, found in medians.items()
    ]


def calls_for(rows: int) -> int:
    """How many calls of so many rows a round times."""
    return max(3, min(200, 2048 // rows))


def machine() -> str:
    """Processor, cores, system and Python."""
    model = platform.processor() or platform.machine()
    known = Path("/proc/cpuinfo")
    if known.is_file():
        lines = [line for line in known.read_text().splitlines() if line.startswith("model name")]
        model = f"{len(lines)} x {lines[0].partition(':')[2].strip()}" if lines else model
    return f"{model}, {platform.system()}, Python {platform.python_version()}"


def _time(call: Call) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1000


def _spread(found: Sequence[float]) -> Spread:
    return Spread(statistics.median(found), min(found), max(found))
