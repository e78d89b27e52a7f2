"""Arms: each with its runs, one a seed, and those that are due as results come in, searches before trainings."""

import itertools
import json
import math
import tomllib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...protos.errors import RecipeError
from .results import Result
from .runs import Source, find_recipe
from .study import ArmConfig, StudyConfig, Value
from .study_file import LARGEST_GRID, read_study, setting, written
from .training import Run


@dataclass(frozen=True)
class Variant:
    """An arm under one combination of tuned values: a run for each seed."""

    tuned: Mapping[str, Value]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Due:
    """A run that an arm takes.

    label: the arm, and in brackets the values that are tried. position: of its seed.
    ready: whether it may start; a second seed may not while the arm is being tuned, nor a training before its search.
    """

    run: Run
    label: str
    position: int
    ready: bool


@dataclass(frozen=True)
class Arm:
    """One arm of a study. `rows` says which data it is trained and tested on; arms of the same rows are compared."""

    name: str
    factors: tuple[str, ...]
    series: str
    against: tuple[str, ...]
    rows: str
    variants: tuple[Variant, ...]

    def chosen(self, finished: Mapping[str, Result], failed: Container[str]) -> Variant | None:
        """The variant with the best validation AUC of the first seed; None while that is not known."""
        if len(self.variants) == 1:
            return self.variants[0]
        firsts = [variant.runs[0].digest for variant in self.variants]
        if any(digest not in finished and digest not in failed for digest in firsts):
            return None
        done = [variant for variant in self.variants if variant.runs[0].digest in finished]
        scored = [(finished[variant.runs[0].digest].metric("valid", "auc"), variant) for variant in done]
        known = [(auc, variant) for auc, variant in scored if auc is not None]
        return max(known, key=lambda pair: pair[0])[1] if known else None

    def due(self, finished: Mapping[str, Result], failed: Container[str], seeds: int | None) -> Iterator[Due]:
        """The runs that its first `seeds` seeds take, done or not. Until it is tuned, the first variant stands in."""
        chosen = self.chosen(finished, failed)
        for variant in self.variants:
            told = ", ".join(f"{key}={written(value)}" for key, value in variant.tuned.items())
            yield from _due(variant.runs[0], f"{self.name} ({told})" if told else self.name, 0, finished)
        if chosen is None and all(variant.runs[0].digest in failed for variant in self.variants):
            return
        for position, run in enumerate((chosen or self.variants[0]).runs[1:seeds], 1):
            yield from _due(run, self.name, position, finished, ready=chosen is not None)


def _due(run: Run, label: str, position: int, finished: Container[str], *, ready: bool = True) -> Iterator[Due]:
    """A run, after the search that it needs."""
    if run.search:
        yield Due(run.search, f"{label}: search", position, ready)
        ready = ready and run.search.digest in finished
    yield Due(run, label, position, ready)


def all_runs(arms: Iterable[Arm]) -> list[Run]:
    """Every run that arms may ever take, each once."""
    runs = [run for arm in arms for variant in arm.variants for run in variant.runs]
    return list({run.digest: run for run in [*(run.search for run in runs if run.search), *runs]}.values())


def schedule(
    arms: Iterable[Arm], finished: Mapping[str, Result], failed: Container[str], seeds: int | None
) -> list[Due]:
    """The runs of all arms, each once: every arm's first seed before any second one, so that a look shows all arms."""
    every = sorted((due for arm in arms for due in arm.due(finished, failed, seeds)), key=lambda due: due.position)
    ready = {due.run.digest for due in every if due.ready}
    unique = dict[str, Due]()
    for due in every:
        if due.ready or due.run.digest not in ready:
            unique.setdefault(due.run.digest, due)
    return list(unique.values())


def make_arms(path: Path, laid_over: Sequence[str]) -> tuple[StudyConfig, tuple[Arm, ...]]:
    """A study's arms with every recipe resolved, `laid_over` included.

    Raises:
        RecipeError: the study or a recipe breaks a rule; it names the arm.
    """
    study, configs = read_study(path)
    arms = tuple(_make_arm(study, config, path, laid_over) for config in configs)
    rows = {arm.name: arm.rows for arm in arms}
    for config in configs:
        if strange := [name for name in config.held_against if rows[name] != rows[config.name]]:
            raise RecipeError(
                "arms are compared on the same rows",
                found=f"{strange[0]!r}, whose [data] is another",
                where=f"{path}, arm {config.name!r}, key against",
                remedy="Compare it with an arm of the same recipe",
            )
    return study, arms


def _make_arm(study: StudyConfig, config: ArmConfig, path: Path, laid_over: Sequence[str]) -> Arm:
    where = f"{path}, arm {config.name!r}"
    if math.prod(map(len, config.tune.values())) > LARGEST_GRID:
        raise RecipeError(f"an arm is tuned over at most {LARGEST_GRID} combinations", where=where)
    source = Source(find_recipe(config.recipe or study.recipe, path.parent), study.epochs, where)
    variants = list[Variant]()
    for combination in itertools.product(*config.tune.values()):
        tuned = dict(zip(config.tune, combination, strict=True))
        laid = (*study.set, *config.set, *(setting(key, value) for key, value in tuned.items()))
        searched = None if config.search is None else (*laid, *config.search, *laid_over)
        trained = (*laid, *laid_over)
        if any(each.partition("=")[0].strip() == "train.seed" for each in (*trained, *(searched or ()))):
            raise RecipeError(
                "an arm has a run for each of its `seeds`",
                found="train.seed",
                where=where,
                remedy="Say `seeds` instead",
            )
        runs = list[Run]()
        for seed in config.seeds or study.seeds:
            measured = config.measure == "search"
            search = None if searched is None else source.search(searched, seed, measured=measured)
            runs.append(search if search and measured else source.training(trained, seed, search))
        variants.append(Variant(tuned, tuple(runs)))
    if len({variant.runs[0].digest for variant in variants}) < len(variants):
        raise RecipeError(
            "each of the values that an arm is tuned over makes a run of its own",
            found=", ".join(config.tune),
            where=where,
            remedy="Tune what the arm's runs read, each value once: without `search` nothing reads search.*",
        )
    against = [*([study.against] if study.against else []), *config.held_against]
    return Arm(
        name=config.name,
        factors=config.belongs_to,
        series=config.series or config.name,
        against=tuple(each for each in dict.fromkeys(against) if each != config.name),
        rows=json.dumps(tomllib.loads(variants[0].runs[0].text)["data"], sort_keys=True),
        variants=tuple(variants),
    )
