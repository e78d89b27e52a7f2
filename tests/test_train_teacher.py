"""The teacher: its logits of rows, whatever their source, and students that learn from them beside the labels."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
from cached import write_kinds
from commands import RECIPE, quorem
from killing import begin, wait_for_step
from quorem.protos import manifest as manifests
from quorem.protos.errors import WrongSchema
from quorem.train.batches import Source
from quorem.train.features import Rows
from quorem.train.prepare import Prepared, prepare
from quorem.train.recipe_file import read_recipe, to_toml
from quorem.train.teacher import read_teacher, teacher_logits
from safetensors.numpy import load_file

QUIET = ("--quiet", "--device", "cpu")
WEIGHTS, REFERENCE = "weights.safetensors", "reference.safetensors"
FULL = ("--set", "embedding.scheme=full", "--set", "embedding.dim=6", "--set", "train.lr=0.01")
SMALL = ("--set", "train.lr=0.01", "--set", "embedding.bits=2")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small recipe on made rows."""
    path = tmp_path_factory.mktemp("teacher") / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def teacher(recipe: Path) -> Path:
    """A run with full tables."""
    quorem("train", recipe, "--out", recipe.parent / "full", *QUIET, *FULL)
    return recipe.parent / "full"


@pytest.fixture(scope="module")
def alone(recipe: Path) -> Path:
    """A run with small tables that knows labels alone."""
    quorem("train", recipe, "--out", recipe.parent / "alone", *QUIET, *SMALL)
    return recipe.parent / "alone"


def prepared_by(recipe: Path, *settings: str) -> Prepared:
    return prepare(*read_recipe(str(recipe), settings))


def apart(run: Path, teacher: Path) -> tuple[float, float]:
    """The root mean square of what lies between the logits of the reference rows, and their correlation."""
    own, other = (load_file(each / REFERENCE)["logit"].astype(np.float64) for each in (run, teacher))
    return float(np.sqrt(np.mean((own - other) ** 2))), float(np.corrcoef(own, other)[0, 1])


def test_a_student_comes_nearer_to_its_teacher(recipe: Path, teacher: Path, alone: Path, tmp_path: Path) -> None:
    found = [apart(alone, teacher)]
    for share in (0.5, 1.0):
        out = tmp_path / str(share)
        again = ("--teacher", teacher, "--out", out, "--set", f"train.distil={share}")
        quorem("train", recipe, *again, *QUIET, *SMALL)
        found.append(apart(out, teacher))
    errors, correlations = zip(*found, strict=True)
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.8 * errors[0]
    assert correlations[2] > correlations[1] > correlations[0]


def test_with_no_share_it_learns_as_without_a_teacher(recipe: Path, teacher: Path, alone: Path, tmp_path: Path) -> None:
    again = ("--teacher", teacher, "--out", tmp_path / "run", "--set", "train.distil=0")
    quorem("train", recipe, *again, *QUIET, *SMALL)
    for name in (WEIGHTS, REFERENCE):
        assert (tmp_path / "run" / name).read_bytes() == (alone / name).read_bytes()
    kept, manifest = manifests.read(alone), manifests.read(tmp_path / "run")
    assert manifest.training.valid_metrics == kept.training.valid_metrics
    assert manifest.training.teacher_sha256 == manifests.sha256_of(teacher / "manifest.json")
    assert not kept.training.teacher_sha256


def test_what_is_told_of_it(recipe: Path, teacher: Path, tmp_path: Path) -> None:
    out, few = tmp_path / "run", ("--set", "train.epochs=1")
    told = json.loads(quorem("train", recipe, "--teacher", teacher, "--out", out, "--json", *QUIET, *few).stdout)
    training = manifests.read(teacher).training
    assert told["teacher"] == {
        "run": str(teacher),
        "valid": dict(training.valid_metrics),
        "test": dict(training.test_metrics),
    }
    digest = manifests.sha256_of(teacher / "manifest.json")
    assert json.loads(quorem("inspect", out, "--json").stdout)["training"]["teacher_sha256"] == digest
    quorem("export", out, "--to", tmp_path / "ctr")
    assert f"| teacher: sha256 of its manifest.json | {digest} |" in (tmp_path / "ctr" / "1" / "card.md").read_text()
    shown = quorem("train", recipe, "--teacher", teacher, "--out", tmp_path / "shown", "--device", "cpu", *few).stdout
    assert f"teacher {teacher}: auc {training.test_metrics['auc']:.5f}" in shown


