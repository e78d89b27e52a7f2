"""The run directory, as export reads it: its files, their rows and their weights, checked."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..protos import low_bits, plan
from ..protos import manifest as manifests
from ..protos import manifest_pb2 as pb
from ..protos.errors import Malformed, MissingFile
from ..protos.schema import layout
from .graph import Array
from .tensors import Shapes, Tensors, open_tensors

WEIGHTS, REFERENCE = "weights.safetensors", "reference.safetensors"
CALIBRATION, VALIDATION = "calibration.safetensors", "validation.safetensors"


def open_run(run: Path) -> pb.Manifest:
    """The manifest of a run directory, verified.

    Raises:
        ArtifactError: not a run, or one that cannot be trusted.
    """
    manifest = manifests.read(run)
    if manifest.HasField("export"):
        raise Malformed(
            "export reads a run directory",
            found="a bundle: a version that was exported already",
            where=str(run),
            remedy="Name the directory that `quorem train` wrote",
        )
    expect_files(run, manifest, (WEIGHTS, REFERENCE))
    return manifest


def expect_files(directory: Path, manifest: pb.Manifest, names: tuple[str, ...]) -> None:
    """Refuse a manifest that lists not all of these files.

    Raises:
        MissingFile.
    """
    listed = {file.name for file in manifest.files}
    for name in names:
        if name not in listed:
            raise MissingFile(
                f"a manifest lists {', '.join(names)}",
                found=f"no {name}",
                where=str(directory / manifests.NAME),
                remedy="Write the directory again; its manifest was not written to its end",
            )


def check_weights(manifest: pb.Manifest, weights: Tensors) -> None:
    """Refuse weights that are not what the manifest says: shapes, vocabularies, classes, values of few bits.

    Raises:
        WrongShape, Malformed, NotComplementary, WrongClasses, OffGrid.
    """
    manifests.check_tensors(manifests.tensor_shapes(manifest), weights.shapes, str(weights.path))
    _check_vocabularies(manifest, weights)
    _check_classes(manifest, weights)
    _check_grids(manifest, weights)


def read_rows(path: Path, manifest: pb.Manifest, *, scored: bool = True) -> Mapping[str, Array]:
    """Rows of a run or a bundle: `ids` int64 [R, S], `dense` float32 [R, D]; `logit`, `label` float32 [R] if scored.

    Raises:
        Malformed, WrongShape.
    """
    places = layout(manifest.schema)
    with open_tensors(path) as tensors:
        name = "logit" if scored else "ids" if places.slot_count else "dense"
        _, shape = tensors.shapes.get(name, ("", ()))
        if not shape or not shape[0]:
            raise Malformed(
                f"a run keeps rows, with their {name!r}",
                found="none",
                where=str(path),
                remedy="Train the model again",
            )
        rows = shape[0]
        expected: Shapes = {"logit": ("float32", (rows,)), "label": ("float32", (rows,))} if scored else {}
        if places.slot_count:
            expected["ids"] = ("int64", (rows, places.slot_count))
        if places.dense_count:
            expected["dense"] = ("float32", (rows, places.dense_count))
        manifests.check_tensors(expected, tensors.shapes, str(path))
        return {name: tensors.read(name) for name in expected}


def _check_vocabularies(manifest: pb.Manifest, weights: Tensors) -> None:
    """Encoding rests on values that rise, the hash in the graph on distinct ones and on ids from 1 to their number."""
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


def _check_grids(manifest: pb.Manifest, weights: Tensors) -> None:
    """Codes are made of values that stand on their tables' grids, bit for bit."""
    for field in manifest.plan.fields:
        for j, table in enumerate(field.tables):
            if table.bits:
                where = f"{weights.path}, feature {field.feature!r}, table {j}"
                names = low_bits.scale_name(field.feature, j), low_bits.offset_name(field.feature, j)
                scale, offset = map(weights.read, names)
                low_bits.check_grid(scale, offset, where)
                low_bits.centre_of(scale, offset, table.bits, where)
                for stretch in weights.stretches(f"embedding.{field.feature}.{j}"):
                    low_bits.encode(stretch, scale, offset, table.bits, where)
