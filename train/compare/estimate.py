"""The estimate: how long what is left will take, from finished runs of the same kind, or from a probe (probe.py)."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from .results import Result
from .training import Kind, Run


@dataclass
class Costs:
    """Seconds of a run, by its kind.

    measured: of each finished run. guessed: from probes, for kinds without a finished one. unknown: why a probe failed.
    """

    measured: dict[Kind, list[float]] = field(default_factory=dict)
    guessed: dict[Kind, float] = field(default_factory=dict)
    unknown: dict[Kind, str] = field(default_factory=dict)

    def learn(self, run: Run, result: Result) -> None:
        """Take up a finished run."""
        if result.seconds is not None:
            self.measured.setdefault(run.kind, []).append(result.seconds)

    def of(self, kind: Kind) -> float | None:
        """Seconds of one run of a kind; None where they are not known."""
        if found := self.measured.get(kind):
            return statistics.fmean(found)
        if kind.trial:
            one = self.of(kind.trial)
            return None if one is None else kind.trials * one
        return self.guessed.get(kind)

    def left(self, runs: Iterable[Run], jobs: int) -> float | None:
        """Seconds until those of these runs are done whose cost is known, `jobs` at a time; None where none is."""
        known = [seconds for run in runs if (seconds := self.of(run.kind)) is not None]
        return max(sum(known) / jobs, max(known)) if known else None


def told(runs: Iterable[Run], costs: Costs, jobs: int) -> list[str]:
    """The estimate in words: a line for each kind of run that is left, then one for all."""
    count = dict[Kind, int]()
    left = list(runs)
    for run in left:
        count[run.kind] = count.get(run.kind, 0) + 1
    lines = [_line(kind, number, costs) for kind, number in count.items()]
    seconds = costs.left(left, jobs)
    least = "at least" if any(costs.of(kind) is None for kind in count) else "about"
    return [*lines, f"in all {'not known' if seconds is None else f'{least} {duration(seconds)}'}, {jobs} at a time"]


def _line(kind: Kind, number: int, costs: Costs) -> str:
    seconds, measured = costs.of(kind), len(costs.measured.get(kind, ()))
    probed = kind.trial or kind
    if seconds is None:
        why = f": {costs.unknown[probed]}" if probed in costs.unknown else ""
        return f"{number:5} x {kind.name}: not known{why}"
    source = "as many trainings" if kind.trial else "from a short probe"
    source = f"mean of {measured} finished" if measured else source
    return f"{number:5} x {kind.name}: about {duration(seconds)} a run ({source})"


def duration(seconds: float) -> str:
    """Seconds as a reader has them: 42 s, 5 min, 2 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
