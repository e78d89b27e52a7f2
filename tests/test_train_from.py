"""Yesterday's model: a run that goes on from another one on new rows, and is served as the model's next version."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from commands import quorem
from days import NEW, OLD, write_days, write_recipe
from quorem.protos import manifest as manifests
from quorem.protos import schema
from quorem.protos.encode import Column
from quorem.protos.ids import raw64_of_strings
from quorem.serve.client import Client
from quorem.train.features import Rows
from quorem.train.fit import encode_table
from quorem.train.fresh import make_fresh
from quorem.train.loop import score_rows
from quorem.train.prepare import prepare
from quorem.train.recipe import Recipe
from quorem.train.recipe_file import read_recipe, to_toml
from quorem.train.reserve import Grown
from quorem.train.yesterday import read_yesterday
from safetensors.numpy import load_file
from served import eventually, serving

QUIET = ("--quiet", "--device", "cpu")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of two days, and runs of the first one: `first`, which keeps its optimizer's state, and `full`."""
    root = tmp_path_factory.mktemp("days")
    write_days(root)
    quorem("train", write_recipe(root, "day1", keep=True), "--out", root / "first", *QUIET)
    quorem("train", write_recipe(root, "day1", scheme="full"), "--out", root / "full", *QUIET)
    return root


@pytest.fixture(scope="module")
def second(root: Path) -> dict[str, Any]:
    """The report of the run `second`, on the rows of the second day."""
    again = ("--from", root / "first", "--out", root / "second", "--json", *QUIET)
    return json.loads(quorem("train", write_recipe(root, "day2"), *again).stdout)


def vocabulary(run: Path, feature: str) -> dict[int, int]:
    weights = load_file(run / "weights.safetensors")
    found = (weights[f"vocabulary.{feature}.{role}"].tolist() for role in ("values", "ids"))
    return dict(zip(*found, strict=True))


