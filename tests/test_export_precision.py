"""`quorem export --precision` and `--tune`: chosen by name or by AUC, refused by name, the same bytes every time."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import runs
from quorem.command import main
from quorem.export.bundle import prove_bundle, publish
from quorem.export.precision import by_size, every, parse, told
from quorem.protos import errors
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from quorem.serve import tuning
from quorem.serve.model import Model
from quorem.serve.settings import Version
from quorem.serve.survey import survey
from safetensors.numpy import load_file, save_file

PRECISIONS = ["fp32", "fp16", "int8", "fp32+int8", "fp16+int8", "int8+int8"]
EARLIER = ("reference.safetensors", "weights.safetensors")  # the files of runs before precisions could be chosen
CODES = {"fp32": set[int](), "fp16": {pb.HALF}, "int8": {pb.HALF, pb.FIELD_SCALE, pb.ROW_SCALE}}


def manifest_of(mlp: int = 64) -> pb.Manifest:
    """Tables of a few hundred rows, and a first layer of 66 inputs that is wide enough for int8."""
    features = [
        runs.categorical("user", "hash", 900),
        runs.categorical("item", "id", 700),
        runs.categorical("shop", "hash", 50, bag=3),
        runs.categorical("age", "bucket", 6),
        runs.number("price", pb.LOG1P),
        runs.number("rank"),
    ]
    features[0].side = pb.CONTEXT
    fields = [runs.field(each, "full" if each.name == "age" else "qr", pb.MULT, 16) for each in features[:4]]
    return runs.model(features, fields, "deepfm", mlp=[mlp, 16])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("precision") / "run", manifest_of())


def made(path: Path, manifest: pb.Manifest) -> Path:
    """A run whose layers keep the size of what they read, as trained ones do."""
    rng = np.random.default_rng(0)
    weights = runs.weights(manifest, rng)
    for name in weights:
        if name.startswith("mlp.") and name.endswith(".weight"):
            weights[name] *= np.float32(0.3)
    reference, calibration, validation = (runs.scored(manifest, weights, rng, count) for count in (80, 64, 200))
    inputs = {name: array for name, array in calibration.items() if name in ("ids", "dense")}
    runs.write(path, manifest, weights, reference, inputs, validation)
    return path


def listed(run: Path, names: tuple[str, ...] = runs.FILES) -> Path:
    """The run with these files, whatever they hold now."""
    manifest = manifests.parse((run / "manifest.json").read_bytes(), "manifest.json")
    del manifest.files[:]
    manifest.files.extend(manifests.describe_files(run, names))
    manifests.write(run, manifest)
    return run


def earlier(path: Path, manifest: pb.Manifest) -> Path:
    """A run that keeps no rows but reference rows."""
    made(path, manifest)
    for name in set(runs.FILES) - set(EARLIER):
        (path / name).unlink()
    return listed(path, EARLIER)


def command(*arguments: str | Path, capsys: pytest.CaptureFixture[str], status: int = 0) -> dict[str, object]:
    """What `quorem export … --json` tells."""
    assert main(["export", *map(str, arguments), "--json"]) == status
    captured = capsys.readouterr()
    return json.loads(captured.err if status else captured.out)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_precision_is_exported_proved_and_served(
    run: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    model = tmp_path / "models" / "ctr"
    facts = command(run, "--to", model, "--precision", name, capsys=capsys)
    assert facts["precision"] == name
    manifest, parity = prove_bundle(model / "1")
    tables, _, dense = name.partition("+")
    assert told(manifest.export.precision) == name
    assert {code.code for code in manifest.export.codes} <= CODES[tables]
    assert bool(manifest.export.codes) == (tables != "fp32")
    assert bool(manifest.export.int8_layers) == (dense == "int8")
    assert parity.found <= manifest.export.parity_bound <= 0.25
    (version,) = survey(model.parent).versions
    Model(version, "cpu").warm()


def test_lower_precisions_take_fewer_bytes(run: Path, tmp_path: Path):
    sizes = dict[str, int]()
    for name in ("fp32", "fp16", "int8"):
        bundle, _ = publish(run, tmp_path / name, precision=parse(name))
        parts = {part.name: part.bytes for part in manifests.read(bundle).export.parts}
        sizes[name] = parts["tables"]
    assert sizes["fp32"] == 2 * sizes["fp16"]
    assert sizes["int8"] <= 0.54 * sizes["fp16"], "a byte a number, and at most one a row of 16"


@pytest.mark.parametrize("name", [*PRECISIONS, "auto"])
def test_a_run_gives_the_same_bytes_again(run: Path, tmp_path: Path, name: str):
    first, second = (publish(run, tmp_path / each, precision=parse(name))[0] for each in ("a", "b"))
    assert names(first) == names(second)
    for file in names(first):
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


@pytest.mark.parametrize(
    "name", ["", "fp8", "FP16", "fp16+", "+int8", "int8+fp16", "int8+int8+int8", "auto+int8", "fp16 int8"]
)
def test_no_such_precision_is_told_with_those_that_there_are(
    run: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    facts = command(run, "--to", tmp_path / "ctr", f"--precision={name}", capsys=capsys, status=2)
    assert facts["error"] == "ArtifactError"
    assert facts["where"] == "--precision"
    assert "fp32, fp16, int8" in str(facts["rule"])
    assert not (tmp_path / "ctr").exists()


def test_a_precision_is_read_as_it_is_told():
    assert [told(each) for each in every(dense=True)] == PRECISIONS
    for each in every(dense=True):
        assert parse(told(each)) == each
    assert parse("auto") is None
    assert parse("fp16+fp32") == parse("fp16")
    assert [told(each) for each in every(dense=False)] == PRECISIONS[:3]


def auc_of(run: Path, change: Callable[[dict[str, runs.Array]], None]) -> None:
    tensors = load_file(run / "validation.safetensors")
    change(tensors)
    save_file(tensors, run / "validation.safetensors")
    listed(run)


def by_rank(tensors: dict[str, runs.Array]) -> None:
    """Labels that the logits tell apart: an AUC of 1, which close neighbours in another order lower."""
    tensors["label"] = (tensors["logit"] > np.median(tensors["logit"])).astype(np.float32)


def test_auto_takes_the_smallest_that_keeps_the_auc_and_shows_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = made(tmp_path / "run", manifest_of())
    auc_of(run, by_rank)
    for most in ("0", "1e-4", "1"):
        model = tmp_path / f"loss {most}"
        facts = command(run, "--to", model, "--precision", "auto", "--max-auc-loss", most, capsys=capsys)
        found = manifests.read(model / "1").export
        assert [told(each.precision) for each in found.candidates] == PRECISIONS
        assert facts["candidates"] == [
            {
                "precision": told(each.precision),
                "bytes": each.bytes,
                "auc": each.auc,
                "logloss": each.logloss,
                "rmse": each.rmse,
            }
            for each in found.candidates
        ]
        least = found.candidates[0].auc - float(most)
        good = [each for each in found.candidates if each.auc >= least]
        assert found.precision == min(good, key=lambda each: each.bytes).precision
        assert found.precision == by_size(list(found.candidates), float(most))[0]
        if most == "1":
            assert facts["precision"] == "int8+int8", "any loss is allowed"
            graphs = [(model / "1" / name).stat().st_size for name in ("tables.bin", "model.onnx", "rank.onnx")]
            assert found.candidates[-1].bytes == sum(graphs)
        assert found.candidates[0].rmse == 0
        assert found.candidates[1].rmse > 0
        assert prove_bundle(model / "1")[1].rows == 80


@pytest.mark.parametrize(
    ("aucs", "most", "chosen"),
    [
        ((0.8, 0.79995, 0.79985), 1e-4, 1),
        ((0.8, 0.7, 0.6), 1e-4, 0),
        ((0.8, 0.7, 0.9), 1e-4, 2),
        ((0.8, float("nan"), float("nan")), 1, 0),
        ((0.8, 0.7, 0.6), 1, 2),
    ],
)
def test_the_smallest_whose_auc_stays_is_chosen(aucs: tuple[float, ...], most: float, chosen: int):
    candidates = [pb.Candidate(bytes=100 - n, auc=auc) for n, auc in enumerate(aucs)]
    for number, each in enumerate(candidates):
        each.precision.tables = (pb.FP32, pb.FP16, pb.INT8)[number]
    assert by_size(candidates, most)[0] == candidates[chosen].precision


def test_auto_leaves_layers_that_are_narrow_in_floats(tmp_path: Path):
    run = made(tmp_path / "run", manifest_of(mlp=8))
    bundle, _ = publish(run, tmp_path / "ctr", precision=None)
    assert [told(each.precision) for each in manifests.read(bundle).export.candidates] == PRECISIONS[:3]


def test_auto_tries_where_it_publishes(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tables may be larger than what is temporary on a machine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    bundle, _ = publish(run, tmp_path / "ctr", precision=None)
    assert set(names(bundle)) == {file.name for file in manifests.read(bundle).files} | {"manifest.json"}


def test_auto_needs_labels_of_both_kinds(tmp_path: Path):
    run = made(tmp_path / "run", manifest_of())
    auc_of(run, lambda tensors: tensors["label"].fill(1))
    with pytest.raises(errors.Malformed, match="compares AUCs") as caught:
        publish(run, tmp_path / "ctr", precision=None)
    assert caught.value.where == str(run / "validation.safetensors")
    assert not (tmp_path / "ctr").exists()


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8"])
def test_a_run_of_earlier_versions_is_exported_with_layers_in_floats(tmp_path: Path, name: str):
    bundle, _ = publish(earlier(tmp_path / "run", manifest_of()), tmp_path / "ctr", precision=parse(name))
    assert prove_bundle(bundle)[1].rows == 80


@pytest.mark.parametrize(
    ("name", "file"), [("fp32+int8", "calibration"), ("int8+int8", "calibration"), ("auto", "validation")]
)
def test_what_a_run_of_earlier_versions_lacks_is_told(
    tmp_path: Path, name: str, file: str, capsys: pytest.CaptureFixture[str]
):
    run = earlier(tmp_path / "run", manifest_of())
    facts = command(run, "--to", tmp_path / "ctr", "--precision", name, capsys=capsys, status=2)
    assert facts["error"] == "MissingFile"
    assert f"{file}.safetensors" in str(facts["rule"])
    assert "Train again" in str(facts["remedy"])
    assert not (tmp_path / "ctr").exists()


def test_a_precision_whose_tolerance_says_nothing_is_refused(tmp_path: Path):
    manifest = manifest_of(mlp=8)
    rng = np.random.default_rng(0)
    weights = runs.weights(manifest, rng)
    weights["mlp.0.weight"] *= 1e4
    runs.write(tmp_path / "run", manifest, weights, runs.scored(manifest, weights, rng, 40))
    with pytest.raises(errors.ParityError, match="higher --precision"):
        publish(tmp_path / "run", tmp_path / "ctr", precision=parse("int8"))
    assert not (tmp_path / "ctr").exists()


# ---------------------------------------------------------------- tuning


def test_tuning_stands_beside_the_bundle_outside_its_digests(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = tmp_path / "models" / "ctr"
    command(run, "--to", model, "--tune", capsys=capsys)
    written = json.loads((model / "1" / "tuning.json").read_text())
    assert written.keys() == {"format_version", "rank_from", "preferred_batch_sizes", "machine"}
    assert tuning.read(model / "1").rank_from == written["rank_from"]
    batches = written["preferred_batch_sizes"]
    assert batches == sorted(set(batches))
    assert 1 <= len(batches) <= 2
    assert f"preferred_batch_size: [ {', '.join(map(str, batches))} ]" in (model / "config.pbtxt").read_text()
    assert "tuning.json" not in {file.name for file in manifests.read(model / "1").files}
    prove_bundle(model / "1")
    assert [str(version) for version in survey(model.parent).versions] == ["ctr/1"]


def test_a_version_is_tuned_where_it_stands(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = tmp_path / "models" / "ctr"
    command(run, "--to", model, capsys=capsys)
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    facts = command(model / "1", "--tune", capsys=capsys)
    written = json.loads((model / "1" / "tuning.json").read_text())
    assert facts["tuned"] == {name: value for name, value in written.items() if name != "format_version"}
    assert all(path.read_bytes() == data for path, data in before.items()), "config.pbtxt among them"
    assert main(["export", str(model / "1"), "--tune"]) == 0
    assert "batches" in capsys.readouterr().out
    command(run, "--to", model, "--tune", capsys=capsys)
    assert (model / "config.pbtxt").read_bytes() == before[model / "config.pbtxt"]


def test_a_model_without_a_ranking_graph_never_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    features = [runs.categorical("item", "hash", 40)]
    run = made(tmp_path / "run", runs.model(features, [runs.field(features[0], "qr", pb.MULT, 4)], "dnn"))
    facts = command(run, "--to", tmp_path / "ctr", "--tune", capsys=capsys)
    assert "one side" in str(facts["no_rank"])
    assert json.loads((tmp_path / "ctr" / "1" / "tuning.json").read_text())["rank_from"] is None
    assert tuning.read(tmp_path / "ctr" / "1").rank_from is None
    Model(Version("ctr", 1, tmp_path / "ctr" / "1"), "cpu").warm()


def test_a_bundle_of_earlier_versions_is_checked_and_tuned(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """It has one graph, in float32, and says neither."""
    bundle, _ = publish(run, tmp_path / "ctr")
    manifest = manifests.read(bundle)
    for name in ("precision", "graphs", "no_rank", "parts"):
        manifest.export.ClearField(name)
    (bundle / "rank.onnx").unlink()
    del manifest.files[:]
    manifest.files.extend(manifests.describe_files(bundle, ("golden.safetensors", "model.onnx", "tables.bin")))
    manifests.write(bundle, manifest)
    assert command(bundle, "--check", capsys=capsys)["precision"] == "fp32"
    command(bundle, "--tune", capsys=capsys)
    assert tuning.read(bundle).rank_from is None


def test_a_run_alone_is_not_tuned(run: Path, capsys: pytest.CaptureFixture[str]):
    before = names(run)
    facts = command(run, "--tune", capsys=capsys, status=2)
    assert facts["error"] == "ArtifactError"
    assert "published version" in str(facts["rule"])
    assert names(run) == before


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--check", "--tune"),
        ("--check", "--to", "x"),
        *(("--to", "x", "--max-auc-loss", loss) for loss in ("much", "nan", "-1")),
    ],
)
def test_arguments_that_mean_nothing_together_are_refused(
    run: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as caught:
        main(["export", str(run), *arguments])
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err
