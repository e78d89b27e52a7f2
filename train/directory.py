"""The run directory: what a run may write over, and how a finished run is written: its manifest last."""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from ..protos import manifest as manifests
from ..protos import manifest_pb2 as pb
from ..protos import pareto, plan_directory
from ..protos.errors import RecipeError
from .checkpoint import NAME as CHECKPOINT
from .checkpoint import write_tensors
from .features import Rows
from .loop import score_rows
from .model import Model
from .origin import RECIPE, WEIGHTS
from .plot import plot_learning
from .prepare import Kept, Prepared
from .record import NAME as METRICS
from .search.trials import NAME as TRIALS

REFERENCE = "reference.safetensors"
CALIBRATION, VALIDATION = "calibration.safetensors", "validation.safetensors"
STATE = "state.safetensors"  # the last checkpoint, where the recipe has it kept; it may be deleted
LAST = (manifests.NAME, plan_directory.SEARCH, pareto.NAME)  # of a finished run, a search, one for several budgets
BEGUN = (CHECKPOINT, TRIALS)  # what one of these is in can be gone on with


def check_run(out: Path, resolved: str, *, resume: bool, begun: str = CHECKPOINT) -> None:
    """Refuse a directory that holds something else than what this run, or search, may write over.

    It may be empty; or hold the file `begun`, to be gone on with; or what a run of the same recipe (`resolved`, as
    TOML) left that was killed before it had begun.

    Raises:
        RecipeError.
    """
    if finished := [name for name in LAST if (out / name).exists()]:
        raise RecipeError(
            "what is finished is never written over",
            found=finished[0],
            where=str(out),
            remedy="Name another --out, or delete the directory",
        )
    there = [name for name in BEGUN if (out / name).exists()]
    if there != ([begun] if resume else []):
        remedy = "Say --resume, or name another --out" if begun in there else "Name another --out"
        raise RecipeError(
            "--resume goes on with an interrupted run, and only that",
            found="an interrupted run" if there else "no checkpoint",
            where=str(out),
            remedy=remedy if there else "Leave --resume out",
        )
    if resume or not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    recipe = out / RECIPE
    if not recipe.is_file() or recipe.read_bytes() != resolved.encode():
        raise RecipeError(
            "a run is written into a new or empty directory",
            found="something else",
            where=str(out),
            remedy="Name another --out",
        )


def open_run(out: Path, resolved: str, *, resume: bool) -> None:
    """Make the directory; called when all that can be refused before training has been."""
    out.mkdir(parents=True, exist_ok=True)
    if not resume:
        (out / METRICS).unlink(missing_ok=True)
        manifests.write_atomically(out / RECIPE, resolved.encode())


def write_run(out: Path, manifest: pb.Manifest, model: Model, prepared: Prepared, *, keep_state: bool = False) -> None:
    """Write weights, classes and kept rows, then the manifest: a directory with one is whole. The plot is last.

    Validation rows are scored where the model is; reference rows on the CPU, where the model is at the end.
    """
    validation = _scored(model, prepared.valid, prepared.validation)
    reference = _scored(model.to("cpu"), prepared.heldout, prepared.reference)
    tensors: dict[str, np.ndarray] = {**model.weights(), **model.classes}
    for name, vocabulary in prepared.vocabularies.items():
        tensors[f"vocabulary.{name}.values"] = vocabulary.values
        tensors[f"vocabulary.{name}.ids"] = vocabulary.ids
    found = {name: (str(tensor.dtype), tensor.shape) for name, tensor in tensors.items()}
    manifests.check_tensors(manifests.tensor_shapes(manifest), found, WEIGHTS)
    contents = {CALIBRATION: _inputs(prepared.calibration), REFERENCE: reference, VALIDATION: validation}
    for name, content in contents.items():
        contiguous = {key: np.ascontiguousarray(content[key]) for key in sorted(content)}
        manifests.write_atomically(out / name, save(contiguous))
    write_tensors(out / WEIGHTS, {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, {})
    manifest.files.extend(manifests.describe_files(out, [*contents, WEIGHTS]))
    manifests.write(out, manifest)
    if keep_state and (out / CHECKPOINT).exists():
        (out / CHECKPOINT).replace(out / STATE)
    (out / CHECKPOINT).unlink(missing_ok=True)
    plot_learning(out)


def _scored(model: Model, rows: Rows, kept: Kept) -> dict[str, np.ndarray]:
    """Kept rows as a graph takes them, with their labels and the model's logits."""
    picked = torch.from_numpy(kept.places)
    few = Rows(rows.ids[picked], rows.numbers[picked], rows.labels[picked], None, None)
    logits = score_rows(model, few.to(next(model.parameters()).device))
    return {"logit": logits, "label": few.labels.numpy(), **_inputs(kept)}


def _inputs(kept: Kept) -> dict[str, np.ndarray]:
    """`ids` int64 [R, S] and `dense` float32 [R, D]; what has no columns is absent."""
    inputs = {"ids": kept.raw.ids, "dense": kept.raw.dense}
    return {name: array for name, array in inputs.items() if array.shape[1]}