def test_it_learns_the_new_day_and_new_values_take_the_reserve(root: Path, second: dict[str, Any]) -> None:
    before = second["from"]
    assert before["optimizer"] == "carried on"
    assert before["vocabularies"] == {
        "user": {"new": 0, "turned_away": 0, "left": 20},
        "item": {"new": NEW, "turned_away": 0, "left": OLD // 2 - NEW},
        "tags": {"new": 0, "turned_away": 0, "left": 5},
    }
    assert second["test"]["auc"] > before["test"]["auc"] + 0.05
    old, new = vocabulary(root / "first", "item"), vocabulary(root / "second", "item")
    assert {value: new[value] for value in old} == old
    assert sorted(new.values()) == list(range(1, OLD + NEW + 1))
    first, manifest = manifests.read(root / "first"), manifests.read(root / "second")
    assert (first.plan, first.net) == (manifest.plan, manifest.net)
    assert manifest.training.from_sha256 == manifests.sha256_of(root / "first" / "manifest.json")
    assert first.schema.features[3] == manifest.schema.features[3]  # mean and scale are the first day's
    (item,) = [
        each
        for each in json.loads(quorem("inspect", root / "second", "--json").stdout)["features"]
        if each["name"] == "item"
    ]
    assert item["reserve"] == {"ids": OLD // 2, "taken": NEW, "turned_away": 0}
    assert item["cardinality"] == 1 + OLD + OLD // 2
    assert "taken" in quorem("inspect", root / "second").stdout


@pytest.mark.parametrize(("run", "scheme"), [("first", "qr"), ("full", "full")])
def test_before_any_step_old_values_score_as_they_did_bit_for_bit(root: Path, run: str, scheme: str) -> None:
    recipe, base = read_recipe(str(write_recipe(root, "day2", scheme=scheme)))
    before = read_yesterday(root / run, to_toml(recipe, base))
    prepared = prepare(recipe, base, before.grow)
    _, model = make_fresh(recipe, prepared, before.manifest.plan, CPU, "here")
    before.hand_over(model, 1.0)
    stored = load_file(root / run / "weights.safetensors")
    for name, weight in model.weights().items():
        assert weight.tobytes() == stored[name].tobytes(), name

    day1, base = read_recipe(str(write_recipe(root, "day1", scheme=scheme, keep=scheme == "qr")))
    yesterdays = prepare(day1, base)

    def as_today(given: Recipe, table: pa.Table) -> Grown:
        return prepared.schema, dict(prepared.vocabularies), encode_table(prepared.schema, given.features, table)

    known, grown = yesterdays.heldout, prepare(day1, base, as_today).heldout
    assert torch.equal(known.ids, grown.ids)
    _, old = make_fresh(day1, yesterdays, before.manifest.plan, CPU, "here")
    before.hand_over(old, 1.0)
    assert score_rows(model, grown).tobytes() == score_rows(old, known).tobytes()

    reference = load_file(root / run / "reference.safetensors")
    places = np.unique(np.linspace(0, len(grown) - 1, len(reference["logit"])).astype(np.int64))
    kept = Rows(grown.ids[places], grown.numbers[places], grown.labels[places], None, None)
    found = score_rows(model, kept)
    if scheme == "full":
        assert found.tobytes() == reference["logit"].tobytes()
    else:  # in training mult's later tables are kept as deviations from one, with more digits
        np.testing.assert_allclose(found, reference["logit"], atol=1e-6)


def test_what_finds_no_id_stays_rare_and_is_told(root: Path, tmp_path: Path) -> None:
    usual = (*QUIET, "--set", "train.epochs=1")
    quorem("train", write_recipe(root, "day1", reserve=0.1), "--out", tmp_path / "first", *usual)
    again = ("--from", tmp_path / "first", "--out", tmp_path / "second", "--device", "cpu", "--set", "train.epochs=1")
    told = quorem("train", write_recipe(root, "day2", reserve=0.1), *again).stdout
    assert "fresh: that run kept none" in told
    assert (
        f"item: new values that took ids of the reserve: 8, ids left: 0; {NEW - 8} more found none and stay rare"
        in told
    )
    counts = pq.read_table(root / "day2" / "train.parquet").column("item").value_counts().to_pylist()
    new = [each for each in counts if int(each["values"].split()[1]) >= OLD]
    new.sort(key=lambda each: (-each["counts"], raw64_of_strings([each["values"].encode()])[0]))
    found = vocabulary(tmp_path / "second", "item")
    for place, each in enumerate(new):
        raw = int(raw64_of_strings([each["values"].encode()])[0])
        assert found.get(raw) == (OLD + 1 + place if place < 8 else None)
    shutil.rmtree(tmp_path / "first")  # a third day needs the second alone
    again = ("--from", tmp_path / "second", "--out", tmp_path / "third", *usual)
    quorem("train", write_recipe(root, "day2", reserve=0.1), *again)
    assert vocabulary(tmp_path / "third", "item") == found
    item = manifests.read(tmp_path / "third").schema.features[1].vocabulary
    assert (item.taken, item.reserve, item.turned_away) == (8, 0, NEW - 8)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["embedding.dim=8", "model.mlp=[4]"], "other embedding.dim, model.mlp"),
        (["features.item.min_count=2"], "features.item.min_count"),
        (["embedding.fields.item.scheme=full"], "embedding.fields.item"),
    ],
)
def test_another_recipe_is_refused_with_the_keys_that_differ(
    root: Path, tmp_path: Path, settings: list[str], told: str
) -> None:
    extra = [part for each in settings for part in ("--set", each)]
    again = ("--from", root / "first", "--out", tmp_path / "run", *QUIET, *extra)
    assert told in quorem("train", write_recipe(root, "day2"), *again, check=2).stderr
    assert not (tmp_path / "run").exists()


def test_another_optimizer_begins_afresh(root: Path, tmp_path: Path) -> None:
    settings = ("--set", "train.epochs=1", "--set", "train.optimizer=adagrad", "--set", "train.l2=1e-5")
    again = ("--from", root / "first", "--out", tmp_path / "run", "--json", *QUIET, *settings)
    report = json.loads(quorem("train", write_recipe(root, "day2"), *again).stdout)
    assert report["from"]["optimizer"] == "fresh: adagrad cannot go on from that of adam"


