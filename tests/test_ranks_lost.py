"""A rank that is lost: the others say so at once, and the run goes on from its checkpoint, with as many or fewer."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ranks
from commands import RECIPE, quorem
from killing import CHECKPOINT, begin, wait_for_step

USUAL = ("--device", "cpu", "--quiet")


def recipe_at(path: Path, dropout: float) -> Path:
    """The small recipe, checkpointed every few steps."""
    often = "epochs = 4\npatience = 9\ncheckpoint_minutes = 0.0005"
    path.write_text(RECIPE.replace("epochs = 3", often).replace("dropout = 0.1", f"dropout = {dropout}"))
    return path


def test_from_one_rank_to_two_and_back(tmp_path: Path) -> None:
    recipe, out = recipe_at(tmp_path / "recipe.toml", 0.0), tmp_path / "run"
    alone = begin(recipe, out)
    wait_for_step(alone, out, 10)
    alone.kill()
    alone.communicate()
    first, second = ranks.start(2, "-m", "quorem", "train", recipe, "--out", out, *USUAL, "--resume")
    wait_for_step(first, out, 40)
    second.kill()
    began = time.monotonic()
    told = ranks.end([first, second], [2, -signal.SIGKILL])[0]
    assert time.monotonic() - began < 10
    assert "every rank answers while the run lasts" in told
    assert "rank 0 of 2" in told
    assert "--resume" in told
    done = quorem("train", recipe, "--out", out, *USUAL, "--resume", "--json")
    undisturbed = quorem("train", recipe, "--out", tmp_path / "undisturbed", *USUAL, "--json")
    found, expected = (json.loads(each.stdout)["test"] for each in (done, undisturbed))
    assert found["logloss"] == pytest.approx(expected["logloss"], rel=1e-2)
    assert found["auc"] == pytest.approx(expected["auc"], abs=1e-2)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the ranks by /proc")
def test_torchrun_starts_again_and_the_run_ends_as_if_undisturbed(tmp_path: Path) -> None:
    """With dropout, whose draws the checkpoint has for every rank; weights are equal to the bit."""
    recipe, out, undisturbed = recipe_at(tmp_path / "recipe.toml", 0.1), tmp_path / "run", tmp_path / "undisturbed"
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1")
    command = [sys.executable, "-m", *torchrun, "-m", "quorem", "train", str(recipe), "--out", str(out), *USUAL]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_for_step(process, out, 30)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    told = process.communicate(timeout=100)[1]
    assert process.returncode == 0, told
    assert "every rank answers while the run lasts" in told
    assert not (out / CHECKPOINT).exists()
    ranks.end(ranks.start(2, "-m", "quorem", "train", recipe, "--out", undisturbed, *USUAL), [0, 0])
    for name in ("weights.safetensors", "manifest.json"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name


def ranks_of(torchrun: subprocess.Popen[str]) -> list[int]:
    """The processes of its ranks, in their order."""
    children = (Path("/proc") / str(torchrun.pid) / "task").glob("*/children")
    found = [int(each) for path in children for each in path.read_text().split()]
    numbers = dict[int, int]()
    for pid in found:
        environment = (Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0")
        numbers |= {int(each[5:]): pid for each in environment if each.startswith(b"RANK=")}
    return [numbers[number] for number in sorted(numbers)]
