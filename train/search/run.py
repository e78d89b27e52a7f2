"""What the command `quorem search` does: rows and a recipe become a plan directory."""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ...protos import manifest_pb2 as pb
from ...protos import plan, plan_directory
from ...protos.errors import RecipeError
from ..budget.main import main as budget
from ..checkpoint import NAME as CHECKPOINT
from ..directory import check_run, open_run
from ..fresh import identity
from ..loop import Interrupted, Place, evaluate_rows
from ..prepare import Prepared, prepare
from ..recipe import Recipe
from ..recipe_file import read_recipe, to_toml
from ..run import choose_device
from .budget import check_candidates, supernet_parameters
from .derive import wide_plan, with_dims
from .figures import draw_choice, draw_dims
from .found import Found
from .loop import learn_choice
from .mixed import mixed_dims
from .progress import HISTORY, Display, read_history
from .random_search import draw_trials, search_random
from .supernet import make_supernet
from .trials import NAME as TRIALS

METRICS_TOLD = ("auc", "logloss")
BEGUN = {"autodim": CHECKPOINT, "random": TRIALS, "mixed": plan_directory.PLAN}  # mixed has nothing to go on with
UNDECIDED, TINY = 0.95, 1e-12  # of the entropy of equal probabilities; and what stands for 0 in a logarithm


def main(args: argparse.Namespace) -> int:
    """Run `quorem search`; returns the exit code."""
    began = time.monotonic()
    recipe, base = read_recipe(args.recipe, args.set, args.seed)
    if args.teacher and recipe.search.method != "budget":
        raise RecipeError(
            "a search learns from a teacher within a budget alone",
            found=f'method = "{recipe.search.method}"',
            where="--teacher",
            remedy="Say --budget, or leave --teacher out: `quorem train` takes it as well",
        )
    device = choose_device(args.device)
    try:
        if recipe.search.method == "budget":
            return budget(args, recipe, base, device, [*repeated(args, "search"), *taught(args)])
        made, found = search(recipe, base, args.out, device, resume=args.resume, quiet=args.quiet)
    except Interrupted as stopped:
        return stopped_at(stopped, args)
    facts = _facts(args.out, recipe, made, found) | {
        "device": device.type,
        "seconds": round(time.monotonic() - began, 2),
    }
    if args.json:
        print(json.dumps(facts))
    elif not args.quiet:
        print("\n".join(_told(facts, args)))
    return 0


def search(
    recipe: Recipe, base: Path, out: Path, device: torch.device, *, resume: bool, quiet: bool
) -> tuple[pb.Plan, pb.Search]:
    """Search as the recipe says and write the plan directory.

    Raises:
        QuoremError: see errors.py. Interrupted: saved, and not finished.
    """
    resolved, config = to_toml(recipe, base, search=True), recipe.search
    check_run(out, resolved, resume=resume, begun=BEGUN[config.method])
    prepared = prepare(recipe, base)
    wide = wide_plan(recipe, prepared.schema, prepared.semantics)
    if config.method == "mixed":
        found = Found(mixed_dims(config, wide))
        open_run(out, resolved, resume=resume)
    elif config.method == "random":
        draw_trials(config, wide, recipe.train.seed)  # refuses what cannot be before anything is written
        open_run(out, resolved, resume=resume)
        found = search_random(recipe, resolved, prepared, wide, out, device, resume=resume, quiet=quiet)
    else:
        check_candidates(wide, config)
        found = _search_autodim(recipe, resolved, prepared, wide, out, device, resume=resume, quiet=quiet)
    made = with_dims(wide, found.dims, prepared.semantics)
    told = _describe(recipe, prepared.schema, made, found)
    names = _in_order(prepared.schema, found.dims)
    cardinalities = {field.feature: field.cardinality for field in made.fields}
    candidates = {choice.feature: list(choice.candidates) for choice in told.choices}
    draw_dims(out, names, cardinalities, found.dims, candidates)
    plan_directory.write_plan(out, made, told)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return made, told


