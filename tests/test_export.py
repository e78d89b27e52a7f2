"""Exporting: a version is published whole, proved and never edited, or not at all."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import runs
from quorem.command import main
from quorem.export.bundle import export, prove_bundle
from quorem.protos import errors
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from safetensors.numpy import load_file, save_file

FILES = ["card.md", "golden.safetensors", "manifest.json", "model.onnx", "rank.onnx", "tables.bin"]
SIGNED = ["model.onnx", "rank.onnx", "tables.bin", "golden.safetensors", "card.md"]


def manifest_of(bag: int = 3, vocabulary: int = 40) -> pb.Manifest:
    features = [
        runs.categorical("user", "hash", 300),
        runs.categorical("item", "vocabulary", vocabulary),
        runs.number("age", pb.LOG1P),
        runs.categorical("tags", "vocabulary", 7, bag=bag),
        runs.categorical("price", "bucket", 4),
        runs.categorical("brand", "hash", 60),
        runs.categorical("shop", "hash", 20),
    ]
    schemes = {"user": "qr", "item": "qr", "tags": "full", "price": "full", "brand": "completed", "shop": "colliding"}
    fields = [runs.field(one, schemes[one.name], pb.MULT, 4) for one in features if one.name in schemes]
    return runs.model(features, fields, "deepfm")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    runs.make_run(tmp_path / "run", manifest_of(), np.random.default_rng(0), 300)
    return tmp_path / "run"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def edit(run: Path, name: str, change: Callable[[dict[str, runs.Array]], None]) -> None:
    """Change the tensors of one of a run's files, as if training had written them so."""
    tensors = load_file(run / name)
    change(tensors)
    manifest = manifests.read(run, verify_digests=False)
    save_file(tensors, run / name)
    del manifest.files[:]
    manifest.files.extend(manifests.describe_files(run, runs.FILES))
    manifests.write(run, manifest)


def test_a_bundle_holds_what_it_says(run: Path, tmp_path: Path) -> None:
    bundle = export(run, tmp_path / "models" / "ctr")
    assert bundle == tmp_path / "models" / "ctr" / "1"
    assert names(bundle) == FILES
    assert names(bundle.parent) == ["1", "config.pbtxt"]
    assert len({path.stat().st_mode for path in bundle.iterdir()}) == 1, "whoever reads one file reads all"
    manifest, trained = manifests.read(bundle), manifests.read(run)
    assert (manifest.schema, manifest.plan, manifest.net) == (trained.schema, trained.plan, trained.net)
    assert [file.name for file in manifest.files] == SIGNED
    facts = manifest.export
    assert facts.run_sha256 == manifests.sha256_of(run / "manifest.json")
    assert (facts.slots, facts.dense) == (7, 2)
    assert facts.parity_bound == 1e-5
    assert facts.precision == pb.Precision(tables=pb.FP32, dense=pb.FP32)
    assert [graph.file for graph in facts.graphs] == ["model.onnx", "rank.onnx"]
    assert not facts.no_rank
    assert sum(part.bytes for part in facts.parts) == (bundle / "tables.bin").stat().st_size
    golden, reference = load_file(bundle / "golden.safetensors"), load_file(run / "reference.safetensors")
    assert golden.keys() == reference.keys()
    chosen = np.linspace(0, len(reference["logit"]) - 1, 256).astype(int)
    assert all((golden[name] == reference[name][chosen]).all() or name == "dense" for name in golden)
    np.testing.assert_array_equal(golden["dense"], reference["dense"][chosen])
    assert len(golden["logit"]) == 256


