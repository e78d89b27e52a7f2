"""The estimate: how long what is left will take, from finished runs of the same kind, or from a short probe of it."""

import json
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ...protos import manifest as manifests
from ...protos.errors import QuoremError
from ...protos.partitions import LARGEST_ID
from .. import data
from ..progress import METRICS
from ..recipe_file import read_recipe, to_toml
from .children import Children, Task
from .results import Result, last_words
from .training import Kind, Run

PROBE_ROWS, PROBE_EPOCHS = 40_000, 2
FORWARD_SHARE = 1 / 3  # of what a training row costs, for a row that is only scored


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
        found = self.measured.get(kind)
        return statistics.fmean(found) if found else self.guessed.get(kind)

    def left(self, runs: Iterable[Run], jobs: int) -> float | None:
        """Seconds until those of these runs are done whose cost is known, `jobs` at a time; None where none is."""
        known = [seconds for run in runs if (seconds := self.of(run.kind)) is not None]
        return max(sum(known) / jobs, max(known)) if known else None


def probe(runs: Iterable[Run], costs: Costs, children: Children) -> None:
    """Guess the seconds of every kind of run that nothing is known of.

    Each is trained for two epochs on few rows: the second one's rate is the price of a row, and what the epochs do not
    explain is the fixed cost.
    """
    first = dict[Kind, Run]()
    for run in runs:
        if costs.of(run.kind) is None:
            first.setdefault(run.kind, run)
    with tempfile.TemporaryDirectory(prefix="quorem-") as name:
        tasks = {task.name: (task, run) for run in first.values() for task in [_task(run, Path(name))]}
        waiting = list(tasks)
        while (waiting and not children.stopping) or children.busy:
            while waiting and children.busy < children.jobs and not children.stopping:
                children.start(tasks[waiting.pop(0)][0])
            ended = children.next()
            task, run = tasks[ended.name]
            if ended.status:
                costs.unknown[run.kind] = last_words(task.log) or f"exit status {ended.status}"
                continue
            trained = manifests.read(task.out).training
            lines = (task.out / METRICS).read_text("utf-8").splitlines()
            probed = Probed(ended.seconds, [json.loads(line)["rows_per_s"] for line in lines])
            with suppress(QuoremError):  # the runs will say it
                whole = _rows(run)
                costs.guessed[run.kind] = probed.extrapolate(
                    (trained.train_rows, trained.valid_rows), (whole["train"], whole["valid"]), run.epochs
                )


@dataclass(frozen=True)
class Probed:
    """What a probe took: seconds in all, and training rows a second of each epoch."""

    seconds: float
    rates: list[float]

    def extrapolate(self, few: tuple[int, int], whole: tuple[int, int], epochs: int) -> float:
        """Seconds of a run on `whole` instead of `few` rows, (training, validation) each."""
        fixed = self.seconds - sum(_epoch(few, rate) for rate in self.rates)
        return max(0.0, fixed) + epochs * _epoch(whole, self.rates[-1])


def _epoch(rows: tuple[int, int], rate: float) -> float:
    train, valid = rows
    return (train + valid * FORWARD_SHARE) / max(rate, 1.0)


def _task(run: Run, directory: Path) -> Task:
    asked, _ = read_recipe(run.recipe, run.settings, run.seed)
    rows = min(PROBE_ROWS, asked.data.rows or PROBE_ROWS)
    settings = [*run.settings, f"train.epochs={PROBE_EPOCHS}", f"data.rows={rows}"]
    recipe, base = read_recipe(run.recipe, settings, run.seed)
    path = directory / f"{run.digest}.toml"
    path.write_text(to_toml(recipe, base), "utf-8")
    return Task(run.digest, path, directory / run.digest, path.with_suffix(".log"), resume=False)


def _rows(run: Run) -> Mapping[str, int]:
    """The rows of each split that a run reads."""
    recipe, base = read_recipe(run.recipe, run.settings, run.seed)
    config = recipe.data
    if config.synthetic is not None:
        most = config.rows or LARGEST_ID
        return {name: min(rows, most) for name, rows in config.synthetic.rows.model_dump().items()}
    return data.read(config, (), base).facts.rows


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
    if seconds is None:
        return f"{number:5} x {kind.name}: not known" + (f": {costs.unknown[kind]}" if kind in costs.unknown else "")
    source = f"mean of {measured} finished" if measured else "from a short probe"
    return f"{number:5} x {kind.name}: about {duration(seconds)} a run ({source})"


def duration(seconds: float) -> str:
    """Seconds as a reader has them: 42 s, 5 min, 2 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
