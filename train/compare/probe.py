"""The probe: how long a kind of run takes that nothing is known of, from short ones of its kind on few rows."""

import dataclasses
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...protos.errors import QuoremError
from ...protos.partitions import LARGEST_ID
from .. import data
from ..recipe_file import read_recipe, to_toml
from ..record import read_record, validations
from .children import Children, Task
from .estimate import Costs
from .results import last_words
from .training import Kind, Run

ROWS, EPOCHS = 40_000, 2
SEARCH_EPOCHS = (1, 5)  # what lies between them is the price of an epoch, which a search does not tell
FORWARD_SHARE = 1 / 3  # of what a training row costs, for a row that is only scored


def probe(runs: Iterable[Run], costs: Costs, children: Children) -> None:
    """Guess the seconds of every kind of run that nothing is known of.

    A training of two epochs on few rows: the second one's rate is the price of a row, and what the epochs do not
    explain is the fixed cost. A search by autodim: two of them, of one and of five epochs. One by mixed dims is itself
    on few rows. One at random is as many trainings, and so one of those.
    """
    first = dict[Kind, Run]()
    for run in runs:
        if costs.of(run.kind) is None:
            trial = run.kind.trial
            probed = dataclasses.replace(run, verb="train", kind=trial) if trial else run
            first.setdefault(probed.kind, probed)
    with tempfile.TemporaryDirectory(prefix="quorem-") as name:
        tasks = [(task, run) for run in first.values() for task in _tasks(run, Path(name))]
        by_name, seconds = {task.name: run for task, run in tasks}, dict[str, float]()
        waiting = [task for task, _ in tasks]
        while (waiting and not children.stopping) or children.busy:
            while waiting and children.busy < children.jobs and not children.stopping:
                children.start(waiting.pop(0))
            ended = children.next()
            if ended.status:
                log = Path(name) / f"{ended.name}.log"
                costs.unknown[by_name[ended.name].kind] = last_words(log) or f"exit status {ended.status}"
            else:
                seconds[ended.name] = ended.seconds
        for run in first.values():
            took = [(task, seconds[task.name]) for task, probed in tasks if probed is run and task.name in seconds]
            if run.kind not in costs.unknown and not children.stopping:
                with suppress(QuoremError):  # the runs will say it
                    costs.guessed[run.kind] = _guess(run, took)


@dataclass(frozen=True)
class Probed:
    """What a probe took: seconds in all, and training rows a second of each epoch."""

    seconds: float
    rates: Sequence[float]

    def extrapolate(self, few: tuple[int, int], whole: tuple[int, int], epochs: int) -> float:
        """Seconds of a run on `whole` instead of `few` rows, (training, validation) each."""
        fixed = self.seconds - sum(_epoch(few, rate) for rate in self.rates)
        return max(0.0, fixed) + epochs * _epoch(whole, self.rates[-1])


def extrapolate_search(seconds: Sequence[float], scale: float, epochs: int) -> float:
    """Seconds of a search of so many epochs on `scale` times the rows of probes of SEARCH_EPOCHS epochs."""
    (few, more), (short, long) = SEARCH_EPOCHS, seconds
    price = max(0.0, long - short) / (more - few)
    return max(0.0, short - few * price) + epochs * price * scale


def _guess(run: Run, took: Sequence[tuple[Task, float]]) -> float:
    """Seconds of a run, from its probes and how long they took."""
    seconds = [each for _, each in took]
    if run.verb == "search" and len(took) == 1:
        return seconds[0]
    few, whole = _rows(run, _few(run)), _rows(run, ())
    if run.verb == "search":
        return extrapolate_search(seconds, whole["train"] / few["train"], run.epochs)
    epochs = validations(read_record(took[0][0].out))
    probed = Probed(seconds[0], [epoch["rows_per_s"] for epoch in epochs])
    return probed.extrapolate((few["train"], few["valid"]), (whole["train"], whole["valid"]), run.epochs)


def _epoch(rows: tuple[int, int], rate: float) -> float:
    train, valid = rows
    return (train + valid * FORWARD_SHARE) / max(rate, 1.0)


def _tasks(run: Run, directory: Path) -> list[Task]:
    """The probes of a run: so short, and on few rows."""
    recipe, _ = read_recipe(run.recipe, run.settings, run.seed)
    short = [[f"train.epochs={EPOCHS}"]]
    if run.verb == "search":
        autodim = [["search.warmup=0", f"search.epochs={epochs}"] for epochs in SEARCH_EPOCHS]
        short = autodim if recipe.search.method == "autodim" else [[]]
    tasks = list[Task]()
    for number, settings in enumerate(short):
        recipe, base = read_recipe(run.recipe, [*run.settings, *settings, *_few(run)], run.seed)
        name = f"{run.verb}-{run.digest}-{number}"
        path = directory / f"{name}.toml"
        path.write_text(to_toml(recipe, base), "utf-8")
        tasks.append(Task(name, run.verb, path, directory / name, path.with_suffix(".log")))
    return tasks


def _few(run: Run) -> list[str]:
    """The setting that leaves a run few rows."""
    asked, _ = read_recipe(run.recipe, run.settings, run.seed)
    return [f"data.rows={min(ROWS, asked.data.rows or ROWS)}"]


def _rows(run: Run, settings: Sequence[str]) -> Mapping[str, int]:
    """The rows of each split that a run reads."""
    recipe, base = read_recipe(run.recipe, [*run.settings, *settings], run.seed)
    config = recipe.data
    if config.synthetic is not None:
        most = config.rows or LARGEST_ID
        return {name: min(rows, most) for name, rows in config.synthetic.rows.model_dump().items()}
    return data.read(config, (), base).facts.rows