def test_the_graph_has_the_stated_inputs_and_outputs(run: Path, tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(
        str(export(run, tmp_path / "ctr") / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    told = {each.name: (each.type, each.shape) for each in [*session.get_inputs(), *session.get_outputs()]}
    assert told == {
        "ids": ("tensor(int64)", ["batch", 7]),
        "dense": ("tensor(float)", ["batch", 2]),
        "logit": ("tensor(float)", ["batch"]),
        "ctr": ("tensor(float)", ["batch"]),
    }
    reference = load_file(run / "reference.safetensors")
    logit, ctr = (np.asarray(each) for each in session.run(None, {name: reference[name] for name in ("ids", "dense")}))
    np.testing.assert_allclose(ctr, 1 / (1 + np.exp(-logit)), rtol=1e-6)


def test_tables_stand_outside_the_model_each_on_lines_of_its_own(run: Path, tmp_path: Path) -> None:
    bundle = export(run, tmp_path / "ctr")
    graph = onnx.load(str(bundle / "model.onnx"), load_external_data=False).graph
    outside = [each for each in graph.initializer if each.data_location == onnx.TensorProto.EXTERNAL]
    groups = {each.name.split("/")[0] for each in outside} - {"classes", "vocabulary"}
    assert groups == {f"{kind}.{number}" for kind in ("embedding", "first_order") for number in range(3)}
    places = [{entry.key: entry.value for entry in each.external_data} for each in outside]
    assert {each["location"] for each in places} == {"tables.bin"}
    end = 0
    for offset, length in sorted((int(each["offset"]), int(each["length"])) for each in places):
        line = 64 if length >= 4096 else 16
        assert offset == end
        end += -(-length // line) * line
    assert (bundle / "tables.bin").stat().st_size == end
    tables = [each.data_type == onnx.TensorProto.FLOAT or "classes" in each.name for each in outside]
    counted = sum(int(place["length"]) for place, counts in zip(places, tables, strict=True) if counts)
    assert manifests.read(bundle).export.table_bytes == counted


def test_classes_stand_once_where_the_manifest_says(run: Path, tmp_path: Path) -> None:
    bundle, weights = export(run, tmp_path / "ctr"), load_file(run / "weights.safetensors")
    told = manifests.read(bundle).export.class_arrays
    assert [(each.feature, each.table) for each in told] == [("brand", 0), ("brand", 1), ("shop", 0), ("shop", 1)]
    data = (bundle / "tables.bin").read_bytes()
    for each in told:
        expected = weights[f"classes.{each.feature}.{each.table}"]
        assert data.count(expected.tobytes()) == 1
        assert data.find(expected.tobytes()) == each.offset


def test_exporting_twice_gives_identical_bytes(run: Path, tmp_path: Path) -> None:
    first, second = export(run, tmp_path / "a"), export(run, tmp_path / "b" / "c")
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert (first.parent / "config.pbtxt").read_bytes() == (second.parent / "config.pbtxt").read_bytes()


def test_versions_count_up_and_are_never_edited(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "ctr"
    assert export(run, model, 7).name == "7"
    assert export(run, model).name == "8"
    assert export(run, model, 2).name == "2"
    before = (model / "7" / "manifest.json").stat().st_mtime_ns
    with pytest.raises(errors.ArtifactError, match="never edited"):
        export(run, model, 7)
    assert (model / "7" / "manifest.json").stat().st_mtime_ns == before
    assert names(model) == ["2", "7", "8", "config.pbtxt"]


@pytest.mark.parametrize("version", [0, -1, 2**63])
def test_a_version_that_is_no_version_is_refused(run: Path, tmp_path: Path, version: int) -> None:
    with pytest.raises(errors.ArtifactError, match="from 1"):
        export(run, tmp_path / "ctr", version)
    assert not (tmp_path / "ctr").exists()


def test_other_inputs_are_another_model(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "ctr"
    export(run, model)
    runs.make_run(tmp_path / "grown", manifest_of(vocabulary=50), np.random.default_rng(1))
    assert export(tmp_path / "grown", model).name == "2", "a vocabulary that grew takes the same requests"
    runs.make_run(tmp_path / "longer", manifest_of(bag=4), np.random.default_rng(1))
    with pytest.raises(errors.WrongSchema, match="another name"):
        export(tmp_path / "longer", model)
    assert names(model) == ["1", "2", "config.pbtxt"]


def test_a_configuration_that_stands_is_left_as_it_is(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "ctr"
    export(run, model)
    tuned = (model / "config.pbtxt").read_text().replace("max_batch_size: 4096", "max_batch_size: 64")
    (model / "config.pbtxt").write_text(tuned)
    export(run, model)
    assert (model / "config.pbtxt").read_text() == tuned
    (model / "config.pbtxt").write_text('backend: "onnxruntime"\n')
    with pytest.raises(errors.WrongSchema, match="no known schema"):
        export(run, model)


@pytest.mark.parametrize("difference", [1e-3, np.nan, np.inf])
def test_nothing_is_published_without_parity(run: Path, tmp_path: Path, difference: float) -> None:
    def disturb(tensors: dict[str, runs.Array]) -> None:
        tensors["logit"][299] += np.float32(difference)

    edit(run, "reference.safetensors", disturb)
    with pytest.raises(errors.ParityError, match="reference row 299"):
        export(run, tmp_path / "models" / "ctr")
    assert names(tmp_path / "models" / "ctr") == []


def drop_logit(tensors: dict[str, runs.Array]) -> None:
    del tensors["logit"]


def no_rows(tensors: dict[str, runs.Array]) -> None:
    tensors.update({name: array[:0] for name, array in tensors.items()})


def one_row_less(tensors: dict[str, runs.Array]) -> None:
    tensors["ids"] = tensors["ids"][1:]


def as_double(tensors: dict[str, runs.Array]) -> None:
    tensors["dense"] = tensors["dense"].astype(np.float64)


def falling(tensors: dict[str, runs.Array]) -> None:
    tensors["vocabulary.item.values"] = tensors["vocabulary.item.values"][::-1].copy()


def beyond(tensors: dict[str, runs.Array]) -> None:
    tensors["vocabulary.item.ids"][0] = 1000


def shorter_table(tensors: dict[str, runs.Array]) -> None:
    tensors["embedding.user.0"] = tensors["embedding.user.0"][1:]


def too_few_classes(tensors: dict[str, runs.Array]) -> None:
    tensors["classes.brand.0"] = tensors["classes.brand.0"][1:]


def wide_classes(tensors: dict[str, runs.Array]) -> None:
    tensors["classes.brand.0"] = tensors["classes.brand.0"].astype(np.int64)


def no_classes(tensors: dict[str, runs.Array]) -> None:
    del tensors["classes.brand.1"]


def class_below(tensors: dict[str, runs.Array]) -> None:
    tensors["classes.brand.0"][7] = -1


def class_beyond(tensors: dict[str, runs.Array]) -> None:
    tensors["classes.shop.1"][7] = 2


def one_brand_for_another(tensors: dict[str, runs.Array]) -> None:
    """Brands that are equal modulo the field's last table share every row with equal classes."""
    modulus = len(tensors["embedding.brand.2"])
    for name in ("classes.brand.0", "classes.brand.1"):
        tensors[name][modulus] = tensors[name][0]


def other_collisions(tensors: dict[str, runs.Array]) -> None:
    tensors["classes.shop.0"][:] = 0


def superfluous(tensors: dict[str, runs.Array]) -> None:
    tensors["more"] = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("reference.safetensors", drop_logit, errors.Malformed),
        ("reference.safetensors", no_rows, errors.Malformed),
        ("reference.safetensors", one_row_less, errors.WrongShape),
        ("reference.safetensors", as_double, errors.WrongShape),
        ("weights.safetensors", falling, errors.Malformed),
        ("weights.safetensors", beyond, errors.Malformed),
        ("weights.safetensors", shorter_table, errors.WrongShape),
        ("weights.safetensors", too_few_classes, errors.WrongShape),
        ("weights.safetensors", wide_classes, errors.WrongShape),
        ("weights.safetensors", no_classes, errors.WrongShape),
        ("weights.safetensors", class_below, errors.WrongClasses),
        ("weights.safetensors", class_beyond, errors.WrongClasses),
        ("weights.safetensors", one_brand_for_another, errors.NotComplementary),
        ("weights.safetensors", other_collisions, errors.NotComplementary),
        ("weights.safetensors", superfluous, errors.WrongShape),
    ],
)
def test_a_run_that_cannot_be_is_refused(
    run: Path,
    tmp_path: Path,
    name: str,
    change: Callable[[dict[str, runs.Array]], None],
    error: type[errors.QuoremError],
) -> None:
    edit(run, name, change)
    with pytest.raises(error) as caught:
        export(run, tmp_path / "ctr")
    assert type(caught.value) is error
    assert str(run / name) in caught.value.where
    assert names(tmp_path / "ctr") == []


def test_a_file_that_is_no_safetensors_file_is_refused(run: Path, tmp_path: Path) -> None:
    manifest = manifests.read(run)
    (run / "weights.safetensors").write_bytes(b"\x10" + bytes(40))
    del manifest.files[:]
    manifest.files.extend(manifests.describe_files(run, runs.FILES))
    manifests.write(run, manifest)
    with pytest.raises(errors.Malformed, match="safetensors"):
        export(run, tmp_path / "ctr")


def test_a_file_that_was_edited_cut_or_never_listed_is_refused(run: Path, tmp_path: Path) -> None:
    whole = (run / "weights.safetensors").read_bytes()
    for data in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        (run / "weights.safetensors").write_bytes(data)
        with pytest.raises(errors.WrongDigest):
            export(run, tmp_path / "ctr")
    (run / "weights.safetensors").write_bytes(whole)
    manifest = manifests.read(run)
    del manifest.files[1]
    manifests.write(run, manifest)
    with pytest.raises(errors.MissingFile, match=r"reference\.safetensors"):
        export(run, tmp_path / "ctr")
    assert not (tmp_path / "ctr").exists()


def test_a_bundle_is_no_run(run: Path, tmp_path: Path) -> None:
    bundle = export(run, tmp_path / "ctr")
    with pytest.raises(errors.Malformed, match="a bundle"):
        export(bundle, tmp_path / "other")


def test_a_model_that_is_a_file_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "ctr").write_text("")
    with pytest.raises(errors.ArtifactError, match="directory"):
        export(run, tmp_path / "ctr")


def test_a_bundle_is_proved_again(run: Path, tmp_path: Path) -> None:
    bundle = export(run, tmp_path / "ctr")
    _, parity = prove_bundle(bundle)
    assert parity.rows == 256
    data = bytearray((bundle / "tables.bin").read_bytes())
    graph = onnx.load(str(bundle / "model.onnx"), load_external_data=False).graph
    table = next(each for each in graph.initializer if each.name == "embedding.0/table.0")
    place = {entry.key: int(entry.value) for entry in table.external_data if entry.key != "location"}
    for exponent in range(place["offset"] + 3, place["offset"] + place["length"], 4):
        data[exponent] ^= 64
    (bundle / "tables.bin").write_bytes(data)
    with pytest.raises(errors.WrongDigest, match="digest"):
        prove_bundle(bundle)
    manifest = manifests.read(bundle, verify_digests=False)
    for file in manifest.files:
        file.sha256 = manifests.sha256_of(bundle / file.name)
    manifests.write(bundle, manifest)
    with pytest.raises(errors.ParityError):
        prove_bundle(bundle)
    manifest.export.class_arrays[0].offset += 4
    manifests.write(bundle, manifest)
    with pytest.raises((errors.NotComplementary, errors.WrongClasses)):
        prove_bundle(bundle)


def test_a_bundle_whose_graph_is_none_is_malformed(run: Path, tmp_path: Path) -> None:
    bundle = export(run, tmp_path / "ctr")
    (bundle / "model.onnx").write_bytes(b"no graph")
    manifest = manifests.parse((bundle / "manifest.json").read_bytes(), "manifest.json")
    del manifest.files[:]
    manifest.files.extend(manifests.describe_files(bundle, SIGNED))
    manifests.write(bundle, manifest)
    with pytest.raises(errors.Malformed, match="valid ONNX"):
        prove_bundle(bundle)


def test_the_command_publishes_checks_and_tells(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "models" / "ctr"
    assert main(["export", str(run), "--to", str(model), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["path"] == str(model / "1")
    assert told["files"].keys() == set(SIGNED)
    assert told["nodes"].keys() == {"model.onnx", "rank.onnx"}
    assert min(told["nodes"].values()) > 10
    assert sum(told["parts"].values()) == told["files"]["tables.bin"]
    assert (told["precision"], told["no_rank"], told["candidates"]) == ("fp32", "", [])
    assert told["parity_found"] <= told["parity_bound"] == 1e-5
    assert main(["export", str(run), "--to", str(model)]) == 0
    assert "tables.bin" in capsys.readouterr().out
    for directory, rows in ((run, 300), (model / "1", 256)):
        before = names(model)
        assert main(["export", str(directory), "--check", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["rows"] == rows
        assert told["parity_found"] <= told["parity_bound"]
        assert names(model) == before
    assert main(["export", str(run), "--to", str(model), "--version", "1", "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["error"] == "ArtifactError"


def test_a_repository_that_cannot_be_written_is_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["export", str(run), "--to", str(tmp_path / "file" / "ctr")]) == 2
    assert "Traceback" not in capsys.readouterr().err