def _search_autodim(
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
    net = make_supernet(recipe, prepared, wide, device)
    train, valid = prepared.train.in_memory().to(device), prepared.valid.to(device)
    open_run(out, resolved, resume=resume)
    if not resume:
        (out / HISTORY).unlink(missing_ok=True)
    place = Place(out, identity(resolved, prepared, [prepared.schema, wide], net.model.classes), resume)
    with Display(out, Console(stderr=True, quiet=quiet)) as display:
        learn_choice(net, train, valid, recipe, place, display)
        display.ended()
    net.mixture.weights = net.choice.probabilities().detach()
    probabilities = net.choice.told()
    candidates = {name: recipe.search.candidates_of(name) for name in probabilities}
    draw_choice(out, _in_order(prepared.schema, probabilities), candidates, read_history(out / HISTORY))
    has_test = "test" in prepared.facts.rows
    return Found(
        net.choice.dims(),
        probabilities,
        evaluate_rows(net.model, valid),
        evaluate_rows(net.model, prepared.heldout.to(device)) if has_test else {},
    )


def _describe(recipe: Recipe, schema: pb.Schema, made: pb.Plan, found: Found) -> pb.Search:
    """What search.json tells: of mixed dims no candidates, since there were none."""
    config, names = recipe.search, [field.feature for field in made.fields]
    return pb.Search(
        method=config.method,
        model=recipe.model.name,
        seed=recipe.train.seed,
        schema=schema,
        choices=[
            pb.Choice(
                feature=name,
                candidates=() if config.method == "mixed" else config.candidates_of(name),
                probabilities=found.probabilities.get(name, ()),
                dim=found.dims[name],
            )
            for name in names
        ],
        valid_metrics=found.valid_metrics,
        test_metrics=found.test_metrics,
    )


def _facts(out: Path, recipe: Recipe, made: pb.Plan, found: pb.Search) -> dict[str, Any]:
    """What `--json` tells, but for the device and the time it took."""
    config, held = recipe.search, plan.parameters(made.fields)
    parameters, choices = {"embedding": held}, {choice.feature: choice for choice in found.choices}
    in_order = [choices[name] for name in _in_order(found.schema, choices)]
    if config.method == "autodim":
        parameters["supernet"] = supernet_parameters(config, made.fields)
    return {
        "plan": str(out),
        "method": found.method,
        "model": found.model,
        "seed": found.seed,
        "dims": {choice.feature: choice.dim for choice in in_order},
        "probabilities": {
            choice.feature: dict(zip(map(str, choice.candidates), choice.probabilities, strict=True))
            for choice in in_order
            if choice.probabilities
        },
        "parameters": parameters,
        "valid": dict(found.valid_metrics),
        "test": dict(found.test_metrics),
    }


def _in_order(schema: pb.Schema, names: Container[str]) -> list[str]:
    """These features as the recipe has them; a plan has them as they are packed."""
    return [feature.name for feature in schema.features if feature.name in names]


def _told(facts: dict[str, Any], args: argparse.Namespace) -> Sequence[str]:
    """The same for a reader; `quorem inspect` tells more."""
    width = max(map(len, facts["dims"]))
    lines = [f"{name:{width}}  {dim:4}  {'#' * min(dim, 64)}" for name, dim in facts["dims"].items()]
    lines.append(f"{facts['parameters']['embedding']:,} embedding parameters; {facts['seconds']:.0f} s")
    if facts["valid"]:
        scores = "  ".join(f"{name} {facts['valid'][name]:.5f}" for name in METRICS_TOLD)
        whose = "the model with all candidates" if facts["method"] == "autodim" else "the best trial"
        lines.append(f"validation rows, {whose}: {scores}")
    if undecided(facts["probabilities"]):
        lines.append(
            "Candidates still weigh nearly the same: these dims are little better than chance. Raise search.lr or\n"
            "search.epochs, or lower search.every, until the entropy falls."
        )
    train = ["quorem", "train", args.recipe, "--plan", facts["plan"], "--out", "RUN", *repeated(args, "search")]
    return [
        *lines,
        "Look at it, and train the model that has only these dims:",
        f"  {shlex.join(['quorem', 'inspect', facts['plan']])}",
        f"  {shlex.join(train)}",
    ]


def undecided(probabilities: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether fields, on average, are nearly as unsure of their dim as a fresh search is; not where none is told."""
    alphas = [np.array(list(each.values())) for each in probabilities.values()]
    shares = [-np.sum(alpha * np.log(np.maximum(alpha, TINY))) / np.log(len(alpha)) for alpha in alphas]
    return bool(shares) and float(np.mean(shares)) > UNDECIDED


def stopped_at(stopped: Interrupted, args: argparse.Namespace) -> int:
    """Say how to go on; the exit code."""
    again = shlex.join(_again(args))
    told = f"\nStopped; everything up to the last batch is saved. Go on with:\n  {again}"
    print(json.dumps({"error": "Interrupted", "remedy": again}) if args.json else told, file=sys.stderr)
    return stopped.status


def _again(args: argparse.Namespace) -> list[str]:
    """The command that goes on with the search."""
    command = ["quorem", "search", args.recipe, "--out", str(args.out), "--resume"]
    return [*command, *repeated(args), *taught(args), "--device", args.device]


def taught(args: argparse.Namespace) -> list[str]:
    """The teacher, if there is one, for another command."""
    return ["--teacher", str(args.teacher)] if args.teacher else []


def repeated(args: argparse.Namespace, but: str | None = None) -> list[str]:
    """The settings that another command needs again, but for those of one section."""
    settings = [setting for setting in args.set if setting.partition("=")[0].partition(".")[0].strip() != but]
    seed = [] if args.seed is None else ["--seed", str(args.seed)]
    return [*(part for setting in settings for part in ("--set", setting)), *seed]
