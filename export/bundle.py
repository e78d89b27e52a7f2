"""The bundle: one version of a model, built from a run directory, proved, and published whole or not at all.

In a model repository:

models/ctr/config.pbtxt          Triton's configuration, common to all versions
models/ctr/7/manifest.json       the run's manifest, the facts of the export, the digests of the files below
models/ctr/7/model.onnx          the row-wise graph
models/ctr/7/rank.onnx           the ranking graph, where the model has one
models/ctr/7/tables.bin          the tables of both
models/ctr/7/golden.safetensors  reference rows with their logits: ids, dense, logit, label
models/ctr/7/card.md             the model card
models/ctr/7/tuning.json         what was measured on a machine, if it was; the only file that may change
"""

import errno
import tempfile
from pathlib import Path

from ..protos import exported
from ..protos import manifest as manifests
from ..protos import manifest_pb2 as pb
from ..protos.classes import check_stored
from ..protos.errors import ArtifactError
from . import triton
from .build import GOLDEN, MODEL, RANK, prove_ranking, write
from .graph import TABLES
from .parity import Parity, compare, score
from .precision import MOST_AUC_LOSS
from .run_directory import open_run, read_rows
from .side import context_and_candidates, whole_rows
from .tune import tune
from .verify import verify

FLOAT32 = pb.Precision(tables=pb.FP32, dense=pb.FP32)
LARGEST_VERSION = 2**63 - 1


def export(run: Path, to: Path, version: int | None = None, precision: pb.Precision | None = FLOAT32) -> Path:
    """Publish a run as a version of a model; the version's directory. See `publish`."""
    return publish(run, to, version, precision)[0]


def publish(
    run: Path,
    to: Path,
    version: int | None = None,
    precision: pb.Precision | None = FLOAT32,
    most_auc_loss: float = MOST_AUC_LOSS,
    *,
    tuned: bool = False,
) -> tuple[Path, Parity]:
    """Publish a run as a version of a model.

    Args:
        run: a run directory.
        to: the model's directory in a model repository; made if need be.
        version: the version's number; the one after the latest if not given.
        precision: of tables and dense layers; None for the smallest of all that keeps the AUC of the validation rows.
        most_auc_loss: how much of that AUC the smallest may lose.
        tuned: whether to measure the bundle on this machine: see tune.py.

    Returns:
        The version's directory, and how far apart ONNX Runtime and training were: that is measured, and differs between
        processors, so it does not stand in the bundle. That is the same to the byte on all of them, but for the last
        digits of what layers in int8 are calibrated to, and of what `auto` measured.

    Raises:
        ArtifactError: the run cannot be trusted, or the version exists.
        WrongSchema: the model has versions with other inputs.
        ParityError: ONNX Runtime gives other logits than training gave.
    """
    manifest = open_run(run)
    if to.exists() and not to.is_dir():
        raise ArtifactError("a model is a directory", found="a file", where=str(to), remedy="Name another directory")
    triton.check(to, manifest.schema)
    if version is not None and not 1 <= version <= LARGEST_VERSION:
        raise ArtifactError("versions are numbered from 1 on", found=str(version), remedy="Name a greater --version")
    if to.name.startswith("."):
        raise ArtifactError(
            "a model's name begins with no dot: such directories are not served",
            found=to.name,
            where=str(to),
            remedy="Name another directory",
        )
    while True:
        target = to / str(_free_version(to) if version is None else version)
        try:
            with manifests.directory_in_place(target) as work:
                parity = write(run, manifest, work, precision, most_auc_loss)
                batches = tune(work).preferred_batch_sizes if tuned else triton.PREFERRED_BATCH_ROWS
                triton.write(to, manifest.schema, batches)
            return target, parity
        except OSError as error:
            if error.errno not in (None, errno.EEXIST, errno.ENOTEMPTY) or not target.is_dir():
                raise
        if version is None:
            continue  # another export took the number meanwhile
        raise ArtifactError(
            "a version is never edited",
            found="a version that exists",
            where=str(target),
            remedy="Leave --version out to take the next free one",
        )


def prove_run(
    run: Path, precision: pb.Precision | None = FLOAT32, most_auc_loss: float = MOST_AUC_LOSS
) -> tuple[pb.Manifest, Parity]:
    """Build a run's bundle in a temporary directory and prove it; nothing is kept."""
    manifest = open_run(run)
    with tempfile.TemporaryDirectory(prefix="quorem-export-") as name:
        parity = write(run, manifest, Path(name), precision, most_auc_loss)
        return manifests.read(Path(name), verify_digests=False), parity


def prove_bundle(bundle: Path) -> tuple[pb.Manifest, Parity]:
    """Verify a bundle's digests, facts, classes and graphs, and score its golden rows again.

    Raises:
        ArtifactError: a bundle that cannot be trusted.
        NotComplementary, WrongClasses: classes that are not what its plan says.
        ParityError: its golden rows have other logits.
    """
    manifest = manifests.read(bundle)
    exported.check(manifest, str(bundle / manifests.NAME))
    check_stored(bundle / TABLES, manifest)
    graphs = exported.graphs(manifest)
    for name in graphs:
        sides = context_and_candidates if name == RANK else whole_rows
        verify(bundle / name, sides(manifest.schema))
    golden, bound = read_rows(bundle / GOLDEN, manifest), manifest.export.parity_bound
    found = score(bundle / MODEL, {name: golden[name] for name in ("ids", "dense") if name in golden})
    if RANK in graphs:
        prove_ranking(bundle, manifest.schema, golden, bound)
    return manifest, compare(found, golden["logit"], bound)


def _free_version(model: Path) -> int:
    """The number after the latest version's."""
    return 1 + max(manifests.version_numbers(model), default=0)
