"""Laws of the survey: the latest version that can be proved is served, and one whose classes are wrong is not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import runs
from quorem.export.bundle import export
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from quorem.protos.errors import Malformed, NotComplementary, NotFound, QuoremError, WrongClasses
from quorem.serve.model import Model
from quorem.serve.survey import survey

NAMES = ("model.onnx", "tables.bin", "golden.safetensors")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository of one version, with classes that need remainders beside them, and classes that collide."""
    features = [runs.categorical("brand", "hash", 60), runs.categorical("shop", "hash", 20)]
    fields = [runs.field(features[0], "completed", pb.ADD, 4), runs.field(features[1], "colliding", pb.MULT, 4)]
    root = tmp_path_factory.mktemp("survey")
    runs.make_run(root / "run", runs.model(features, fields, "deepfm"), np.random.default_rng(0))
    export(root / "run", root / "models" / "ctr")
    return root / "models"


@pytest.fixture
def models(exported: Path, tmp_path: Path) -> Path:
    """The repository with a second version, the same to the byte."""
    shutil.copytree(exported, tmp_path / "models")
    shutil.copytree(exported / "ctr" / "1", tmp_path / "models" / "ctr" / "2")
    return tmp_path / "models"


def classes_at(bundle: Path, found: pb.Manifest, number: int, change: Callable[[runs.Array], None]) -> None:
    """Change the classes that the manifest tells of, as if export had written them so."""
    place = found.export.class_arrays[number]
    count = {field.feature: field.cardinality for field in found.plan.fields}[place.feature]
    given = np.memmap(bundle / "tables.bin", "<i4", "r+", place.offset, (count,))
    change(given)
    given.flush()


def set_class(number: int, id: int, value: int) -> Callable[[Path, pb.Manifest], None]:
    def change(given: runs.Array) -> None:
        given[id] = value

    return lambda bundle, found: classes_at(bundle, found, number, change)


def all_alike(bundle: Path, found: pb.Manifest) -> None:
    """Without its classes, a brand has only its remainder."""
    for number in (0, 1):
        classes_at(bundle, found, number, lambda given: given.fill(0))


def place(number: int, **changes: object) -> Callable[[Path, pb.Manifest], None]:
    def change(_: Path, found: pb.Manifest) -> None:
        for name, value in changes.items():
            setattr(found.export.class_arrays[number], name, value)

    return change


def among_vectors(bundle: Path, found: pb.Manifest) -> None:
    """The file's last constants are tables."""
    found.export.class_arrays[0].offset = (bundle / "tables.bin").stat().st_size - 4 * 64


def drop(_: Path, found: pb.Manifest) -> None:
    del found.export.class_arrays[0]


def twice(_: Path, found: pb.Manifest) -> None:
    found.export.class_arrays.append(found.export.class_arrays[0])


def fewer_collisions(_: Path, found: pb.Manifest) -> None:
    for fields in (found.plan.fields, found.plan.first_order):
        next(field for field in fields if field.feature == "shop").collisions -= 1


HOSTILE: dict[str, tuple[Callable[[Path, pb.Manifest], None], type[QuoremError], str]] = {
    "a class below": (set_class(0, 5, -1), WrongClasses, "from -1 to"),
    "a class beyond": (set_class(3, 19, 2), WrongClasses, "for 2 rows"),
    "classes that tell nothing apart": (all_alike, NotComplementary, "own tuple"),
    "fewer collisions than there are": (fewer_collisions, NotComplementary, "counted 14"),
    "a place that is not told": (drop, Malformed, "where the classes"),
    "a place told twice": (twice, Malformed, "where the classes"),
    "a place of no feature": (place(0, feature="none"), Malformed, "where the classes"),
    "a place of the table of remainders": (place(0, table=2), Malformed, "where the classes"),
    "a place at the end": (place(1, offset=2**20), Malformed, "within tables.bin"),
    "a place beyond all files": (place(1, offset=2**64 - 4), Malformed, "within tables.bin"),
    "a place among the vectors": (among_vectors, WrongClasses, "number of a row"),
    "a place between two numbers": (place(0, offset=2), WrongClasses, "number of a row"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_version_whose_classes_are_wrong_is_passed_over_by_name(name: str, models: Path) -> None:
    spoil, error, told = HOSTILE[name]
    bundle = models / "ctr" / "2"
    found = manifests.read(bundle)
    spoil(bundle, found)
    del found.files[:]
    found.files.extend(manifests.describe_files(bundle, NAMES))
    manifests.write(bundle, found)
    surveyed = survey(models)
    assert [str(version) for version in surveyed.versions] == ["ctr/1"]
    ((refused, reason),) = surveyed.refused
    assert str(refused) == "ctr/2"
    assert type(reason) is error
    assert told in str(reason)
    assert str(bundle / "tables.bin") in reason.where
    assert reason.remedy


def test_the_latest_version_is_taken_where_all_is_well(models: Path) -> None:
    surveyed = survey(models)
    assert [str(version) for version in surveyed.versions] == ["ctr/2"]
    assert not surveyed.refused


def test_a_version_of_the_lowest_precision_is_served(tmp_path: Path) -> None:
    features = [runs.categorical(f"f{j}", "hash", 60, bag=j and 4) for j in range(6)]
    features[0].side = pb.CONTEXT
    fields = [runs.field(feature, "qr", pb.ADD, 4) for feature in features]
    runs.make_run(tmp_path / "run", runs.model(features, fields, "fm"), np.random.default_rng(0))
    export(tmp_path / "run", tmp_path / "models" / "ctr", precision=pb.Precision(tables=pb.INT8, dense=pb.INT8))
    (version,) = survey(tmp_path / "models").versions
    assert manifests.read(version.directory).export.parity_bound > 1e-2
    Model(version, "cpu").warm()


def test_nothing_to_serve_says_why(models: Path) -> None:
    for number in "12":
        (models / "ctr" / number / "tables.bin").unlink()
    with pytest.raises(NotFound, match=r"ctr/2: .*ctr/1: "):
        survey(models)
