"""Laws of the manifest: it reads back as it was written, the same bytes each time, and nothing is half-written."""

from pathlib import Path

import every_kind
import pytest
from quorem.protos import manifest, schema
from quorem.protos import manifest_pb2 as pb
from quorem.protos.errors import WrongShape

GOLDEN = Path(__file__).parent / "golden" / "manifest.json"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return every_kind.write(tmp_path)


# ---------------------------------------------------------------- there and back


def test_a_manifest_reads_back_as_it_was_written(directory: Path) -> None:
    read = manifest.read(directory)
    assert [file.name for file in read.files] == ["weights.safetensors", "recipe.toml"]
    del read.files[:]
    assert read == every_kind.model()


def test_writing_twice_gives_the_same_bytes_and_leaves_nothing_beside(directory: Path) -> None:
    before, names = (directory / manifest.NAME).read_bytes(), sorted(path.name for path in directory.iterdir())
    manifest.write(directory, manifest.read(directory))
    assert (directory / manifest.NAME).read_bytes() == before
    assert sorted(path.name for path in directory.iterdir()) == names


def test_the_golden_manifest(tmp_path: Path) -> None:
    """The bytes on disk, once looked through by hand: names, order and number formats are the contract."""
    manifest.write(tmp_path, every_kind.model())
    assert (tmp_path / manifest.NAME).read_text() == GOLDEN.read_text()
    golden = manifest.parse(GOLDEN.read_bytes(), "golden")
    manifest.check(golden, "golden")
    assert golden == every_kind.model()


def test_the_order_of_a_maps_keys_does_not_show(tmp_path: Path) -> None:
    written = []
    for names in (["auc", "logloss"], ["logloss", "auc"]):
        manifest.write(tmp_path, pb.Manifest(training=pb.Training(test_metrics=dict.fromkeys(names, 0.5))))
        written.append((tmp_path / manifest.NAME).read_bytes())
    assert written[0] == written[1]


def test_the_fingerprint_tells_schemas_apart_that_take_other_rows() -> None:
    base = every_kind.model().schema
    assert schema.fingerprint(base) == "c5c754dd3701a6d5"
    same = every_kind.model().schema
    same.features[5].vocabulary.size = 600
    same.features[2].bucket.boundaries[:] = [1]
    same.features[3].id.first = 957
    same.features[0].dense.missing = 4
    assert schema.fingerprint(same) == schema.fingerprint(base)
    others = []
    for change in ("name", "side", "values", "bag", "order", "fewer"):
        other = every_kind.model().schema
        if change == "name":
            other.features[3].name = "visitor"
        elif change == "side":
            other.features[3].side = pb.CANDIDATE
        elif change == "values":
            other.features[4].values = pb.INTEGER
        elif change == "bag":
            other.features[5].bag.max_length = 4
        elif change == "order":
            other.features.reverse()
        else:
            del other.features[-1]
        others.append(schema.fingerprint(other))
    assert len({*others, schema.fingerprint(base)}) == len(others) + 1


def test_the_layout_of_inputs() -> None:
    places = schema.layout(every_kind.model().schema)
    assert places.slots == {
        "user": (0, 1),
        "ad": (1, 1),
        "cité 🦆": (2, 3),
        "brand": (5, 1),
        "shop": (6, 1),
        "zone": (7, 1),
    }
    assert places.dense == {"age": 0, "income": 1, "price": 2}
    assert (places.slot_count, places.dense_count) == (8, 3)
    sizes = {feature.name: schema.cardinality(feature) for feature in every_kind.model().schema.features}
    known = {"age": 0, "income": 0, "price": 5, "user": 100, "ad": 2**33, "cité 🦆": 7}
    assert sizes == known | {"brand": 12, "shop": 24, "zone": 20}


# ---------------------------------------------------------------- tensors


def test_tables_of_few_bits_have_scales_and_offsets() -> None:
    made = every_kind.model()
    (shop,) = (field for field in made.plan.fields if field.feature == "shop")
    (user,) = (field for field in made.plan.fields if field.feature == "user")
    shop.tables[0].bits = 3  # joined by path: its functions are float32
    for table in user.tables:
        table.bits = 4
    added = manifest.tensor_shapes(made).items() - manifest.tensor_shapes(every_kind.model()).items()
    assert dict(added) == {
        f"{role}.{table}": ("float32", (4,)) for role in ("scale", "offset") for table in ("shop.0", "user.0", "user.1")
    }