def test_the_logits_are_those_that_the_run_kept_whatever_the_source(tmp_path: Path) -> None:
    """Of rows of which a share of the negatives was kept the student says which; the run's own is in its logits."""
    recipe, kept = write_kinds(tmp_path), ("--set", "data.negative_rate=0.25")
    quorem("train", recipe, "--out", tmp_path / "run", *QUIET, *kept)
    quorem("encode", recipe, "--out", tmp_path / "cache", "--jobs", "1", "--quiet", *kept)
    plain = prepared_by(recipe)
    cached = prepared_by(recipe, f"data.cache={tmp_path / 'cache'}", "data.negative_rate=0.25")
    known, heard = read_teacher(tmp_path / "run", plain), list[tuple[int, int]]()

    def scored(rows: Source, rate: float) -> torch.Tensor:
        return teacher_logits(known, rows, rate, lambda batches, done: heard.append((batches, done)))

    stored = load_file(tmp_path / "run" / REFERENCE)["logit"]
    places = torch.from_numpy(plain.reference.places)
    for rate in (1.0, 0.25, 0.01):
        found = scored(plain.heldout, rate)[places].numpy()
        np.testing.assert_allclose(found, stored - np.log(rate), atol=1e-5)
    assert heard == [(1, 1)] * 3
    assert isinstance(plain.train, Rows)
    assert not isinstance(cached.train, Rows)
    own, other = (scored(each.train, 1.0) for each in (plain, cached))
    assert own.dtype == torch.float32
    assert own.shape == (len(plain.train),)
    torch.testing.assert_close(own, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({'"C1..C6"': '"C1..C5"'}, "a teacher has the features of its student"),
        ({"buckets = 500": "buckets = 400"}, "other ids of C7"),
        ({'side = "context" }': 'side = "context", min_count = 2 }'}, "other ids of C3, C4"),
        ({"train = 4000": "train = 3000"}, "other ids of"),
    ],
)
def test_a_teacher_of_other_features_or_other_ids_is_refused(
    recipe: Path, teacher: Path, tmp_path: Path, changes: dict[str, str], told: str
) -> None:
    text = recipe.read_text()
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "other.toml").write_text(text)
    again = ("--teacher", teacher, "--out", tmp_path / "run", *QUIET)
    assert told in quorem("train", tmp_path / "other.toml", *again, check=2).stderr
    assert not (tmp_path / "run").exists()


def test_what_decides_no_id_may_differ(recipe: Path, teacher: Path) -> None:
    """Free ids, which no row has, and the transforms of dense features, which a teacher applies itself."""
    (recipe.parent / "log.toml").write_text(recipe.read_text().replace('"standard"', '"log1p"'))
    plain, other = prepared_by(recipe), prepared_by(recipe.parent / "log.toml", "embedding.reserve=0.5")
    first, second = (teacher_logits(read_teacher(teacher, each), each.train, 1.0) for each in (plain, other))
    assert torch.equal(first, second)


def test_what_is_no_finished_run_is_refused(recipe: Path, tmp_path: Path) -> None:
    again = ("--teacher", tmp_path, "--out", tmp_path / "run", *QUIET)
    assert "manifest.json" in quorem("train", recipe, *again, check=2).stderr


def test_another_hash_gives_other_ids(recipe: Path, teacher: Path) -> None:
    with pytest.raises(WrongSchema, match="other ids of C7"):
        read_teacher(teacher, prepared_by(recipe, "features.C7.seed=1"))


def test_killed_and_resumed_it_ends_alike_and_with_the_same_teacher_only(
    recipe: Path, teacher: Path, alone: Path, tmp_path: Path
) -> None:
    often = tmp_path / "often.toml"
    often.write_text(RECIPE.replace("epochs = 3", "epochs = 4\npatience = 9\ncheckpoint_minutes = 0.0005"))
    quorem("train", often, "--teacher", teacher, "--out", tmp_path / "whole", *QUIET)
    out = tmp_path / "run"
    process = begin(often, out, "--teacher", str(teacher))
    wait_for_step(process, out, 20)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    for other in ((), ("--teacher", alone)):
        told = quorem("train", often, *other, "--out", out, "--resume", *QUIET, check=2).stderr
        assert "another recipe, seed, plan, teacher or data" in told
    quorem("train", often, "--teacher", teacher, "--out", out, "--resume", *QUIET)
    for name in (WEIGHTS, "manifest.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_interrupted_it_names_its_teacher(recipe: Path, teacher: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quorem", "train", str(recipe), "--teacher", str(teacher), "--device", "cpu"]
    with subprocess.Popen([*command, "--out", str(tmp_path / "run")], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch   1"):
                process.send_signal(signal.SIGTERM)
                break
        assert f"--teacher {teacher}" in process.stderr.read()


def test_two_ranks_learn_from_it_what_one_does(tmp_path: Path) -> None:
    recipe, usual = write_kinds(tmp_path), ("--set", "train.distil=0.8", "--quiet")
    quorem("train", recipe, "--out", tmp_path / "teacher", *QUIET)
    quorem("encode", recipe, "--out", tmp_path / "cache", "--jobs", "1", "--quiet")
    command = ("train", recipe, "--teacher", tmp_path / "teacher", "--cache", tmp_path / "cache", *usual)
    quorem(*command, "--out", tmp_path / "one", "--device", "cpu")
    ranks.end(ranks.start(2, "-m", "quorem", *command, "--out", tmp_path / "two"), [0, 0])
    one, two = (manifests.read(tmp_path / name).training for name in ("one", "two"))
    assert one.teacher_sha256 == two.teacher_sha256 != ""
    assert two.valid_metrics["logloss"] == pytest.approx(one.valid_metrics["logloss"], rel=1e-3)


def test_recipes_say_the_share_only_where_it_is_another(recipe: Path) -> None:
    """Studies know their runs by this text."""
    assert "distil" not in to_toml(*read_recipe(str(recipe)))
    assert "distil = 0.25" in to_toml(*read_recipe(str(recipe), ["train.distil=0.25"]))
