"""Arms: each with its runs, a recipe and a seed every one, and the runs that are due as results come in."""

import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...protos.errors import RecipeError
from ..recipe import Recipe
from ..recipe_file import read_recipe, shipped_recipes, to_toml
from .results import Result
from .study import ArmConfig, StudyConfig, Value
from .study_file import LARGEST_GRID, read_study, setting, written
from .training import Kind, Run

DIGEST_DIGITS = 16
USUAL_EPOCHS = 20  # that early stopping leaves of a hundred, where the study does not say


@dataclass(frozen=True)
class Variant:
    """An arm under one combination of tuned values: a run for each seed."""

    tuned: Mapping[str, Value]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Due:
    """A run that an arm takes.

    label: the arm, and in brackets the values that are tried. position: of its seed.
    ready: whether it may start; a second seed may not while the arm is being tuned.
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
            yield Due(variant.runs[0], f"{self.name} ({told})" if told else self.name, 0, ready=True)
        if chosen is None and all(variant.runs[0].digest in failed for variant in self.variants):
            return
        for position, run in enumerate((chosen or self.variants[0]).runs[1:seeds], 1):
            yield Due(run, self.name, position, ready=chosen is not None)


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
    name = _find(config.recipe or study.recipe, path.parent)
    variants, rows = list[Variant](), ""
    for combination in itertools.product(*config.tune.values()):
        tuned = dict(zip(config.tune, combination, strict=True))
        laid = (*study.set, *config.set, *(setting(key, value) for key, value in tuned.items()), *laid_over)
        if any(each.partition("=")[0].strip() == "train.seed" for each in laid):
            raise RecipeError(
                "an arm has a run for each of its `seeds`",
                found="train.seed",
                where=where,
                remedy="Say `seeds` instead",
            )
        runs = list[Run]()
        for seed in config.seeds or study.seeds:
            try:
                recipe, base = read_recipe(name, laid, seed)
            except RecipeError as error:
                told = f"{where}: {error.where}"
                raise RecipeError(error.rule, found=error.found, where=told, remedy=error.remedy) from None
            runs.append(_make_run(study, name, laid, recipe, to_toml(recipe, base), seed))
            rows = json.dumps(tomllib.loads(runs[-1].text)["data"], sort_keys=True)
        variants.append(Variant(tuned, tuple(runs)))
    against = [*([study.against] if study.against else []), *config.held_against]
    return Arm(
        name=config.name,
        factors=config.belongs_to,
        series=config.series or config.name,
        against=tuple(each for each in dict.fromkeys(against) if each != config.name),
        rows=rows,
        variants=tuple(variants),
    )


def _make_run(study: StudyConfig, name: str, laid: tuple[str, ...], recipe: Recipe, text: str, seed: int) -> Run:
    return Run(
        digest=hashlib.sha256(text.encode()).hexdigest()[:DIGEST_DIGITS],
        seed=seed,
        text=text,
        recipe=name,
        settings=laid,
        kind=Kind(f"{Path(name).stem} {recipe.model.name}", recipe.model.model_dump_json()),
        epochs=min(study.epochs or USUAL_EPOCHS, recipe.train.epochs),
    )


def _find(name: str, directory: Path) -> str:
    """A recipe as `read_recipe` takes it: a file beside the study, else the name of a shipped one."""
    beside = directory / name
    return name if not beside.is_file() and name in shipped_recipes() else str(beside)