def test_the_state_of_the_optimizer_makes_a_difference(root: Path, second: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(root / "first", tmp_path / "first")
    (tmp_path / "first" / "state.safetensors").unlink()
    again = ("--from", tmp_path / "first", "--out", tmp_path / "second", *QUIET)
    quorem("train", write_recipe(root, "day2"), *again)
    name = "weights.safetensors"
    assert (tmp_path / "second" / name).read_bytes() != (root / "second" / name).read_bytes()
    again = ("--from", root / "first", "--out", tmp_path / "again", *QUIET)
    quorem("train", write_recipe(root, "day2"), *again)
    assert (tmp_path / "again" / name).read_bytes() == (root / "second" / name).read_bytes()
    (tmp_path / "first" / "state.safetensors").write_bytes(b"no such thing")
    again = ("--from", tmp_path / "first", "--out", tmp_path / "broken", *QUIET)
    assert "begins afresh then" in quorem("train", write_recipe(root, "day2"), *again, check=2).stderr


def test_what_is_no_finished_run_is_refused(root: Path, tmp_path: Path) -> None:
    recipe = write_recipe(root, "day2")
    quorem("export", root / "first", "--to", tmp_path / "ctr")
    for path, told in ((tmp_path, "manifest.json"), (tmp_path / "ctr" / "1", "a bundle")):
        again = ("--from", path, "--out", tmp_path / "run", *QUIET)
        assert told in quorem("train", recipe, *again, check=2).stderr
    shutil.copytree(root / "first", tmp_path / "spoilt")
    with (tmp_path / "spoilt" / "weights.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    again = ("--from", tmp_path / "spoilt", "--out", tmp_path / "run", *QUIET)
    assert "digest" in quorem("train", recipe, *again, check=2).stderr
    with pytest.raises(SystemExit):
        quorem("train", recipe, *again, "--plan", tmp_path)


def test_interrupted_it_tells_how_to_go_on_and_ends_alike(root: Path, second: dict[str, Any], tmp_path: Path) -> None:
    out, recipe = tmp_path / "second", write_recipe(root, "day2")
    command = [sys.executable, "-m", "quorem", "train", str(recipe), "--from", str(root / "first"), "--out", str(out)]
    with subprocess.Popen([*command, "--device", "cpu"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch   1"):
                process.send_signal(signal.SIGTERM)
                break
        told = process.stderr.read()
    assert process.returncode == 143
    assert f"--from {root / 'first'}" in told
    assert "another recipe" in quorem("train", recipe, "--out", out, "--resume", *QUIET, check=2).stderr
    quorem("train", recipe, "--from", root / "first", "--out", out, "--resume", *QUIET)
    name = "weights.safetensors"
    assert (out / name).read_bytes() == (root / "second" / name).read_bytes()


def test_it_takes_its_place_in_a_running_server(root: Path, second: dict[str, Any], tmp_path: Path) -> None:
    """The next version of the same model, by the same schema fingerprint: callers need not know."""
    models = tmp_path / "models"
    quorem("export", root / "first", "--to", models / "ctr")
    fingerprint = schema.fingerprint(manifests.read(root / "first").schema)
    rows = {
        "item": Column(strings=[b"item 0", f"item {OLD}".encode(), b"never seen"]),
        "tags": Column(strings=[b"t1", b"t2"], lengths=np.array([2, 0, 0])),
        "price": Column(floats=np.array([5, 5, 5], np.float32)),
    }
    context = {"user": Column(integers=np.array([3]))}

    def score(client: Client) -> tuple[int, np.ndarray]:
        found = client.score("ctr", rows, 3, context=context, schema_fingerprint=fingerprint)
        return found.version, found.scores

    with (
        serving(models, tmp_path / "log", "--watch", "0.2", "--workers", "2") as server,
        Client(server.address) as client,
    ):
        version, before = score(client)
        same = client.score(
            "ctr", {**rows, "tags": Column(strings=[], lengths=np.zeros(3, np.int64))}, 3, context=context
        ).scores
        assert version == 1
        assert same[1] == same[2], "the first day knows neither: both are rare"
        quorem("export", root / "second", "--to", models / "ctr")
        eventually(lambda: score(client)[0] == 2)
        after = score(client)[1]
        assert after[1] != after[2], "the new item has an id, and a score, of its own"
        assert (after != before).any()
        assert client.describe("ctr").fingerprint == fingerprint
    reference, column = load_file(root / "second" / "reference.safetensors"), raw64_of_strings([f"item {OLD}".encode()])
    assert (reference["ids"] == column[0]).any(), "the parity that export proved was of new values, too"
