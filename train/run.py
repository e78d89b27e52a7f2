"""A training run: recipe -> rows -> schema, plan and net -> trained weights -> run directory."""

import argparse
import json
import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ..protos import manifest_pb2 as pb
from ..protos import nets
from ..protos.errors import QuoremError
from .checkpoint import NAME as CHECKPOINT
from .checkpoint import clear_remains
from .directory import check_run, open_run, write_run
from .distributed import Elsewhere, agree, joined, rank, ranks, restarted, share
from .features import Rows
from .fresh import identity, make_fresh
from .keeper import no_room
from .loop import Interrupted, Place, Unwatched, evaluate_rows, fit
from .model import Model
from .plan_file import plan_for, read_plan
from .planning import make_plan
from .prepare import Prepared, prepare
from .progress import Display
from .recipe import Recipe
from .recipe_file import read_recipe, to_toml
from .report import as_dict, print_report
from .reserve import fit_fresh, told_growth
from .teacher import read_teacher, teacher_logits, told_teacher
from .yesterday import Yesterday, read_yesterday

REFUSED = 2  # as command.py has it


def main(args: argparse.Namespace) -> int:
    """Run `quorem train`; returns the exit code."""
    with joined(choose_device(args.device)) as device:
        try:
            return _train_and_tell(args, device)
        except Elsewhere:
            return REFUSED
        except torch.OutOfMemoryError as error:
            raise QuoremError(
                "tables, rows and what a step computes fit in the GPU's memory",
                found=str(error).splitlines()[0][:200],
                where=f"--device {args.device}",
                remedy="Lower train.batch, compress more fields, or read the rows from a cache (--cache)",
            ) from None


def _train_and_tell(args: argparse.Namespace, device: torch.device) -> int:
    recipe, base = agree(lambda: read_recipe(args.recipe, args.set, args.seed))
    try:
        manifest, facts = train(
            recipe,
            base,
            args.out,
            args.plan,
            device,
            args.from_run,
            teacher_run=args.teacher,
            resume=args.resume,
            quiet=args.quiet,
        )
    except Interrupted as stopped:
        again = shlex.join([*_started_by(), "train", args.recipe, "--out", str(args.out), "--resume", *_repeat(args)])
        told = f"\nStopped; everything up to the last batch is saved. Go on with:\n  {again}"
        if rank() == 0:
            print(json.dumps({"error": "Interrupted", "remedy": again}) if args.json else told, file=sys.stderr)
        return stopped.status
    if rank() > 0:
        return 0
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
    recipe: Recipe,
    base: Path,
    out: Path,
    plan_path: Path | None,
    device: torch.device,
    from_run: Path | None = None,
    *,
    teacher_run: Path | None = None,
    resume: bool,
    quiet: bool,
) -> tuple[pb.Manifest, dict[str, Any]]:
    """Train as the recipe says and write the run directory; of several ranks, the first one does.

    Returns:
        The run's manifest, and what is known beside it: the best possible AUC of planted data; `semantic`, by feature,
        what became of a class table; `from`, of the run that this one goes on from, see _take_over; and `teacher`, the
        run that it learned from, with the metrics that are told of it.

    Raises:
        QuoremError: see errors.py. Interrupted: saved, and not finished. Elsewhere: refused on another rank.
    """
    resolved = to_toml(recipe, base)
    resume = _goes_on(out, resolved, resume=resume)
    before = agree(lambda: read_yesterday(from_run, resolved) if from_run else None)
    fitted, origin = (before.grow, before.sha256) if before else (fit_fresh, "")
    given, prepared = agree(
        lambda: (read_plan(plan_path) if plan_path else None, prepare(recipe, base, fitted, origin))
    )
    semantics = prepared.semantics
    if before:
        plan = before.manifest.plan
    elif given:
        plan = plan_for(given, recipe, prepared.schema, semantics)
    else:
        plan = make_plan(recipe.embedding, prepared.schema, semantics, first_order=recipe.model.first_order)
    teacher = agree(lambda: read_teacher(teacher_run, prepared) if teacher_run else None)
    manifest, model = make_fresh(recipe, prepared, plan, device, str(from_run or plan_path or "recipe"))
    train_rows, valid_rows = prepared.train.to(device), prepared.valid.to(device)
    agree(lambda: _open(out, resolved, resume=resume))
    parts = [manifest.schema, manifest.plan, manifest.net]
    state, taken = None, None
    if before:
        parts.append(pb.Training(from_sha256=before.sha256))
        state, taken = _take_over(before, recipe, prepared, model, valid_rows)
    if teacher:
        parts.append(pb.Training(teacher_sha256=teacher.sha256))
    place = Place(out, identity(resolved, prepared, parts, model.classes), resume, state)
    with Display(out, Console(stderr=True, quiet=quiet)) if rank() == 0 else nullcontext(Unwatched()) as display:
        rate = recipe.data.negative_rate
        taught = teacher_logits(teacher, train_rows, rate, display.taught) if teacher else None
        progress = fit(model, train_rows, valid_rows, recipe.train, place, display, taught)

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
            from_sha256=before.sha256 if before else "",
            teacher_sha256=teacher.sha256 if teacher else "",
        )
    )
    if "test" in facts.rows:
        manifest.training.test_metrics.update(evaluate_rows(model, prepared.heldout.to(device)))
    # Negatives kept at a rate r make the odds 1 / r times too high; the metrics above are of the rows as they came.
    model.shift_logit(nets.last_bias(manifest.net), float(np.log(recipe.data.negative_rate)))
    keep = recipe.train.keep_state
    try:
        agree(lambda: write_run(out, manifest, model, prepared, keep_state=keep) if rank() == 0 else None)
    except OSError as error:
        raise no_room(error, out, "the trained model", "what its last checkpoint has is kept") from None
    told = {name: {"remainder": each.remainder, "unused_rows": each.unused_rows} for name, each in semantics.items()}
    known = {"optimal_auc": facts.optimal_auc, "optimal_logloss": facts.optimal_logloss, "semantic": told or None}
    known |= {"from": taken, "teacher": told_teacher(teacher) if teacher else None}
    return manifest, {name: value for name, value in known.items() if value is not None}