def test_the_tensors_of_a_model_counted_by_hand() -> None:
    shapes = manifest.tensor_shapes(every_kind.model())
    tables = {name: shape for name, shape in shapes.items() if name.partition(".")[0] in ("embedding", "first_order")}
    assert tables == {
        "embedding.price.0": ("float32", (5, 4)),
        "embedding.user.0": ("float32", (25, 4)),
        "embedding.user.1": ("float32", (4, 4)),
        "embedding.ad.0": ("float32", (1000, 4)),
        "embedding.cité 🦆.0": ("float32", (4, 2)),
        "embedding.cité 🦆.1": ("float32", (2, 2)),
        "embedding.brand.0": ("float32", (3, 4)),
        "embedding.brand.1": ("float32", (2, 4)),
        "embedding.brand.2": ("float32", (2, 4)),
        "embedding.shop.0": ("float32", (4, 4)),
        "embedding.shop.1": ("float32", (6, 2 * 4 + 2 + 4 * 2 + 4)),
        "embedding.zone.0": ("float32", (3, 4)),
        "embedding.zone.1": ("float32", (3, 4)),
        "embedding.zone.2": ("float32", (3, 4)),
        "first_order.price.0": ("float32", (5, 1)),
        "first_order.user.0": ("float32", (25, 1)),
        "first_order.user.1": ("float32", (4, 1)),
        "first_order.ad.0": ("float32", (1000, 1)),
        "first_order.cité 🦆.0": ("float32", (4, 1)),
        "first_order.cité 🦆.1": ("float32", (2, 1)),
        "first_order.brand.0": ("float32", (3, 1)),
        "first_order.brand.1": ("float32", (2, 1)),
        "first_order.brand.2": ("float32", (2, 1)),
        "first_order.shop.0": ("float32", (4, 1)),
        "first_order.shop.1": ("float32", (6, 1)),
        "first_order.zone.0": ("float32", (3, 1)),
        "first_order.zone.1": ("float32", (3, 1)),
        "first_order.zone.2": ("float32", (3, 1)),
    }
    classes = {name: shape for name, shape in shapes.items() if name.startswith("classes.")}
    assert classes == {name: (each.dtype.name, each.shape) for name, each in every_kind.CLASSES.items()}
    assert shapes["vocabulary.cité 🦆.values"] == ("int64", (6,))
    assert shapes["vocabulary.cité 🦆.ids"] == ("int32", (6,))
    assert shapes["mlp.0.weight"] == ("float32", (8, 7 * 4 + 2 * 4 + 2))


@pytest.mark.parametrize("change", ["absent", "superfluous", "shape", "dtype"])
def test_tensors_that_are_not_the_plans_are_refused(change: str) -> None:
    expected = manifest.tensor_shapes(every_kind.model())
    manifest.check_tensors(expected, dict(expected), "weights.safetensors")
    found, name = dict(expected), "embedding.user.1"
    if change == "absent":
        del found[name]
    elif change == "superfluous":
        name = "embedding.user.2"
        found[name] = ("float32", (4, 4))
    else:
        found[name] = ("float16", (4, 4)) if change == "dtype" else ("float32", (5, 4))
    with pytest.raises(WrongShape) as caught:
        manifest.check_tensors(expected, found, "weights.safetensors")
    assert caught.value.where == f"weights.safetensors, tensor {name!r}"


# ---------------------------------------------------------------- writing


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    manifest.write_atomically(path, b"old")
    with pytest.raises(TypeError):
        manifest.write_atomically(path, "not bytes")  # pyright: ignore[reportArgumentType]  # it fails half-way
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_directory_takes_its_place_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "models" / "1"

    def fail_half_way() -> None:
        with manifest.directory_in_place(target) as work:
            (work / "half").write_text("written")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert not target.parent.exists(), "nothing is left behind, not even a directory that was made for it"
    with manifest.directory_in_place(target) as work:
        (work / "whole").write_text("written")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["1"]
    assert (target / "whole").read_text() == "written"
    with pytest.raises(FileExistsError), manifest.directory_in_place(target):
        pass
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_version_numbers_are_plain_latest_first(tmp_path: Path) -> None:
    for name in ("1", "10", "9", "007", "0", "-1", "1.5", ".2.x", "latest", str(2**63 - 1), str(2**63), "9" * 25):
        (tmp_path / name).mkdir()
    (tmp_path / "3").write_text("a file")
    assert manifest.version_numbers(tmp_path) == [2**63 - 1, 10, 9, 1]
    assert manifest.version_numbers(tmp_path / "none") == []
