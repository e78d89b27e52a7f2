"""The bundle: one version of a model, built from a run directory, proved, and published whole or not at all.

In a model repository:

models/ctr/config.pbtxt          Triton's configuration, common to all versions
models/ctr/7/manifest.json       the run's manifest, the facts of the export, the digests of the files below
models/ctr/7/model.onnx          the graph
models/ctr/7/tables.bin          its tables
models/ctr/7/golden.safetensors  reference rows with their logits: ids, dense, logit, label
"""

import errno
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import save

from ..protos import manifest as manifests
from ..protos import manifest_pb2 as pb
from ..protos import plan
from ..protos.classes import check_stored
from ..protos.errors import ArtifactError, Malformed, MissingFile
from ..protos.schema import layout
from . import tables, triton
from .graph import TABLES, Array
from .model import build
from .parity import BOUND, Parity, prove
from .rows import CLASSES
from .tensors import Shapes, Tensors, open_tensors

WEIGHTS, REFERENCE = "weights.safetensors", "reference.safetensors"
MODEL, GOLDEN = "model.onnx", "golden.safetensors"
GOLDEN_ROWS = 256
LARGEST_VERSION = 2**63 - 1


def export(run: Path, to: Path, version: int | None = None) -> Path:
    """Publish a run as a version of a model; the version's directory. See `publish`."""
    return publish(run, to, version)[0]


def publish(run: Path, to: Path, version: int | None = None) -> tuple[Path, Parity]:
    """Publish a run as a version of a model.

    Args:
        run: a run directory.
        to: the model's directory in a model repository; made if need be.
        version: the version's number; the one after the latest if not given.

    Returns:
        The version's directory, and how far apart ONNX Runtime and training were: that is measured, and differs between
        processors, so it does not stand in the bundle, which is the same to the byte on all of them.

    Raises:
        ArtifactError: the run cannot be trusted, or the version exists.
        WrongSchema: the model has versions with other inputs.
        ParityError: ONNX Runtime gives other logits than training gave.
    """
    manifest = _open_run(run)
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
                parity = write(run, manifest, work)
                triton.write(to, manifest.schema)
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


def prove_run(run: Path) -> tuple[pb.Manifest, Parity]:
    """Build a run's bundle in a temporary directory and prove it; nothing is kept."""
    manifest = _open_run(run)
    with tempfile.TemporaryDirectory(prefix="quorem-export-") as name:
        parity = write(run, manifest, Path(name))
        return manifests.read(Path(name), verify_digests=False), parity


def prove_bundle(bundle: Path) -> tuple[pb.Manifest, Parity]:
    """Verify a bundle's digests, its classes and its graph, and score its golden rows again.

    Raises:
        ArtifactError: a bundle that cannot be trusted.
        NotComplementary, WrongClasses: classes that are not what its plan says.
        ParityError: its golden rows have other logits.
    """
    manifest = manifests.read(bundle)
    _expect_files(bundle, manifest, (MODEL, TABLES, GOLDEN))
    check_stored(bundle / TABLES, manifest)
    try:
        onnx.checker.check_model(str(bundle / MODEL), full_check=True)
    except onnx.checker.ValidationError as error:
        raise Malformed(
            "model.onnx is a valid ONNX model",
            found=str(error),
            where=str(bundle / MODEL),
            remedy="Export the run again",
        ) from None
    return manifest, prove(bundle / MODEL, read_rows(bundle / GOLDEN, manifest))


