"""Build: a run becomes the files of a bundle, proved, in a directory that is not yet a version of anything."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import save

from ..protos import manifest as manifests
from ..protos import manifest_pb2 as pb
from ..protos import metrics, tables_bin
from ..protos.errors import Malformed, MissingFile, ParityError
from ..protos.exported import WIDEST_BOUND
from ..protos.schema import layout
from . import card, precision, tables
from .calibration import calibrate
from .codes import choose
from .graph import TABLES, Array, Packed
from .int8 import FLOAT_LAYERS, Calibrated, layers_in_int8
from .model import Blueprint, Model
from .parity import Parity, compare, crossed, score, score_ranked
from .rows import CLASSES
from .run_directory import CALIBRATION, REFERENCE, VALIDATION, WEIGHTS, check_weights, read_rows
from .stages import stages
from .tensors import Tensors, open_tensors
from .tolerance import tolerance

MODEL, RANK, GOLDEN = "model.onnx", "rank.onnx", "golden.safetensors"
GOLDEN_ROWS = 256
CROSSED_CONTEXTS, CROSSED_CANDIDATES = 4, 64  # of golden rows: all pairs of them are scored by both graphs
PARTS = {
    "embedding": tables_bin.TABLES,
    "first_order": tables_bin.FIRST_ORDER,
    "classes": tables_bin.CLASSES,
    "vocabulary": tables_bin.VOCABULARIES,
}


@dataclass(frozen=True)
class _Built:
    model: Model
    codes: tuple[pb.TableCode, ...]
    calibrated: Calibrated
    bound: float


def write(run: Path, manifest: pb.Manifest, work: Path, asked: pb.Precision | None, most_auc_loss: float) -> Parity:
    """Write a run's bundle into an empty directory and prove it on all reference rows.

    Args:
        run: the run directory.
        manifest: its manifest.
        work: the directory.
        asked: the precision; None to choose the smallest that keeps the AUC of the validation rows.
        most_auc_loss: how much of it that may lose.
    """
    with open_tensors(run / WEIGHTS) as weights:
        check_weights(manifest, weights)
        blueprint = Blueprint(manifest, weights.read)
        candidates = [] if asked else _tried(run, blueprint, weights, work)
        choices = [asked] if asked else precision.by_size(candidates, most_auc_loss)
        rows = read_rows(run / REFERENCE, manifest)
        spaced = np.linspace(0, len(rows["logit"]) - 1, min(GOLDEN_ROWS, len(rows["logit"]))).astype(np.int64)
        golden = {name: np.ascontiguousarray(array[spaced]) for name, array in rows.items()}
        choice, built, parity = _first_proved(run, blueprint, weights, choices, work, rows, golden)
    (work / GOLDEN).write_bytes(save(golden))  # save_file would make a file that only its owner can read
    _write_manifest(run, manifest, work, choice, built, candidates)
    return parity


def _first_proved(
    run: Path,
    blueprint: Blueprint,
    weights: Tensors,
    choices: Sequence[pb.Precision],
    work: Path,
    rows: Mapping[str, Array],
    golden: Mapping[str, Array],
) -> tuple[pb.Precision, _Built, Parity]:
    """Write the first of the precisions that is proved.

    Raises:
        ParityError: none is.
    """
    choice, *others = choices
    built = _files(run, blueprint, weights, choice, work, rows, golden)
    try:
        return choice, built, _proved(run, work, blueprint.manifest.schema, built.bound, rows, golden)
    except ParityError:
        if not others:
            raise
    return _first_proved(run, blueprint, weights, others, work, rows, golden)


def _proved(
    run: Path,
    work: Path,
    schema: pb.Schema,
    bound: float,
    rows: Mapping[str, Array],
    golden: Mapping[str, Array],
) -> Parity:
    """Score reference rows by the graphs in a directory.

    Raises:
        ParityError: they are further off than the bound, or the bound proves nothing.
    """
    if not bound <= WIDEST_BOUND:
        raise ParityError(
            f"a precision keeps logits to within {WIDEST_BOUND:g} * max(1, |logit|)",
            found=f"a tolerance of {bound:g}",
            where=str(run),
            remedy="Export with a higher --precision, as fp16 or fp32",
        )
    parity = compare(score(work / MODEL, _inputs(rows)), rows["logit"], bound)
    if (work / RANK).exists():
        prove_ranking(work, schema, golden, bound)
    return parity


def prove_ranking(directory: Path, schema: pb.Schema, golden: Mapping[str, Array], bound: float) -> Parity:
    """Show that the ranking graph gives the stored logits, and of a few contexts those of the row-wise graph.

    Raises:
        ParityError.
    """
    parity = compare(score_ranked(directory / RANK, schema, golden), golden["logit"], bound)
    rows = _crossed(schema, golden)
    compare(score_ranked(directory / RANK, schema, rows), score(directory / MODEL, rows), 2 * bound)
    return parity


def _crossed(schema: pb.Schema, golden: Mapping[str, Array]) -> dict[str, Array]:
    few = {name: array[:CROSSED_CANDIDATES] for name, array in _inputs(golden).items()}
    return crossed(schema, few, CROSSED_CONTEXTS)


def _files(
    run: Path,
    blueprint: Blueprint,
    weights: Tensors,
    asked: pb.Precision,
    work: Path,
    rows: Mapping[str, Array] | None,
    golden: Mapping[str, Array],
) -> _Built:
    """Write the tables and the graphs of a precision; the bound is derived from rows, if they are given.

    Of golden rows, what the ranking graph is proved with is among them: each context with each candidate.
    """
    manifest = blueprint.manifest
    fields = {"embedding": manifest.plan.fields, "first_order": manifest.plan.first_order}
    codes, calibrated = choose(asked.tables, fields, weights), FLOAT_LAYERS
    tables.write(work / TABLES, blueprint.build(codes).packed, weights)
    if asked.dense == pb.INT8:
        calibrated = calibrate(blueprint, codes, work, _rows(run, manifest, CALIBRATION))
    model = blueprint.build(codes, calibrated)
    for name, graph in ((MODEL, model.row_wise), (RANK, model.ranking)):
        if graph:
            (work / name).write_bytes(graph.SerializeToString(deterministic=True))
            onnx.checker.check_model(str(work / name), full_check=True)
    bound = 0.0
    if rows:
        scored = _inputs(rows)
        if model.ranking:
            pairs = _crossed(manifest.schema, golden)
            scored = {name: np.concatenate([array, pairs[name]]) for name, array in scored.items()}
        bound = tolerance(manifest, scored, weights.read, weights.rows, codes, calibrated, model.values)
    return _Built(model, codes.tables, calibrated, bound)


def _tried(run: Path, blueprint: Blueprint, weights: Tensors, work: Path) -> list[pb.Candidate]:
    """Every precision on the validation rows; `work` has room for the tables, and keeps nothing."""
    rows = _rows(run, blueprint.manifest, VALIDATION)
    labels, found, exact = rows["label"], list[pb.Candidate](), np.zeros(0)
    if len(np.unique(labels)) < 2:
        raise Malformed(
            "--precision auto compares AUCs, for which validation rows have clicks and others",
            found="one label in all of them",
            where=str(run / VALIDATION),
            remedy="Name a precision, or train with more validation rows",
        )
    for each in precision.every(dense=bool(layers_in_int8(blueprint.manifest.net))):
        with tempfile.TemporaryDirectory(dir=work) as name:
            _files(run, blueprint, weights, each, Path(name), None, {})
            logits = score(Path(name) / MODEL, _inputs(rows)).astype(np.float64)
            size = sum(path.stat().st_size for path in Path(name).iterdir())
        exact = exact if found else logits
        off = float(np.sqrt(np.mean(np.square(logits - exact))))
        scores = {"auc": metrics.auc(logits, labels), "logloss": metrics.logloss(logits, labels), "rmse": off}
        # Six digits: the last bits differ between processors.
        told = {name: float(f"{number:.6g}") for name, number in scores.items()}
        found.append(pb.Candidate(precision=each, bytes=size, **told))
    return found


def _write_manifest(
    run: Path,
    manifest: pb.Manifest,
    work: Path,
    asked: pb.Precision,
    built: _Built,
    candidates: list[pb.Candidate],
) -> None:
    """Write the model card and the manifest."""
    places, bundle, model = layout(manifest.schema), pb.Manifest(), built.model
    graphs = [stages(MODEL, model.row_wise), *([stages(RANK, model.ranking)] if model.ranking else [])]
    bundle.CopyFrom(manifest)
    bundle.export.CopyFrom(
        pb.Export(
            run_sha256=manifests.sha256_of(run / manifests.NAME),
            parity_bound=built.bound,
            table_bytes=sum(each.size for each in model.packed if _part(each) != "vocabulary"),
            slots=places.slot_count,
            dense=places.dense_count,
            class_arrays=model.class_arrays,
            precision=asked,
            codes=built.codes,
            int8_layers=sorted(built.calibrated.layers),
            graphs=graphs,
            no_rank=model.no_ranking,
            parts=_parts(model.packed),
            candidates=candidates,
        )
    )
    del bundle.files[:]
    names = [*(graph.file for graph in graphs), TABLES, GOLDEN]
    bundle.files.extend(manifests.describe_files(work, names))
    (work / card.NAME).write_text(card.card(bundle), encoding="utf-8")
    bundle.files.extend(manifests.describe_files(work, (card.NAME,)))
    manifests.write(work, bundle)


def _parts(packed: Sequence[Packed]) -> list[pb.PartBytes]:
    sizes = tables_bin.part_bytes((PARTS[_part(each)], each.size) for each in packed)
    return [pb.PartBytes(name=name, bytes=size) for name, size in sizes.items()]


def _part(packed: Packed) -> str:
    return "classes" if packed.name == CLASSES else packed.name.partition("/")[0].partition(".")[0]


def _rows(run: Path, manifest: pb.Manifest, name: str) -> Mapping[str, Array]:
    """Calibration or validation rows.

    Raises:
        MissingFile: of a run that an earlier version trained.
    """
    if name not in {file.name for file in manifest.files}:
        raise MissingFile(
            f"int8 layers and --precision auto need the run's {name}",
            found="none: the run was trained by an earlier version",
            where=str(run),
            remedy="Train again, or export with --precision fp32, fp16 or int8",
        )
    return read_rows(run / name, manifest, scored=name == VALIDATION)


def _inputs(rows: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array for name, array in rows.items() if name in ("ids", "dense")}
