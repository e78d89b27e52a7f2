"""A budget search that is killed or stopped, wherever it is: gone on with, it gives the same plans to the byte."""

import json
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from budgeted import BUDGET, BUDGETS, HERE, SEARCH, SMALL, differing, files_of, stop_at
from commands import quorem
from quorem.train.budget import contest as contests
from quorem.train.budget import measure, run
from quorem.train.budget.learning import Learning
from quorem.train.search import saved


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small recipe on made rows, with vocabularies, hashes, a bag, and a section for AutoDim."""
    path = tmp_path_factory.mktemp("budget") / "small.toml"
    path.write_text(SMALL + SEARCH)
    return path


@pytest.fixture(scope="module")
def several(recipe: Path) -> Path:
    """A finished search of two budgets."""
    quorem("search", recipe, "--pareto", BUDGETS, "--out", recipe.parent / "plans", "--quiet", *HERE)
    return recipe.parent / "plans"


def begin(recipe: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """A search of two budgets in a process of its own."""
    command = [sys.executable, "-m", "quorem", "search", str(recipe), "--pareto", BUDGETS, "--out", str(out), *HERE]
    return subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], begins: str) -> None:
    """Until it has told a line that begins so."""
    assert process.stderr is not None
    told = list[str]()
    for line in process.stderr:
        told.append(line)
        if line.startswith(begins):
            return
    raise AssertionError(f"nothing that begins with {begins!r}: {''.join(told)}")


def test_killed_anywhere_and_resumed_equals_undisturbed(recipe: Path, several: Path, tmp_path: Path) -> None:
    """While it learns, measures and tries, in the first budget and in the second."""
    seed = random.randrange(2**32)
    draw, out, resumed = random.Random(seed), tmp_path / "plans", list[str]()
    for begins, most in (
        ("warm-up", 0.3),
        ("measuring", 0.1),
        ("tried as learnt", 0.1),
        ("epoch 5", 0.3),
        ("tried", 0.1),
    ):
        with begin(recipe, out, *resumed) as process:
            wait_for(process, begins)
            time.sleep(draw.random() * most)
            process.kill()
        assert process.returncode in (-signal.SIGKILL, 0), seed
        if process.returncode == 0:
            break
        resumed = ["--resume"]
    else:
        quorem("search", recipe, "--pareto", BUDGETS, "--out", out, "--resume", "--quiet", *HERE)
    assert files_of(out) == files_of(several), seed
    assert differing(several, out, files_of(several)) == [], seed


STOPS: list[tuple[Any, str, int]] = [
    (Learning, "train", 2),  # in the warm-up
    (Learning, "choose", 3),
    (Learning, "choose", 1),  # at once
    (measure, "binary_cross_entropy_with_logits", 5),
    (Learning, "restore", 1),  # after the first proposal
    (contests, "evaluate_rows", 1),  # after the second one has learnt
    (contests, "batch_of", 3),
    (saved, "save_tensors", 1),
    (contests, "batch_of", 20),  # of the second budget
]


def test_stopped_anywhere_and_resumed_equals_undisturbed(
    recipe: Path, several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, resume, again = tmp_path / "plans", list[str](), list[str]()
    command = ("search", recipe, "--pareto", BUDGETS, "--out", out, "--json", "--quiet")
    for module, name, count in STOPS:
        free = stop_at(monkeypatch, module, name, count)
        done = quorem(*command, *resume, *HERE, check=130)
        free()
        resume = ["--resume"]
        again = shlex.split(json.loads(done.stderr.splitlines()[-1])["remedy"])
        assert again[:5] == ["quorem", "search", str(recipe), "--out", str(out)]
        assert again[5:] == ["--resume", "--set", f'search.budget="{BUDGETS}"', *HERE]
        assert not (out / "14KB" / "search.json").exists()
    quorem(*again[1:], "--quiet")
    assert differing(several, out, files_of(several) - {"history.jsonl"}) == []


def test_the_first_batches_may_be_the_last(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a search of one epoch, which is stopped while its first proposal is tried."""
    few = ("--budget", BUDGET, "--set", "search.epochs=1", "--set", "search.warmup=0", "--quiet", *HERE)
    quorem("search", recipe, "--out", tmp_path / "whole", *few)
    free = stop_at(monkeypatch, contests, "batch_of", 1)
    quorem("search", recipe, "--out", tmp_path / "plan", *few, check=130)
    free()
    quorem("search", recipe, "--out", tmp_path / "plan", "--resume", *few)
    assert differing(tmp_path / "whole", tmp_path / "plan") == []


def test_killed_between_the_last_plan_and_what_names_them(
    recipe: Path, several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, command = tmp_path / "plans", ("search", recipe, "--pareto", BUDGETS, "--quiet", *HERE)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "draw_pareto", killed)
        quorem(*command, "--out", out, check=130)
    assert (out / "14KB" / "search.json").exists()
    quorem(*command, "--out", out, "--resume")
    assert files_of(out) == files_of(several)
    assert differing(several, out, files_of(several)) == []


def test_sigterm_says_how_to_go_on(recipe: Path, several: Path, tmp_path: Path) -> None:
    out = tmp_path / "plans"
    with begin(recipe, out) as process:
        wait_for(process, "warm-up")
        process.terminate()
        assert process.stderr is not None
        told = process.stderr.read()
    assert process.returncode == 143
    words = shlex.split(told.splitlines()[-1])
    assert words[:2] == ["quorem", "search"]
    assert "everything up to the last batch is saved" in told
    quorem(*words[1:], "--quiet")
    assert differing(several, out, files_of(several) - {"history.jsonl"}) == []


def test_another_recipe_seed_or_budget_does_not_go_on(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "plan"
    free = stop_at(monkeypatch, Learning, "train", 6)
    quorem("search", recipe, "--budget", BUDGET, "--out", out, "--quiet", *HERE, check=130)
    free()
    for other in (
        ("--budget", "15KB"),
        ("--budget", BUDGET, "--seed", "2"),
        ("--budget", BUDGET, "--set", "train.lr=1"),
    ):
        told = quorem("search", recipe, *other, "--out", out, "--resume", *HERE, check=2).stderr
        assert "another recipe" in told
    assert "Say --resume" in quorem("search", recipe, "--budget", BUDGET, "--out", out, *HERE, check=2).stderr
