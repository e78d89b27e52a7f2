"""A cache of new rows, encoded from yesterday's run: the ids that training from the files gives; and no other run's."""

import json
import shutil
from pathlib import Path

import pytest
from cached import equal, write_kinds
from commands import quorem
from quorem.protos.manifest import sha256_of

QUIET = ("--quiet", "--device", "cpu")
ENCODE = ("--quiet", "--jobs", "1")
RESERVE = ("--set", "embedding.reserve=0.2")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of rows, users and tags of the second one renamed in part; a run of the first, `run`, and `cache`."""
    root = tmp_path_factory.mktemp("days")
    for day, first in (("one", 0), ("two", 4)):
        (root / day).mkdir()
        write_kinds(root / day, first + 1, first)
    quorem("train", root / "one" / "kinds.toml", "--out", root / "run", *QUIET, *RESERVE)
    quorem("encode", root / "two" / "kinds.toml", "--from", root / "run", "--out", root / "cache", *ENCODE, *RESERVE)
    return root


def test_new_rows_take_the_ids_that_they_take_in_memory(root: Path) -> None:
    plain, _ = equal(root / "two" / "kinds.toml", root / "cache", RESERVE[1], run=root / "run")
    user, tags = (feature.vocabulary for feature in plain.schema.features if feature.name in ("user", "tags"))
    assert user.taken > 0
    assert tags.taken == 2
    assert tags.turned_away == 2, "the reserve is too small for what is new, as it should be here"
    assert max(plain.vocabularies["tags"].ids) == tags.size


def test_counts_in_ranges_and_processes_change_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = ("encode", root / "two" / "kinds.toml", "--from", root / "run", *RESERVE)
    quorem(*usual, "--out", tmp_path / "two", "--quiet", "--jobs", "2")
    monkeypatch.setattr("quorem.train.encode.job.Limits.distinct", 3)
    monkeypatch.setattr("quorem.train.encode.counting._FIRST", 2)
    told = json.loads(quorem(*usual, "--out", tmp_path / "ranges", "--json", "--jobs", "1").stdout)
    assert told["ranges"]["tags"] > 2
    assert told["from"]["vocabularies"]["tags"] == {"new": 2, "turned_away": 2, "left": 0}
    for path in (root / "cache").iterdir():
        for other in ("two", "ranges"):
            assert path.read_bytes() == (tmp_path / other / path.name).read_bytes(), (path.name, other)


def test_features_in_another_order_are_those_of_the_run(root: Path, tmp_path: Path) -> None:
    before, features, after = (root / "two" / "kinds.toml").read_text().partition("[features]\n")
    lines, model, rest = after.partition("[model]")
    turned = "\n".join(reversed(lines.splitlines())) + "\n"
    recipe = root / "two" / "turned.toml"
    recipe.write_text(before + features + turned + model + rest)
    quorem("encode", recipe, "--from", root / "run", "--out", tmp_path / "cache", *ENCODE, *RESERVE)
    equal(recipe, tmp_path / "cache", RESERVE[1], run=root / "run")


def test_training_from_it_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    usual = (root / "two" / "kinds.toml", "--from", root / "run", "--json", *QUIET, *RESERVE)
    plain = json.loads(quorem("train", *usual, "--out", tmp_path / "plain").stdout)
    cached = json.loads(quorem("train", *usual, "--out", tmp_path / "cached", "--cache", root / "cache").stdout)
    assert plain["from"] == cached["from"]
    for path in [*(tmp_path / "plain").glob("*.safetensors"), tmp_path / "plain" / "manifest.json"]:
        assert path.read_bytes() == (tmp_path / "cached" / path.name).read_bytes(), path.name


def test_only_the_run_that_it_was_encoded_from_goes_on_with_it(root: Path, tmp_path: Path) -> None:
    recipe, out = root / "two" / "kinds.toml", ("--out", tmp_path / "next")
    quorem("train", root / "one" / "kinds.toml", "--out", tmp_path / "other", *QUIET, *RESERVE, "--seed", "7")
    quorem("encode", recipe, "--out", tmp_path / "fresh", *ENCODE, *RESERVE)
    own, no_run = f"manifest.json has sha256 {sha256_of(root / 'run' / 'manifest.json')}", "encoded from no run"
    for cache, run, told in (
        (root / "cache", ("--from", tmp_path / "other"), own),
        (root / "cache", (), own),
        (tmp_path / "fresh", ("--from", root / "run"), no_run),
    ):
        error = quorem("train", recipe, *out, *run, "--cache", cache, *QUIET, *RESERVE, check=2).stderr
        assert told in error
        assert "quorem encode RECIPE" in error
        assert ("--from RUN" in error) == bool(run)
    again = ("encode", recipe, "--out", root / "cache", *ENCODE, *RESERVE)
    assert "another run" in quorem(*again, "--from", tmp_path / "other", check=2).stderr
    assert "another run" in quorem(*again, check=2).stderr
    quorem(*again, "--from", root / "run")
    shutil.copytree(root / "run", tmp_path / "moved")  # where it lies is no part of what it is
    quorem("train", recipe, *out, "--from", tmp_path / "moved", "--cache", root / "cache", *QUIET, *RESERVE)


def test_what_is_no_run_of_this_recipe_is_refused(root: Path, tmp_path: Path) -> None:
    usual = ("encode", root / "two" / "kinds.toml", "--out", tmp_path / "new", *ENCODE)
    assert "embedding.reserve" in quorem(*usual, "--from", root / "run", check=2).stderr
    assert "manifest.json" in quorem(*usual, "--from", root, check=2).stderr
    assert not (tmp_path / "new").exists()


def test_the_report_tells_what_became_of_new_values(root: Path, tmp_path: Path) -> None:
    usual = ("--from", root / "run", "--out", tmp_path / "new", "--jobs", "1", *RESERVE)
    told = quorem("encode", root / "two" / "kinds.toml", *usual).stdout
    assert "tags: new values that took ids of the reserve: 2, ids left: 0; 2 more found none and stay rare" in told
    assert f"those of {root / 'run'}" in told