def write(run: Path, manifest: pb.Manifest, work: Path) -> Parity:
    """Write a run's bundle into an empty directory and prove it on all reference rows."""
    with open_tensors(run / WEIGHTS) as weights:
        manifests.check_tensors(manifests.tensor_shapes(manifest), weights.shapes, str(run / WEIGHTS))
        _check_vocabularies(manifest, weights)
        _check_classes(manifest, weights)
        model = build(manifest, weights.read)
        tables.write(work / TABLES, model.packed, weights)
    (work / MODEL).write_bytes(model.proto.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(work / MODEL), full_check=True)
    rows = read_rows(run / REFERENCE, manifest)
    parity = prove(work / MODEL, rows)
    golden = {name: np.ascontiguousarray(array[:GOLDEN_ROWS]) for name, array in rows.items()}
    (work / GOLDEN).write_bytes(save(golden))  # save_file would make a file that only its owner can read

    places, bundle = layout(manifest.schema), pb.Manifest()
    bundle.CopyFrom(manifest)
    bundle.export.CopyFrom(
        pb.Export(
            run_sha256=manifests.sha256_of(run / manifests.NAME),
            parity_bound=BOUND,
            table_bytes=sum(each.size for each in model.packed if each.dtype == "float32" or each.name == CLASSES),
            slots=places.slot_count,
            dense=places.dense_count,
            class_arrays=model.class_arrays,
        )
    )
    del bundle.files[:]
    bundle.files.extend(manifests.describe_files(work, (MODEL, TABLES, GOLDEN)))
    manifests.write(work, bundle)
    return parity


def read_rows(path: Path, manifest: pb.Manifest) -> Mapping[str, Array]:
    """Reference or golden rows: `ids` int64 [R, S], `dense` float32 [R, D], `logit` and `label` float32 [R].

    Raises:
        Malformed, WrongShape.
    """
    places = layout(manifest.schema)
    with open_tensors(path) as tensors:
        _, shape = tensors.shapes.get("logit", ("", ()))
        if not shape or not shape[0]:
            raise Malformed(
                "a run keeps reference rows with their logits",
                found="none",
                where=str(path),
                remedy="Train the model again",
            )
        rows = shape[0]
        expected: Shapes = {"logit": ("float32", (rows,)), "label": ("float32", (rows,))}
        if places.slot_count:
            expected["ids"] = ("int64", (rows, places.slot_count))
        if places.dense_count:
            expected["dense"] = ("float32", (rows, places.dense_count))
        manifests.check_tensors(expected, tensors.shapes, str(path))
        return {name: tensors.read(name) for name in expected}


def _open_run(run: Path) -> pb.Manifest:
    manifest = manifests.read(run)
    if manifest.HasField("export"):
        raise Malformed(
            "export reads a run directory",
            found="a bundle: a version that was exported already",
            where=str(run),
            remedy="Name the directory that `quorem train` wrote",
        )
    _expect_files(run, manifest, (WEIGHTS, REFERENCE))
    return manifest


def _expect_files(directory: Path, manifest: pb.Manifest, names: tuple[str, ...]) -> None:
    listed = {file.name for file in manifest.files}
    for name in names:
        if name not in listed:
            raise MissingFile(
                f"a manifest lists {', '.join(names)}",
                found=f"no {name}",
                where=str(directory / manifests.NAME),
                remedy="Write the directory again; its manifest was not written to its end",
            )


def _check_vocabularies(manifest: pb.Manifest, weights: Tensors) -> None:
    """The search in the graph rests on values that rise, the lookup on ids that the tables have."""
    for feature in manifest.schema.features:
        if feature.WhichOneof("encoding") == "vocabulary":
            values, ids = (weights.read(f"vocabulary.{feature.name}.{role}") for role in ("values", "ids"))
            if (values[1:] <= values[:-1]).any() or (np.sort(ids) != np.arange(1, len(ids) + 1)).any():
                raise Malformed(
                    "a vocabulary's values rise strictly, and its ids are 1 to its size",
                    found="others",
                    where=f"{weights.path}, feature {feature.name!r}",
                    remedy="Train the model again",
                )


def _check_classes(manifest: pb.Manifest, weights: Tensors) -> None:
    """Semantic fields have the collisions that the plan says: the classes as they will be looked up prove it."""
    for field in (*manifest.plan.fields, *manifest.plan.first_order):
        names = {j: manifests.class_name(field.feature, j) for j in plan.class_tables(field)}
        if names:
            arrays = {j: weights.read(name) for j, name in names.items()}
            plan.check_classes(field, arrays, f"{weights.path}, feature {field.feature!r}")


def _free_version(model: Path) -> int:
    """The number after the latest version's."""
    return 1 + max(manifests.version_numbers(model), default=0)
