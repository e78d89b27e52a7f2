"""A training run: recipe -> rows -> schema, plan and net -> trained weights -> run directory."""

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf import json_format
from rich.console import Console

from ..protos import manifest as manifests
from ..protos import manifest_pb2 as pb
from ..protos import models, nets
from ..protos.collisions import Int32s
from ..protos.errors import Malformed, MissingFile, PlanError, QuoremError
from ..protos.plan import table_bytes
from ..protos.schema import dense_features
from .directory import check_run, open_run, write_run
from .initial import Init
from .loop import Interrupted, Place, evaluate_rows, fit
from .model import Model
from .planning import classes_of, make_plan
from .prepare import Prepared, prepare
from .progress import Display
from .recipe import DCNConfig, DCNv2Config, DeepFMConfig, DLRMConfig, EmbeddingConfig, Recipe
from .recipe_file import read_recipe, to_toml
from .report import as_dict, print_report

INTERRUPTED = 130
LARGEST_PLAN_BYTES = 2**46  # no machine has as much; below it, sizes and offsets fit int64 with room to spare


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
    given = _read_plan(plan_path) if plan_path else None
    check_run(out, resolved, resume=resume)
    prepared = prepare(recipe, base)
    schema, dense_count = prepared.schema, len(dense_features(prepared.schema))
    if given and given.first_order and not recipe.model.first_order:
        raise PlanError(
            "a plan has first-order tables only for a model that reads them",
            found=f"first-order tables for {recipe.model.name}",
            where=str(plan_path),
            remedy="Leave `first_order` out of the plan, or train the model that it was made for",
        )
    semantics = prepared.semantics
    plan = given or make_plan(recipe.embedding, schema, semantics, first_order=recipe.model.first_order)
    net = _make_net(recipe, plan, dense_count)
    manifest = pb.Manifest(format_version=manifests.FORMAT_VERSION, schema=schema, plan=plan, net=net)
    manifests.check(manifest, str(plan_path or "recipe"))
    classes = classes_of(plan, semantics, str(plan_path or "recipe"))

    model = _make_model(manifest, classes, recipe.embedding, recipe.train.seed, device)
    train_rows, valid_rows = prepared.train.to(device), prepared.valid.to(device)
    open_run(out, resolved, resume=resume)
    place = Place(out, _identity(resolved, manifest, classes, prepared), resume)
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
    model.shift_logit(nets.last_bias(net), float(np.log(recipe.data.negative_rate)))
    write_run(out, manifest, model.to("cpu"), prepared)
    told = {name: {"remainder": each.remainder, "unused_rows": each.unused_rows} for name, each in semantics.items()}
    known = {"optimal_auc": facts.optimal_auc, "optimal_logloss": facts.optimal_logloss, "semantic": told or None}
    return manifest, {name: value for name, value in known.items() if value is not None}


def _read_plan(path: Path) -> pb.Plan:
    if not path.is_file():
        raise MissingFile("--plan names a plan.json", found="no such file", where=str(path), remedy="Check the path")
    try:
        plan = json_format.Parse(path.read_bytes(), pb.Plan())
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise Malformed(
            "a plan is the JSON form of quorem.v1.Plan", found=str(error)[:200], where=str(path), remedy="Make it again"
        ) from None
    if not plan.fields:
        raise Malformed("a plan has fields", found="none", where=str(path), remedy="Make it again")
    return plan


def _make_model(
    manifest: pb.Manifest, classes: Mapping[str, Int32s], config: EmbeddingConfig, seed: int, device: torch.device
) -> Model:
    """A fresh model on its device, or an error that says which field asks for the most memory."""
    fields = [*manifest.plan.fields, *manifest.plan.first_order]
    largest = max(fields, key=table_bytes)
    total = sum(table_bytes(field) for field in fields)
    too_large = PlanError(
        "embedding tables fit in memory",
        found=f"{total:,} bytes; {largest.feature!r} alone takes {table_bytes(largest):,}",
        where="[embedding]",
        remedy="Compress it (embedding.scheme, collisions, tables, bytes), or lower the feature's size or buckets",
    )
    if total >= LARGEST_PLAN_BYTES:
        raise too_large
    try:
        model = Model(manifest.schema, manifest.plan, manifest.net, classes)
        model.reset(seed, Init(config.init, config.spread, config.deviation))
        return model.to(device)
    except (MemoryError, RuntimeError) as error:  # torch has no error of its own for a failed allocation on the CPU
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        raise too_large from None


def _identity(resolved: str, manifest: pb.Manifest, classes: Mapping[str, Int32s], prepared: Prepared) -> str:
    """What a checkpoint belongs to: recipe, schema, plan, classes, net and the number of rows; 64 hex digits."""
    parts = [resolved, *map(str, prepared.facts.rows.items())]
    parts += [
        json_format.MessageToJson(part, sort_keys=True) for part in (manifest.schema, manifest.plan, manifest.net)
    ]
    parts += [hashlib.sha256(array.tobytes()).hexdigest() for _, array in sorted(classes.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _make_net(recipe: Recipe, plan: pb.Plan, dense_count: int) -> pb.Net:
    model = recipe.model
    dropout, batchnorm = model.dropout, model.batchnorm
    if isinstance(model, DeepFMConfig):
        return models.deepfm(plan, dense_count, mlp=model.mlp, batchnorm=batchnorm, dropout=dropout)
    if isinstance(model, DLRMConfig):
        return models.dlrm(plan, dense_count, bottom=model.bottom, top=model.top, batchnorm=batchnorm, dropout=dropout)
    if isinstance(model, DCNConfig):
        return models.dcn(plan, dense_count, cross=model.cross, mlp=model.mlp, batchnorm=batchnorm, dropout=dropout)
    if isinstance(model, DCNv2Config):
        return models.dcnv2(
            plan,
            dense_count,
            cross=model.cross,
            rank=model.rank,
            stacked=model.structure == "stacked",
            mlp=model.mlp,
            batchnorm=batchnorm,
            dropout=dropout,
        )
    return models.dnn(plan, dense_count, mlp=model.mlp, batchnorm=batchnorm, dropout=dropout)


def _repeat(args: argparse.Namespace) -> list[str]:
    """The arguments that a resumed run needs again."""
    repeated = [part for setting in args.set for part in ("--set", setting)]
    if args.seed is not None:
        repeated += ["--seed", str(args.seed)]
    if args.plan is not None:
        repeated += ["--plan", str(args.plan)]
    return [*repeated, "--device", args.device]
