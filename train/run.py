"""A training run: recipe -> rows -> schema, plan and net -> trained weights -> run directory."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from google.protobuf import json_format
from safetensors.numpy import save

from ..protos import manifest as manifests
from ..protos import manifest_pb2 as pb
from ..protos import nets
from ..protos.encode import Encoded
from ..protos.errors import DataError, Malformed, MissingFile, QuoremError, RecipeError
from ..protos.schema import dense_features
from .checkpoint import NAME as CHECKPOINT
from .columns import column_types
from .data import Splits, read
from .features import Rows, Vocabularies, encode_table, fit_schema, groups_of, model_rows, numbers_of
from .loop import Interrupted, Place, evaluate_rows, fit, score_rows
from .model import Model
from .planning import make_plan
from .plot import plot_learning
from .progress import METRICS, Display
from .recipe import DeepFMConfig, Recipe, read_recipe, to_toml
from .report import as_dict, print_report

REFERENCE_ROWS = 1024
INTERRUPTED = 130
RECIPE = "recipe.toml"


def main(args: argparse.Namespace) -> int:
    """Run `quorem train`; returns the exit code."""
    recipe, base = read_recipe(args.recipe, args.set, args.seed)
    device = choose_device(args.device)
    try:
        manifest, facts = train(recipe, base, args.out, args.plan, device, resume=args.resume, quiet=args.quiet)
    except Interrupted:
        again = " ".join(["quorem", "train", args.recipe, "--out", str(args.out), "--resume", *_repeat(args)])
        print(f"\nStopped; everything up to the last batch is saved. Go on with:\n  {again}", file=sys.stderr)
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
) -> tuple[pb.Manifest, dict[str, float]]:
    """Train as the recipe says and write the run directory.

    Returns:
        The run's manifest, and what is known of the data beside it (the best possible AUC of planted data).

    Raises:
        QuoremError: see errors.py. Interrupted: saved, and not finished.
    """
    resolved = to_toml(recipe)
    plan_text = plan_path.read_text("utf-8") if plan_path and plan_path.is_file() else ""
    if plan_path and not plan_text:
        raise MissingFile("--plan names a plan.json", found="no such file", where=str(plan_path))
    _check_out(out, resume=resume)
    splits = read(recipe.data, list(recipe.features), base, column_types(recipe.features))
    schema, vocabularies, encoded = fit_schema(recipe.features, splits.train)
    if plan_text:
        plan = _read_plan(plan_text, str(plan_path))
    else:
        plan = make_plan(recipe.embedding, schema, first_order=recipe.model.first_order)
    manifest = pb.Manifest(format_version=manifests.FORMAT_VERSION, schema=schema, plan=plan)
    manifest.net.CopyFrom(_make_net(recipe, plan, len(dense_features(schema))))
    manifests.check(manifest, str(plan_path or "recipe"))

    heldout = splits.test if splits.test is not None else splits.valid
    heldout_encoded = encode_table(schema, recipe.features, heldout)
    train_rows = _rows(recipe, schema, vocabularies, encoded, splits, "train").to(device)
    valid_encoded = encode_table(schema, recipe.features, splits.valid)
    valid_rows = _rows(recipe, schema, vocabularies, valid_encoded, splits, "valid").to(device)
    _check_classes(valid_rows)
    model = Model(schema, plan, manifest.net)
    model.reset(recipe.train.seed)
    model.to(device)
    _open_run(out, resolved, resume=resume)
    with Display(out, recipe.train.epochs, quiet=quiet) as display:
        place = Place(out, resolved + plan_text, resume)
        progress = fit(model, train_rows, valid_rows, recipe.train, place, display)

    facts = splits.facts
    manifest.training.CopyFrom(
        pb.Training(
            source=" ".join([facts.source, *facts.files]),
            seed=recipe.train.seed,
            device=device.type,
            best_epoch=progress.best_epoch,
            train_rows=len(splits.train),
            valid_rows=len(splits.valid),
            test_rows=len(splits.test) if splits.test is not None else 0,
            valid_metrics=evaluate_rows(model, valid_rows),
            negative_rate=recipe.data.negative_rate,
            label=recipe.data.label,
        )
    )
    heldout_rows = _rows(recipe, schema, vocabularies, heldout_encoded, splits, "test" if splits.test else "valid")
    if splits.test is not None:
        manifest.training.test_metrics.update(evaluate_rows(model, heldout_rows.to(device)))
    # A kept share w of the negatives multiplies the odds by 1 / w; metrics above are of the rows as they came.
    model.shift_logit(nets.last_bias(manifest.net), float(np.log(recipe.data.negative_rate)))
    model.to("cpu")
    _write(out, manifest, model, vocabularies, heldout_encoded, heldout_rows)
    planted = {"optimal_auc": facts.optimal_auc, "optimal_logloss": facts.optimal_logloss}
    return manifest, {name: value for name, value in planted.items() if value is not None}


def _check_out(out: Path, *, resume: bool) -> None:
    """Refuse a run directory that holds something else than what this run may write over."""
    if (out / manifests.NAME).exists():
        raise RecipeError(
            "a finished run is never written over",
            found="a manifest",
            where=str(out),
            remedy="Name another --out, or delete the directory",
        )
    if (out / CHECKPOINT).exists() != resume:
        raise RecipeError(
            "--resume goes on with an interrupted run, and only that",
            found="no checkpoint" if resume else "an interrupted run",
            where=str(out),
            remedy="Leave --resume out" if resume else "Say --resume, or name another --out",
        )
    # A run that was killed before its first checkpoint left no more than these two.
    if not resume and out.exists() and (not out.is_dir() or {each.name for each in out.iterdir()} - {RECIPE, METRICS}):
        raise RecipeError(
            "a run is written into a new or empty directory",
            found="something else",
            where=str(out),
            remedy="Name another --out",
        )


def _open_run(out: Path, resolved: str, *, resume: bool) -> None:
    """Make the run directory; called when all that can be refused before training has been."""
    out.mkdir(parents=True, exist_ok=True)
    if not resume:
        (out / METRICS).unlink(missing_ok=True)
        manifests.write_atomically(out / RECIPE, resolved.encode())


def _read_plan(text: str, where: str) -> pb.Plan:
    try:
        return json_format.Parse(text, pb.Plan())
    except json_format.ParseError as error:
        raise Malformed(
            "a plan is the JSON form of quorem.v1.Plan", found=str(error), where=where, remedy="Make it again"
        ) from None


def _check_classes(valid: Rows) -> None:
    if len(torch.unique(valid.labels)) < 2:
        raise DataError(
            "validation rows hold clicks and non-clicks, so that an AUC exists",
            found=f"{len(valid)} rows of one class",
            where="validation split",
            remedy="Take more rows, or another split",
        )


def _make_net(recipe: Recipe, plan: pb.Plan, dense_count: int) -> pb.Net:
    model = recipe.model
    if isinstance(model, DeepFMConfig):
        return nets.deepfm(plan, dense_count, mlp=model.mlp, batchnorm=model.batchnorm, dropout=model.dropout)
    return nets.dlrm(
        plan, dense_count, bottom=model.bottom, top=model.top, batchnorm=model.batchnorm, dropout=model.dropout
    )


def _rows(
    recipe: Recipe, schema: pb.Schema, vocabularies: Vocabularies, encoded: Encoded, splits: Splits, split: str
) -> Rows:
    table = {"train": splits.train, "valid": splits.valid, "test": splits.test}[split]
    assert table is not None
    data = recipe.data
    weights = numbers_of(table, data.sample_weight) if data.sample_weight else None
    groups = groups_of(table, data.group) if data.group else None
    return model_rows(schema, vocabularies, encoded, numbers_of(table, data.label), weights, groups)


def _write(
    out: Path, manifest: pb.Manifest, model: Model, vocabularies: Vocabularies, encoded: Encoded, rows: Rows
) -> None:
    """Write weights, reference rows and plots, and the manifest last: a directory with one is whole."""
    weights = dict(model.weights())
    tensors: dict[str, np.ndarray] = dict(weights)
    for name, vocabulary in vocabularies.items():
        tensors[f"vocabulary.{name}.values"] = vocabulary.values
        tensors[f"vocabulary.{name}.ids"] = vocabulary.ids
    found = {name: (str(tensor.dtype), tensor.shape) for name, tensor in tensors.items()}
    manifests.check_tensors(manifests.tensor_shapes(manifest), found, "weights.safetensors")
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(REFERENCE_ROWS, len(rows))).astype(np.int64))
    picked = torch.from_numpy(chosen)
    reference = {
        "logit": score_rows(model, Rows(rows.ids[picked], rows.numbers[picked], rows.labels[picked], None, None)),
        "label": rows.labels[picked].numpy(),
    }
    if encoded.ids.shape[1]:
        reference["ids"] = encoded.ids[chosen]
    if encoded.dense.shape[1]:
        reference["dense"] = encoded.dense[chosen]
    for name, content in (("weights.safetensors", tensors), ("reference.safetensors", reference)):
        manifests.write_atomically(
            out / name, save({key: np.ascontiguousarray(content[key]) for key in sorted(content)})
        )
    if (out / METRICS).exists():
        plot_learning(out)
    manifest.files.extend(manifests.describe_files(out, ["reference.safetensors", "weights.safetensors"]))
    manifests.write(out, manifest)
    (out / CHECKPOINT).unlink(missing_ok=True)


def _repeat(args: argparse.Namespace) -> list[str]:
    """The arguments that a resumed run needs again."""
    repeated = [f"--set {setting}" for setting in args.set]
    if args.seed is not None:
        repeated.append(f"--seed {args.seed}")
    if args.plan is not None:
        repeated.append(f"--plan {args.plan}")
    return [*repeated, f"--device {args.device}"]
