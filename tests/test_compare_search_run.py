"""Searched arms run for real: searches shared, stopped, killed and gone on with, and told of as the plans say."""

import json
import os
import re
import shutil
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from commands import RECIPE
from quorem.protos import plan as plans
from quorem.protos.manifest import read
from quorem.protos.plan_directory import read_plan
from quorem.train.compare.arms import all_runs, make_arms
from quorem.train.compare.results import CHECKPOINT
from quorem.train.compare.searched import report_search
from studies import PATIENCE_SECONDS, at_work, command, compare, finished, until, without_seconds

STUDY = """
[study]
title = "Searched"
recipe = "small.toml"
set = ['search={ candidates = [2, 4], warmup = 1, epochs = 2, every = 2, lr = 0.05 }', "train.epochs=1"]
seeds = [1]
[[arms]]
name = "fm"
factor = "searched"
set = ['model={ name = "fm" }']
search = ["train.l2=0.001"]
[[arms]]
name = "fm supernet"
factor = "searched"
set = ['model={ name = "fm" }', "train.l2=0.001"]
search = []
measure = "search"
[[arms]]
name = "nfm"
factor = "searched"
set = ['model={ name = "nfm", mlp = [8] }']
search = ['model={ name = "fm" }', "train.l2=0.001"]
[[arms]]
name = "long"
factor = "long"
search = ["search.epochs=30", "search.lookup=separate"]
[[arms]]
name = "random"
factor = "long"
set = ['search={ method = "random", candidates = [2, 4], trials = 2 }']
search = ["train.epochs=20", "train.patience=20"]
seeds = [2]
"""
RUNS = {"fm": 2, "fm supernet": 0, "nfm": 1, "long": 2, "random": 2}  # each arm's beyond those before it
FAILING = """
[[arms]]
name = "failing"
factor = "failing"
set = ["embedding.bytes=1000"]
search = []
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file, its recipe beside it."""
    path = tmp_path_factory.mktemp("study") / "study.toml"
    path.write_text(STUDY)
    (path.parent / "small.toml").write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def whole(study: Path) -> Path:
    """The directory of the study, run without a disturbance."""
    out = study.parent / "whole"
    run = [*command(study, out), "--quiet"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    return out


def arms_of(out: Path) -> dict[str, Any]:
    return {arm["arm"]: arm for arm in json.loads((out / "results.json").read_text())["arms"]}


def test_searches_are_run_once_and_their_plans_are_trained(whole: Path):
    arms = arms_of(whole)
    assert len(finished(whole)) == sum(RUNS.values())
    for name in ("fm", "nfm", "long", "random"):
        for run in arms[name]["runs"]:
            plan, search = read_plan(whole / "runs" / run["search"])
            trained = read(whole / "runs" / run["run"])
            assert list(trained.plan.fields) == list(plan.fields)
            assert run["dims"] == {choice.feature: choice.dim for choice in search.choices}
            assert run["embedding_parameters"] == plans.parameters(plan.fields)
            assert arms[name]["full_bytes"] == 4 * sum(4 * field.cardinality for field in plan.fields)
            assert (run["seed"], run["seconds"] > 0, run["search_seconds"] > 0) == (search.seed, True, True)
            assert "[search]" not in (whole / "runs" / run["run"] / "recipe.toml").read_text()
    assert arms["fm"]["runs"][0]["search"] == arms["nfm"]["runs"][0]["search"]
    assert [run["seed"] for run in arms["random"]["runs"]] == [2]
    assert tomllib.loads((whole / "runs" / f"{arms['nfm']['runs'][0]['search']}.toml").read_text())["model"] == {
        "name": "fm"
    }


def test_a_search_is_measured_as_it_tells_of_itself(study: Path, whole: Path):
    arms = arms_of(whole)
    (supernet,) = arms["fm supernet"]["runs"]
    assert supernet["run"] == supernet["search"] == arms["fm"]["runs"][0]["search"]
    assert (supernet["seconds"], supernet["search_seconds"] > 0) == (None, True)
    assert (supernet["valid"], supernet["test"]) != (arms["fm"]["runs"][0]["valid"], arms["fm"]["runs"][0]["test"])
    searches = [run for run in all_runs(make_arms(study, ())[1]) if "autodim" in run.kind.name]
    assert len(searches) == 2  # candidates looked up shared, and separate
    for run in searches:
        told = json.loads((whole / "runs" / f"{run.digest}.json").read_text())["result"]
        report = report_search(whole / "runs" / run.digest, run)
        assert (report["valid"], report["test"], report["dims"]) == (told["valid"], told["test"], told["dims"])
        assert report["embedding_parameters"] == told["parameters"]["supernet"]
        assert {"auc", "logloss"} <= report["test"].keys()


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc to find processes")
def test_a_search_that_is_stopped_or_killed_is_gone_on_with(study: Path, whole: Path):
    out = study.parent / "disturbed"
    quiet = command(study, out, "--quiet", "--arm", "long", "--arm", "random")
    searches = {name: out / "runs" / arms_of(whole)[name]["runs"][0]["search"] for name in ("long", "random")}

    def lines() -> int:
        """How far the two have come: records of the one, epochs of the other's first trial or its end."""
        history, trial = searches["long"] / "history.jsonl", searches["random"] / "trial-1" / "metrics.jsonl"
        first = trial.read_text().count('"validation"') if trial.exists() else 0
        return min(history.read_text().count("\n") if history.exists() else 0, first)

    with subprocess.Popen(quiet, stderr=subprocess.PIPE, text=True, start_new_session=True) as stopped:
        until(lambda: lines() >= 2, stopped)
        stopped.send_signal(signal.SIGINT)
        _, told = stopped.communicate(timeout=PATIENCE_SECONDS)
    assert stopped.returncode == 130, told
    assert at_work(out) == []
    assert finished(out) == {}
    assert (searches["long"] / CHECKPOINT).exists()
    before = lines()

    with subprocess.Popen(quiet, stderr=subprocess.PIPE, text=True, start_new_session=True) as killed:
        until(lambda: lines() >= before + 2, killed)
        os.killpg(killed.pid, signal.SIGKILL)
    code, printed, told = compare(study, "--out", out, "--arm", "long", "--arm", "random", "--json", "--quiet")
    assert (code, json.loads(printed)["counts"]) == (0, {"all": 4, "finished": 4, "failed": 0, "left": 0}), told
    for directory in searches.values():
        for name in ("plan.json", "search.json"):
            assert (directory / name).read_bytes() == (whole / "runs" / directory.name / name).read_bytes()
        assert not (directory / CHECKPOINT).exists()
    table, expected = ((each / "table.md").read_text() for each in (out, whole))
    section = [each[each.index("## long") : each.index("Means ±")] for each in (table, expected)]
    assert without_seconds(section[0], 2) == without_seconds(section[1], 2)
    assert not list(out.glob("runs/**/.*"))


def test_a_search_that_fails_is_told_with_the_arm_that_waits_for_it(study: Path, whole: Path):
    out = study.parent / "failing"
    shutil.copytree(whole, out)
    wider = study.with_name("wider.toml")
    wider.write_text(STUDY + FAILING)
    before = finished(out)
    code, printed, _ = compare(wider, "--out", out, "--json", "--quiet")
    found = json.loads(printed)
    assert (code, found["counts"]["failed"]) == (1, 2)
    (failure,) = found["failures"]
    assert failure["arm"] == "failing"
    assert re.match(r"its search: .*bytes", failure["why"])
    assert finished(out) == before
    code, printed, _ = compare(wider, "--out", out, "--report", "--json")
    assert (code, json.loads(printed)["failures"]) == (1, [failure])


def test_an_estimate_probes_searches_and_trainings(study: Path, tmp_path: Path):
    code, printed, _ = compare(study, "--out", tmp_path / "out", "--estimate", "--jobs", "2", "--arm", "fm")
    assert code == 0
    assert "0 of 2 runs finished, 2 to do" in printed
    assert re.search(r"1 x small fm, autodim search: about \d+ s a run \(from a short probe\)", printed)
    assert re.search(r"1 x small fm: about \d+ s a run \(from a short probe\)", printed)
    assert not (tmp_path / "out").exists()