def _take_over(
    before: Yesterday, recipe: Recipe, prepared: Prepared, model: Model, valid: Rows
) -> tuple[dict[str, Tensor] | None, dict[str, Any]]:
    """Put yesterday's weights into the model; the optimizer's state to begin with, and what is to be told.

    Told are the `run`, what becomes of its `optimizer`, its metrics on the new rows (`valid`, and `test` where there
    are such), and by feature what they did to the `vocabularies`, see told_growth.
    """
    before.hand_over(model, recipe.data.negative_rate)
    state, told = before.optimizer_state(recipe.train)
    test = {"test": evaluate_rows(model, prepared.heldout.to(valid.device))} if "test" in prepared.facts.rows else {}
    growth = told_growth(before.manifest.schema, prepared.schema)
    facts = {"run": str(before.path), "optimizer": told, "valid": evaluate_rows(model, valid), **test}
    return state, {**facts, "vocabularies": growth}


def _goes_on(out: Path, resolved: str, *, resume: bool) -> bool:
    """Check the directory, on rank 0; whether the run goes on, as it does unasked when torchrun starts it again."""

    def check() -> bool:
        going = resume or (restarted() and (out / CHECKPOINT).exists())
        check_run(out, resolved, resume=going)
        return going

    return share({}, agree(lambda: rank() == 0 and check()))[1]


def _open(out: Path, resolved: str, *, resume: bool) -> None:
    if rank() == 0:
        open_run(out, resolved, resume=resume)
        clear_remains(out)


def _started_by() -> list[str]:
    """The words before `train`."""
    if ranks() == 1:
        return ["quorem"]
    return ["torchrun", "--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", str(ranks())), "-m", "quorem"]


def _repeat(args: argparse.Namespace) -> list[str]:
    """The arguments that a resumed run needs again."""
    repeated = [part for setting in args.set for part in ("--set", setting)]
    if args.seed is not None:
        repeated += ["--seed", str(args.seed)]
    for option, path in (("--plan", args.plan), ("--from", args.from_run), ("--teacher", args.teacher)):
        if path is not None:
            repeated += [option, str(path)]
    return [*repeated, "--device", args.device]
