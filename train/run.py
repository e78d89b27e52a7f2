"""A training run: recipe -> rows -> schema, plan and net -> trained weights -> run directory."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ..protos import manifest_pb2 as pb
from ..protos import nets
from ..protos.errors import QuoremError
from .directory import check_run, open_run, write_run
from .fresh import identity, make_fresh
from .loop import Interrupted, Place, evaluate_rows, fit
from .plan_file import plan_for, read_plan
from .planning import make_plan
from .prepare import prepare
from .progress import Display
from .recipe import Recipe
from .recipe_file import read_recipe, to_toml
from .report import as_dict, print_report

INTERRUPTED = 130


def main(args: argparse.Namespace) -> int:
    """Run `quorem train`; returns the exit code."""
    recipe, base = read_recipe(args.recipe, args.set, args.seed)
    device = choose_device(args.device)
    try:
        manifest, facts = train(recipe, base, args.out, args.plan, device, resume=args.resume, quiet=args.quiet)
    except Interrupted:
        again = shlex.join(["quorem", "train", args.recipe, "--out", str(args.out), "--resume", *_repeat(args)])
        told = f"\nStopped; everything up to the last batch is saved. Go on with:\n  {again}"
        print(json.dumps({"error": "Interrupted", "remedy": again}) if args.json else told, file=sys.stderr)
        return INTERRUPTED
    if args.json:
        print(json.dumps({"run": str(args.out), "device": device.type, **as_dict(manifest), **facts}))
    elif not args.quiet:
        print_report(manifest, facts)
    return 0


def choose_device(asked: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`.

    Raises:
        QuoremError: cuda was asked for and is not there.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise QuoremError(
            "--device cuda needs a GPU that torch can use",
            found=f"torch {torch.__version__} without one",
            where="--device",
            remedy="Use --device auto, which falls back to the CPU",
        )
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


def train(
    recipe: Recipe, base: Path, out: Path, plan_path: Path | None, device: torch.device, *, resume: bool, quiet: bool
) -> tuple[pb.Manifest, dict[str, Any]]:
    """Train as the recipe says and write the run directory.

    Returns:
        The run's manifest, and what is known beside it: the best possible AUC of planted data, and `semantic`, by
        feature, what became of a class table.

    Raises:
        QuoremError: see errors.py. Interrupted: saved, and not finished.
    """
    resolved = to_toml(recipe, base)
    given = read_plan(plan_path) if plan_path else None
    check_run(out, resolved, resume=resume)
    prepared = prepare(recipe, base)
    semantics = prepared.semantics
    if given:
        plan = plan_for(given, recipe, prepared.schema, semantics)
    else:
        plan = make_plan(recipe.embedding, prepared.schema, semantics, first_order=recipe.model.first_order)
    manifest, model = make_fresh(recipe, prepared, plan, device, str(plan_path or "recipe"))
    train_rows, valid_rows = prepared.train.to(device), prepared.valid.to(device)
    open_run(out, resolved, resume=resume)
    parts = [manifest.schema, manifest.plan, manifest.net]
    place = Place(out, identity(resolved, prepared, parts, model.classes), resume)
    with Display(out, Console(stderr=True, quiet=quiet)) as display:
        progress = fit(model, train_rows, valid_rows, recipe.train, place, display)

    facts = prepared.facts
    manifest.training.CopyFrom(
        pb.Training(
            source=" ".join([facts.source, *facts.files]),
            seed=recipe.train.seed,
            device=device.type,
            best_epoch=progress.best_epoch,
            train_rows=facts.rows["train"],
            valid_rows=facts.rows["valid"],
            test_rows=facts.rows.get("test", 0),
            valid_metrics=evaluate_rows(model, valid_rows),
            negative_rate=recipe.data.negative_rate,
            label=recipe.data.label,
        )
    )
    if "test" in facts.rows:
        manifest.training.test_metrics.update(evaluate_rows(model, prepared.heldout.to(device)))
    # Negatives kept at a rate r make the odds 1 / r times too high; the metrics above are of the rows as they came.
    model.shift_logit(nets.last_bias(manifest.net), float(np.log(recipe.data.negative_rate)))
    write_run(out, manifest, model, prepared)
    told = {name: {"remainder": each.remainder, "unused_rows": each.unused_rows} for name, each in semantics.items()}
    known = {"optimal_auc": facts.optimal_auc, "optimal_logloss": facts.optimal_logloss, "semantic": told or None}
    return manifest, {name: value for name, value in known.items() if value is not None}


def _repeat(args: argparse.Namespace) -> list[str]:
    """The arguments that a resumed run needs again."""
    repeated = [part for setting in args.set for part in ("--set", setting)]
    if args.seed is not None:
        repeated += ["--seed", str(args.seed)]
    if args.plan is not None:
        repeated += ["--plan", str(args.plan)]
    return [*repeated, "--device", args.device]
