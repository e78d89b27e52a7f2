"""Random search: plans drawn at random, each trained as `quorem train --plan` would, of which the best one wins.

What AutoDim is held against at equal trials (Zhao et al., WWW'21, the baseline RaS).

Legend: F fields with tables.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from ...protos import manifest_pb2 as pb
from ...protos.errors import QuoremError, RecipeError
from ...protos.plan import parameters, parameters_at
from ..checkpoint import NAME as CHECKPOINT
from ..fresh import identity, make_fresh
from ..loop import Place, evaluate_rows, fit
from ..planning import classes_of
from ..prepare import Prepared
from ..progress import Display
from ..recipe import Recipe
from ..sources.counter import bits, stream
from .budget import check_budget, check_candidates
from .config import SearchConfig
from .derive import with_dims
from .found import Found
from .trials import NAME, Trial, read_trials, write_trials

DRAWS, BLOCK = 100_000, 1_000  # how often a trial is drawn at most until it fits, and how many at a time
STREAM = 0x72616E64  # names the bits of this search among those of a seed


def search_random(
    recipe: Recipe,
    resolved: str,
    prepared: Prepared,
    wide: pb.Plan,
    out: Path,
    device: torch.device,
    *,
    resume: bool,
    quiet: bool,
) -> Found:
    """Train `search.trials` random plans and choose the one of the highest validation AUC; of equal ones, the first.

    Args:
        recipe: what is searched for, and how each plan is trained.
        resolved: its text (to_toml).
        prepared: its rows.
        wide: the plan of the widest candidates.
        out: a directory that is there. It comes to hold trials.json, which stays, and a directory with the checkpoint
            of the trial under way.
        device: where models learn.
        resume: go on with the search in `out`; trials that are done are kept.
        quiet: show nothing.

    Raises:
        Interrupted: saved. WrongDims, RecipeError: candidates or a budget that cannot be; another search in `out`.
        QuoremError: what a training raises, and in which trial.
    """
    drawn = draw_trials(recipe.search, wide, recipe.train.seed)
    classes = classes_of(wide, prepared.semantics, "recipe")  # any plan's: dims change no table's rows
    known = identity(resolved, prepared, [prepared.schema, wide], classes)
    done = read_trials(out / NAME, known, drawn) if resume else []
    write_trials(out / NAME, known, done)
    console = Console(stderr=True, quiet=quiet)
    for number, dims in enumerate(drawn, 1):
        room = out / f"trial-{number}"
        if number > len(done):
            plan = with_dims(wide, dims, prepared.semantics)
            told = f"trial {number} of {len(drawn)}: {parameters(plan.fields):,} embedding parameters"
            console.print(told, highlight=False)
            twin = next((trial for trial in done if trial.dims == dims), None)
            going = resume and (room / CHECKPOINT).exists()
            place = Place(room, identity(resolved, prepared, [prepared.schema, plan], classes), going)
            done.append(twin or Trial(dims=dims, **_train(recipe, prepared, plan, device, place, console)))
            write_trials(out / NAME, known, done)
        shutil.rmtree(room, ignore_errors=True)
    best = max(done, key=lambda trial: trial.valid["auc"])
    return Found(best.dims, valid_metrics=best.valid, test_metrics=best.test)


def draw_trials(config: SearchConfig, wide: pb.Plan, seed: int) -> list[dict[str, int]]:
    """The dims of each trial: of every field one of its candidates, all alike likely, among plans within the budget.

    A trial is a function of the seed and its number, however many there are.

    Raises:
        WrongDims: candidates that concatenated tables cannot have.
        RecipeError: no plan holds as few numbers as `search.parameters`, or none of very many draws does.
    """
    check_candidates(wide, config)
    candidates = {field.feature: config.candidates_of(field.feature) for field in wide.fields}
    check_budget(wide, {name: dims[0] for name, dims in candidates.items()}, config)
    # Python's integers: tables that are far too large are counted, not wrapped around.
    sizes = [
        np.array([parameters_at(field, dim) for dim in candidates[field.feature]], object) for field in wide.fields
    ]
    drawn = list[dict[str, int]]()
    for trial in range(config.trials):
        chosen = _draw(stream(seed, STREAM, trial), sizes, config.parameters)
        drawn.append({name: dims[choice] for (name, dims), choice in zip(candidates.items(), chosen, strict=True)})
    return drawn


def _draw(key: int, sizes: Sequence[np.ndarray], budget: int | None) -> list[int]:
    """The number of a candidate for each field: of the first draw that fits, (F,)."""
    counts = np.array([len(each) for each in sizes], np.uint64)
    for start in range(0, DRAWS, BLOCK):
        index = np.arange(start * len(sizes), (start + BLOCK) * len(sizes), dtype=np.uint64)
        chosen = (bits(key, index.reshape(BLOCK, -1)) % counts).astype(np.int64)  # (BLOCK, F)
        if budget is None:
            return chosen[0].tolist()
        held = sum(size[column] for size, column in zip(sizes, chosen.T, strict=True))
        if (fits := np.asarray(held <= budget, bool)).any():
            return chosen[fits.argmax()].tolist()
    raise RecipeError(
        f"one of {DRAWS:,} random plans fits `search.parameters`",
        found=f"none; the smallest plan holds {sum(int(size[0]) for size in sizes):,} numbers, asked for {budget:,}",
        where="search.parameters",
        remedy="Raise it, or leave out wide candidates of the largest fields in [search.fields]",
    )


def _train(
    recipe: Recipe, prepared: Prepared, plan: pb.Plan, device: torch.device, place: Place, console: Console
) -> dict[str, dict[str, float]]:
    """Train a plan and evaluate its best epoch: `valid` and `test`, each with its metrics by name."""
    if not place.resume:
        shutil.rmtree(place.directory, ignore_errors=True)
        place.directory.mkdir()
    try:
        _, model = make_fresh(recipe, prepared, plan, device, "a plan")
        valid = prepared.valid.to(device)
        with Display(place.directory, console) as display:
            fit(model, prepared.train.to(device), valid, recipe.train, place, display)
        test = evaluate_rows(model, prepared.heldout.to(device)) if "test" in prepared.facts.rows else {}
        return {"valid": evaluate_rows(model, valid), "test": test}
    except QuoremError as error:
        where = f"{place.directory.name}, {error.where}"
        raise type(error)(error.rule, found=error.found, where=where, remedy=error.remedy) from None
