"""A training run from a recipe to its directory: refusals, resuming, equal bytes from equal rows."""

import gzip
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import RECIPE, quorem
from oracle import logits as oracle_logits
from quorem.protos import manifest as manifests
from quorem.train.record import read_record, steps, validations
from safetensors.numpy import load_file

KEPT = ("calibration.safetensors", "reference.safetensors", "validation.safetensors")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small recipe on made rows."""
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    """A finished run of it."""
    out = recipe.parent / "run"
    quorem("train", recipe, "--out", out, "--quiet", "--device", "cpu")
    return out


def test_a_run_holds_what_it_promises(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names - {"tensorboard"} == {  # which is written where it is installed
        "manifest.json",
        "weights.safetensors",
        "reference.safetensors",
        "calibration.safetensors",
        "validation.safetensors",
        "recipe.toml",
        "metrics.jsonl",
        "learning.svg",
    }
    manifest = manifests.read(run)
    weights, reference = load_file(run / "weights.safetensors"), load_file(run / "reference.safetensors")
    found = {name: (str(tensor.dtype), tensor.shape) for name, tensor in weights.items()}
    manifests.check_tensors(manifests.tensor_shapes(manifest), found, "weights")
    expected = oracle_logits(manifest, weights, reference["ids"], reference["dense"])
    assert np.abs(reference["logit"] - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    assert manifest.training.test_metrics["auc"] > 0.5
    lines = read_record(run)
    assert [line["epoch"] for line in validations(lines)] == [1, 2, 3]
    assert [line["step"] for line in steps(lines)] == list(range(1, 3 * 16 + 1))  # 4000 rows, 256 a batch


@pytest.mark.parametrize(
    ("model", "embedding"),
    [
        ('{name="deepfm",mlp=[8]}', ["combine=path", "hidden=3"]),
        ('{name="deepfm",mlp=[8]}', ["combine=path", "first_order=full", "fields.C1.combine=mult"]),
        ('{name="dlrm",bottom=[8],top=[8]}', ["combine=feature"]),
        ('{name="dnn",mlp=[8]}', ["combine=concat", "scheme=chinese_remainder", "tables=3", "fields.C1.dim=6"]),
        ('{name="dcn",cross=2,mlp=[8]}', ["combine=add", "scheme=mixed_radix", "tables=3", "init=matched"]),
        ('{name="dcnv2",cross=2,mlp=[8]}', ["combine=mult", "init=reference", "fields.C2.combine=feature"]),
        ('{name="dcnv2",cross=2,rank=2,structure="stacked",mlp=[8]}', ["combine=mult", "bytes=1100"]),
        ('{name="fm"}', ["combine=mult", "fields.C1.dim=3", "fields.C2.dim=2", "fields.B1.combine=concat"]),
        ('{name="fm",unify="pad"}', ["combine=add", "fields.C1.dim=3"]),
        ('{name="wide_deep",mlp=[8]}', ["combine=concat", "fields.C1.dim=3", "fields.C7.dim=6"]),
        ('{name="deepfm",mlp=[8]}', ["combine=feature", "fields.C1.dim=3", "fields.B1.dim=2"]),
        ('{name="nfm",mlp=[8]}', ["combine=mult", "fields.C1.dim=3"]),
        ('{name="nfm",mlp=[8],dropout=0.1}', ["combine=mult"]),
        ('{name="ipnn",mlp=[8],unify="pad"}', ["combine=feature", "fields.C1.dim=3"]),
        ('{name="autoint",layers=2,width=4}', ["combine=mult", "fields.C1.dim=3"]),
        ('{name="autoint",layers=1,heads=1,mlp=[8],unify="pad"}', ["combine=concat", "fields.C1.dim=3"]),
        ('{name="dlrm",bottom=[8],top=[8]}', ["combine=path", "fields.C1.dim=3"]),
    ],
)
def test_every_model_and_combine_learns_what_is_written_down(
    recipe: Path, tmp_path: Path, model: str, embedding: list[str]
) -> None:
    settings = [part for each in embedding for part in ("--set", f"embedding.{each}")]
    settings += ["--set", f"model={model}", "--set", "train.epochs=2"]
    quorem("train", recipe, "--out", tmp_path / "run", "--quiet", "--device", "cpu", *settings)
    manifest = manifests.read(tmp_path / "run")
    weights, reference = (load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("weights", "reference"))
    expected = oracle_logits(manifest, weights, reference["ids"], reference["dense"])
    assert (np.abs(reference["logit"] - expected) <= 1e-5 * np.maximum(1, np.abs(expected))).all()
    first, last = validations(read_record(tmp_path / "run"))
    assert last["train_loss"] < first["train_loss"]


def test_the_same_seed_gives_the_same_bytes(recipe: Path, run: Path, tmp_path: Path) -> None:
    quorem("train", recipe, "--out", tmp_path / "again", "--quiet", "--device", "cpu")
    for name in ("manifest.json", *KEPT, "weights.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_interrupted_and_resumed_equals_undisturbed(recipe: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    command = [sys.executable, "-m", "quorem", "train", str(recipe), "--out", str(out), "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch   1"):
                process.send_signal(signal.SIGINT)
                break
        told = process.stderr.read()
    assert process.returncode == 130
    assert f"quorem train {recipe} --out {out} --resume" in told
    assert not (out / "manifest.json").exists()
    quorem(
        "train", recipe, "--out", out, "--quiet", "--device", "cpu", check=2
    )  # an interrupted run is not written over
    quorem("train", recipe, "--out", out, "--quiet", "--device", "cpu", "--resume", "--set", "train.lr=0.1", check=2)
    quorem("train", recipe, "--out", out, "--quiet", "--device", "cpu", "--resume")
    assert (run / "weights.safetensors").read_bytes() == (out / "weights.safetensors").read_bytes()
    assert not (out / "checkpoint.safetensors").exists()


def test_json_report(recipe: Path, tmp_path: Path) -> None:
    settings = ("--set", "train.epochs=1", "--set", "train.lr=0.02")  # sixteen steps, large enough to learn something
    done = quorem("train", recipe, "--out", tmp_path / "run", "--json", "--quiet", *settings, "--seed", "5")
    report = json.loads(done.stdout)
    assert report["bytes"] < report["full_bytes"]
    assert 0.5 < report["test"]["auc"] < report["optimal_auc"]
    assert manifests.read(tmp_path / "run").training.seed == 5


def test_a_plan_overrides_the_embedding_section(recipe: Path, run: Path, tmp_path: Path) -> None:
    plan = json.loads((run / "manifest.json").read_text())["plan"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    arguments = (
        "--quiet",
        "--plan",
        tmp_path / "plan.json",
        "--set",
        "train.epochs=1",
        "--set",
        "embedding.scheme=full",
    )
    quorem("train", recipe, "--out", tmp_path / "planned", *arguments)
    assert json.loads((tmp_path / "planned" / "manifest.json").read_text())["plan"] == plan
    plan["fields"][0]["tables"][1]["rows"] = str(int(plan["fields"][0]["tables"][1]["rows"]) - 1)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    told = quorem("train", recipe, "--out", tmp_path / "refused", *arguments, check=2).stderr
    assert "complementary" in told
    (tmp_path / "plan.json").write_text(
        json.dumps({**plan, "fields": json.loads((run / "manifest.json").read_text())["plan"]["fields"]})
    )
    other = ("--set", 'model={name="dlrm",bottom=[4],top=[4]}')
    assert "first-order" in quorem("train", recipe, "--out", tmp_path / "dlrm", *arguments, *other, check=2).stderr
    (tmp_path / "plan.json").write_text("{")
    assert "plan" in quorem("train", recipe, "--out", tmp_path / "broken", *arguments, check=2).stderr


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("train.leraning_rate=1", "leraning_rate"),
        ("train.lr=-1", "train.lr"),
        ("train.batch=many", "train.batch"),
        ("embedding.scheme=cubist", "embedding.scheme"),
        ("embedding.fields.nobody={}", "nobody"),
        ("embedding.fields.C1={tables=3}", 'tables of field C1 means nothing with scheme = "qr"'),
        ("embedding.fields.C1.hidden=2", "`hidden` of field C1"),
        ("model.cross=2", "Known keys: batchnorm, dropout, mlp, name, unify"),
        ("model.unify=stretch", "model.unify"),
        ("model.name=fm", "Known keys: name, unify"),
        ("features.C7.size=3", "size"),
        ("train.batch='64'", "train.batch"),
        ("features.C3..C1={kind='dense'}", "key=value"),
        ("model.name=perceptron", "model"),
        ("embedding.dim=0", "embedding.dim"),
        ("data.source=papyrus", "data.source"),
        ("features.C99={kind='categorical',encoding='vocabulary',values='integer'}", "C99"),
        ("embedding.combine=concat", ""),
    ],
)
def test_a_wrong_recipe_is_refused(recipe: Path, tmp_path: Path, setting: str, told: str) -> None:
    if setting == "embedding.combine=concat":
        extra = ("--set", setting, "--set", "embedding.dim=1")
    else:
        extra = ("--set", setting)
    done = quorem("train", recipe, "--out", tmp_path / "run", "--quiet", *extra, check=2)
    assert told in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_finished_run_and_a_full_directory_are_left_alone(recipe: Path, run: Path, tmp_path: Path) -> None:
    before = (run / "manifest.json").read_bytes()
    assert "finished" in quorem("train", recipe, "--out", run, "--quiet", check=2).stderr
    assert (run / "manifest.json").read_bytes() == before
    (tmp_path / "mine.txt").write_text("mine")
    quorem("train", recipe, "--out", tmp_path, "--quiet", check=2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    quorem("train", "no-such-recipe", "--out", tmp_path / "run", check=2)


@pytest.mark.parametrize(
    ("model", "dense", "bias"),
    [
        ('{name="deepfm",mlp=[16],dropout=0.1}', True, "mlp.out.bias"),
        ('{name="fm"}', True, "fm.bias.bias"),
        ('{name="fm"}', False, "fm.bias.bias"),
    ],
)
def test_negative_rate_is_folded_into_the_last_bias(tmp_path: Path, model: str, dense: bool, bias: str) -> None:
    numbers = '"I1..I3" = { kind = "dense", transform = "standard" }\n'
    assert numbers in RECIPE
    (tmp_path / "small.toml").write_text(RECIPE if dense else RECIPE.replace(numbers, ""))
    usual = ("--quiet", "--device", "cpu", "--set", f"model={model}", "--set", "train.epochs=1")
    quorem("train", tmp_path / "small.toml", "--out", tmp_path / "plain", *usual)
    quorem("train", tmp_path / "small.toml", "--out", tmp_path / "shifted", *usual, "--set", "data.negative_rate=0.25")
    plain, shifted = (load_file(tmp_path / name / "weights.safetensors") for name in ("plain", "shifted"))
    assert np.allclose(shifted[bias] - plain[bias], np.log(0.25))
    assert all((shifted[name] == plain[name]).all() for name in plain if name != bias)
    plain, shifted = (load_file(tmp_path / name / "reference.safetensors") for name in ("plain", "shifted"))
    assert ("dense" in plain) == dense
    assert np.allclose(shifted["logit"] - plain["logit"], np.log(0.25), atol=1e-5)


@pytest.fixture(scope="module")
def criteo() -> Path:
    """The directory of real Criteo rows."""
    root = os.environ.get("QUOREM_DATA")
    if not root or not (Path(root) / "criteo_kaggle_14k").is_dir():
        pytest.skip("QUOREM_DATA does not name a directory with criteo_kaggle_14k")
    return Path(root) / "criteo_kaggle_14k"


def test_parquet_and_tsv_of_the_same_rows_give_the_same_bytes(criteo: Path, tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        table = pq.read_table(criteo / f"{split}.parquet").to_pylist()
        text = (
            "\n".join("\t".join("" if value is None else str(value) for value in row.values()) for row in table) + "\n"
        )
        if split == "valid":
            (tmp_path / "valid.txt.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (tmp_path / f"{split}.txt").write_text(text)
    small = [
        "--set",
        "train.epochs=1",
        "--set",
        "model.bottom=[32]",
        "--set",
        "model.top=[32]",
        "--quiet",
        "--device",
        "cpu",
    ]
    quorem("train", "criteo", "--out", tmp_path / "parquet", *small)
    tsv = {
        "source": "criteo",
        "train": tmp_path / "train.txt",
        "valid": tmp_path / "valid.txt.gz",
        "test": tmp_path / "test.txt",
    }
    settings = [part for key, value in tsv.items() for part in ("--set", f"data.{key}={value}")]
    quorem("train", "criteo", "--out", tmp_path / "tsv", *small, *settings)
    for name in ("weights.safetensors", *KEPT):
        assert (tmp_path / "parquet" / name).read_bytes() == (tmp_path / "tsv" / name).read_bytes(), name
    first, second = (json.loads((tmp_path / kind / "manifest.json").read_text()) for kind in ("parquet", "tsv"))
    assert first["training"].pop("source") == "parquet train.parquet valid.parquet test.parquet"
    assert second["training"].pop("source") == "criteo train.txt valid.txt.gz test.txt"
    assert first == second


def test_a_killed_run_leaves_no_half_written_file(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "quorem", "train", str(recipe), "--out", str(out), "--quiet"]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while not (out / "checkpoint.safetensors").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (out / "manifest.json").exists()
    quorem("train", recipe, "--out", out, "--quiet", "--resume")
    manifests.read(out)
    shutil.rmtree(out)


def test_a_loss_that_is_no_number_stops_the_run(recipe: Path, tmp_path: Path) -> None:
    settings = ("--set", "train.lr=1e30", "--set", "model.batchnorm=false", "--set", "data.rows=1000")
    told = quorem("train", recipe, "--out", tmp_path / "run", "--quiet", *settings, check=2).stderr
    assert "finite" in told
    assert "epoch" in told
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_recipe_in_the_run_directory_is_the_users(recipe: Path, tmp_path: Path) -> None:
    mine = tmp_path / "recipe.toml"
    mine.write_text("# mine\n" + RECIPE)
    quorem("train", mine, "--out", tmp_path, "--quiet", check=2)
    assert mine.read_text() == "# mine\n" + RECIPE


def test_the_recipe_of_a_run_makes_the_same_run(run: Path, tmp_path: Path) -> None:
    quorem("train", run / "recipe.toml", "--out", tmp_path / "again", "--quiet", "--device", "cpu")
    assert (run / "weights.safetensors").read_bytes() == (tmp_path / "again" / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("optimizer", ["amsgrad", "adagrad"])
def test_every_optimizer_learns(recipe: Path, tmp_path: Path, optimizer: str) -> None:
    lr = "0.05" if optimizer == "adagrad" else "0.003"
    settings = ("--set", f"train.optimizer={optimizer}", "--set", f"train.lr={lr}", "--set", "train.l2_rows=all")
    done = quorem("train", recipe, "--out", tmp_path / "run", "--quiet", "--json", *settings)
    assert json.loads(done.stdout)["test"]["auc"] > 0.55


CSV = """
[data]
source = "csv"
path = "rows.csv"
split = { by = "share", valid = 0.2, test = 0.2 }
sample_weight = "weight"
group = "who"
[features]
item = { kind = "categorical", encoding = "id", size = 4 }
tags = { kind = "bag", encoding = "vocabulary", max_length = 1 }
[model]
name = "deepfm"
mlp = [4]
[train]
batch = 32
epochs = 8
lr = 0.05
"""


def test_weights_decide_what_is_learnt_and_groups_are_scored(tmp_path: Path) -> None:
    """Each item is a click once and none once; the weights say which counts."""
    rows = [
        f"{item},t{item},u{n % 5},{label},{1.0 if label == item % 2 else 0.001}"
        for n in range(60)
        for item in range(4)
        for label in (0, 1)
    ]
    (tmp_path / "rows.csv").write_text("item,tags,who,label,weight\n" + "\n".join(rows) + "\n")
    (tmp_path / "weights.toml").write_text(CSV)
    done = quorem("train", tmp_path / "weights.toml", "--out", tmp_path / "run", "--quiet", "--json")
    found = json.loads(done.stdout)["test"]
    assert found["auc"] > 0.99
    assert found["grouped_auc"] > 0.99
    (tmp_path / "rows.csv").write_text(
        "item,tags,who,label,weight\n" + "\n".join(f"1,a,u,{n % 2},0" for n in range(50))
    )
    assert "one class" in quorem("train", tmp_path / "weights.toml", "--out", tmp_path / "none", check=2).stderr


def test_stopped_in_the_middle_of_an_epoch_and_resumed(recipe: Path, run: Path, tmp_path: Path, monkeypatch) -> None:
    from quorem.train import loop

    seen = []

    def stop_at(step: int):
        def run_step(*arguments):
            seen.append(1)
            if len(seen) == step:
                signal.raise_signal(signal.SIGINT)
            return real(*arguments)

        return run_step

    real = loop.binary_cross_entropy_with_logits
    arguments = ("train", recipe, "--out", tmp_path / "run", "--quiet", "--device", "cpu")
    for step in (3, 14, 16):  # inside the first epoch, inside the second, and its last batch
        seen.clear()
        monkeypatch.setattr(loop, "binary_cross_entropy_with_logits", stop_at(step))
        resumed = ("--resume",) if step > 3 else ()
        told = quorem(*arguments, *resumed, check=130).stderr
        assert "--resume" in told
    monkeypatch.setattr(loop, "binary_cross_entropy_with_logits", real)
    quorem(*arguments, "--resume")
    assert (run / "weights.safetensors").read_bytes() == (tmp_path / "run" / "weights.safetensors").read_bytes()
    undisturbed, resumed = (read_record(each) for each in (run, tmp_path / "run"))
    same = ("step", "epoch", "batch", "rows", "loss", "train_loss", "lr", "best")
    assert [[line.get(key) for key in same] for line in undisturbed] == [
        [line.get(key) for key in same] for line in resumed
    ]
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(resumed))
