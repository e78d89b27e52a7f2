"""A study run for real: stopped, killed and gone on with, it repeats no finished run and ends with the same table."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from quorem.protos.errors import QuoremError
from quorem.train.compare.children import cores
from quorem.train.compare.lock import locked
from studies import PATIENCE_SECONDS, at_work, command, compare, finished, until, without_seconds

RECIPE = """
[data]
source = "synthetic"
[data.synthetic]
rows = { train = 2000, valid = 500, test = 500 }
scale = 0.0005
dense = 2
[features]
"I1..I2" = { kind = "dense", transform = "none" }
"C1..C6" = { kind = "categorical", encoding = "vocabulary", values = "integer" }
[embedding]
scheme = "qr"
dim = 4
[model]
name = "deepfm"
mlp = [8]
[train]
batch = 256
epochs = 1
"""
STUDY = """
[study]
title = "Small"
recipe = "small.toml"
seeds = [1, 2]
against = "qr"
[[arms]]
name = "qr"
factor = "scheme"
tune = { "train.lr" = [0.01, 0.001] }
[[arms]]
name = "long"
factor = "scheme"
seeds = [1]
set = ["embedding.scheme=hash", "train.epochs=80", "train.patience=80"]
"""
RUNS = 4  # two that are tried, a second seed, and the long one
FAILING = """
[[arms]]
name = "failing"
factor = "scheme"
seeds = [1]
set = ["train.lr=1e30", "model.batchnorm=false"]
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file, its recipe beside it."""
    path = tmp_path_factory.mktemp("study") / "study.toml"
    path.write_text(STUDY)
    (path.parent / "small.toml").write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def whole(study: Path) -> tuple[Path, str]:
    """The directory of the study, run without a disturbance, and what that said on stderr."""
    out = study.parent / "whole"
    done = subprocess.run(command(study, out), capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (out / "table.md").read_text().strip()
    return out, done.stderr


def epochs(out: Path, least: int) -> bool:
    """Whether a run that is not finished has come so far."""
    records = [path for path in out.glob("runs/*/metrics.jsonl") if not (path.parent / "manifest.json").exists()]
    return any(path.read_text().count('"validation"') >= least for path in records)


def test_a_study_is_told_before_while_and_after_it_runs(whole: tuple[Path, str]):
    out, told = whole
    assert f"0 of {RUNS} runs finished, {RUNS} to do" in told
    assert re.search(rf"{RUNS} x small deepfm: about \d+ s a run \(from a short probe\)", told)
    assert re.search(r"in all about \d+ s, 2 at a time", told)
    assert re.search(r"^qr \(train.lr=0.01\)  seed 1  test AUC 0\.\d+  logloss 0\.\d+  [\d.]+ s$", told, re.MULTILINE)
    assert f"{RUNS} of {RUNS} runs done" in told
    assert {path.name for path in out.iterdir() if path.is_file() and path.name != ".lock"} == {
        "table.md",
        "table.csv",
        "results.json",
        "scheme.auc.svg",
        "scheme.logloss.svg",
    }


def test_the_numbers_are_those_of_the_runs(whole: tuple[Path, str]):
    out, _ = whole
    found = {arm["arm"]: arm for arm in json.loads((out / "results.json").read_text())["arms"]}
    assert len(finished(out)) == RUNS
    tried = {each["values"]["train.lr"]: each["valid_auc"] for each in found["qr"]["tuning"]}
    assert found["qr"]["tuned"]["train.lr"] == max(tried, key=lambda lr: tried[lr])
    for arm in found.values():
        for run in arm["runs"]:
            facts = json.loads((out / "runs" / f"{run['run']}.json").read_text())
            assert facts["result"]["test"] == run["test"]
            assert facts["seconds"] == run["seconds"] > 0
            assert facts["peak_bytes"] > 50e6
            assert (out / "runs" / run["run"] / "recipe.toml").read_text() == (
                out / "runs" / f"{run['run']}.toml"
            ).read_text()
    assert found["long"]["against"]["qr"]["auc"]["verdict"].endswith("(pooled)")


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc to find processes")
def test_stopped_and_killed_it_goes_on_and_ends_with_the_same_table(study: Path, whole: tuple[Path, str]):
    out = study.parent / "disturbed"
    quiet = command(study, out, "--quiet")
    with subprocess.Popen(quiet, stderr=subprocess.PIPE, text=True, start_new_session=True) as stopped:
        until(lambda: epochs(out, 3), stopped)
        stopped.send_signal(signal.SIGINT)
        _, told = stopped.communicate(timeout=PATIENCE_SECONDS)
    assert stopped.returncode == 130
    assert f"quorem compare {study} --out {out} --jobs 2" in told
    assert at_work(out) == []
    (long,) = [path.parent for path in out.glob("runs/*/recipe.toml") if "epochs = 80" in path.read_text()]
    assert (long / "checkpoint.safetensors").exists()
    before = finished(out)
    assert 1 <= len(before) < RUNS

    epochs_before = (long / "metrics.jsonl").read_text().count('"validation"')
    with subprocess.Popen(quiet, stderr=subprocess.PIPE, text=True, start_new_session=True) as killed:
        until(lambda: epochs(out, epochs_before + 3), killed)
        held = [killed.pid, *at_work(out)]
        for pid in held:  # time stands still for the study, however long the look at it takes
            os.kill(pid, signal.SIGSTOP)
        assert compare(study, "--out", out, "--report", "--quiet") == (0, "", "")
        code, _, refused = compare(study, "--out", out)
        os.killpg(killed.pid, signal.SIGKILL)
        for pid in held[1:]:
            os.kill(pid, signal.SIGCONT)
        assert code == 2
        assert f"process {killed.pid}" in refused
    deadline = time.monotonic() + PATIENCE_SECONDS
    while at_work(out):  # its trainings notice, save themselves and end
        assert time.monotonic() < deadline
    assert (long / "checkpoint.safetensors").exists()
    (long / ".weights.safetensors.1234").write_text("left by a write that was killed")
    before |= finished(out)
    assert len(before) < RUNS

    done = subprocess.run([*quiet, "--json"], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == {"all": RUNS, "finished": RUNS, "failed": 0, "left": 0}
    assert finished(out).items() >= before.items()
    table, expected = ((each / "table.md").read_text() for each in (out, whole[0]))
    assert without_seconds(table) == without_seconds(expected)
    assert (out / "scheme.auc.svg").read_bytes() == (whole[0] / "scheme.auc.svg").read_bytes()
    assert not list(out.glob("runs/**/.*"))
    assert at_work(out) == []

    after = finished(out)
    assert compare(study, "--out", out, "--quiet") == (0, "", "")
    assert finished(out) == after


def test_a_run_that_fails_stops_no_other_and_is_told(study: Path, whole: tuple[Path, str]):
    before = finished(whole[0])
    out = study.parent / "failing"
    shutil.copytree(whole[0], out)
    wider = study.with_name("wider.toml")
    wider.write_text(STUDY + FAILING)
    code, printed, _ = compare(wider, "--out", out, "--json", "--quiet")
    assert code == 1
    found = json.loads(printed)
    assert found["counts"] == {"all": RUNS + 1, "finished": RUNS, "failed": 1, "left": 0}
    (failure,) = found["failures"]
    assert (failure["arm"], failure["seed"]) == ("failing", 1)
    assert "finite" in failure["why"]
    assert "finite" in (out / "table.md").read_text()
    assert finished(out).keys() == before.keys()
    code, printed, _ = compare(wider, "--out", out, "--report", "--json")
    assert (code, json.loads(printed)["failures"]) == (1, [failure])


def test_an_estimate_from_what_is_finished_runs_nothing(study: Path, whole: tuple[Path, str]):
    out = whole[0]
    before = (out / "table.md").stat().st_mtime_ns
    code, printed, _ = compare(study, "--out", out, "--estimate", "--json", "--jobs", "2")
    assert (code, json.loads(printed)["seconds"]) == (0, 0.0)
    more = study.with_name("more.toml")
    more.write_text(STUDY.replace("seeds = [1, 2]", "seeds = [1, 2, 3, 4, 5]"))
    code, printed, _ = compare(more, "--out", out, "--estimate", "--jobs", "2")
    assert code == 0
    assert f"{RUNS} of {RUNS + 3} runs finished, 3 to do" in printed
    assert f"(mean of {RUNS} finished)" in printed
    assert (out / "table.md").stat().st_mtime_ns == before


def test_out_of_minutes_the_rest_stays_to_be_done(study: Path, tmp_path: Path):
    code, printed, told = compare(study, "--out", tmp_path / "out", "--limit-minutes", "0", "--json", "--quiet")
    assert (code, told) == (0, "")
    assert json.loads(printed)["counts"] == {"all": RUNS, "finished": 0, "failed": 0, "left": RUNS}
    assert "0 of 2" in (tmp_path / "out" / "table.md").read_text()
    arguments = ("--limit-minutes", "0", "--json", "--quiet", "--arm", "q*", "--seeds", "1")
    _, printed, _ = compare(study, "--out", tmp_path / "out", *arguments)
    assert json.loads(printed)["counts"]["all"] == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--arm", "nobody"], "'qr', 'long'"),
        (["--set", "train.lr=-1"], "arm 'qr'"),
        (["--report"], "--report"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    study: Path, tmp_path: Path, arguments: list[str], told: str
):
    code, printed, error = compare(study, "--out", tmp_path / "out", *arguments)
    assert (code, printed) == (2, "")
    assert told in error
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_something_else_is_left_alone(study: Path, tmp_path: Path):
    (tmp_path / "table.md").write_text("mine")
    code, _, error = compare(study, "--out", tmp_path)
    assert code == 2
    assert "something else" in error
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_one_at_a_time_works_in_a_directory(tmp_path: Path):
    with locked(tmp_path) as held:
        with pytest.raises(QuoremError, match=f"process {os.getpid()}"), locked(tmp_path):
            pass
        orphan = os.dup(held)  # as a training has it, whose study is killed
    with pytest.raises(BlockingIOError), (tmp_path / ".lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(orphan)
    with locked(tmp_path):
        pass


def test_the_cores_are_those_that_this_process_may_use():
    assert 1 <= cores() <= (os.cpu_count() or 1)
