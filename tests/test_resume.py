"""Runs that are killed, run out of disk, or meet a number that is none: what is kept, and what is said."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from commands import RECIPE, quorem
from killing import CHECKPOINT, begin, wait_for_step
from quorem.protos import manifest_pb2 as pb
from quorem.protos.errors import QuoremError
from quorem.train.batches import shuffled
from quorem.train.checkpoint import Progress, is_finite
from quorem.train.features import Rows
from quorem.train.keeper import Keeper
from quorem.train.loop import Place, Unwatched, fit
from quorem.train.model import Model
from quorem.train.recipe import TrainConfig
from safetensors import safe_open
from torch import nn

WEIGHTS = "weights.safetensors"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small recipe on made rows whose checkpoints are a few steps apart."""
    path = tmp_path_factory.mktemp("resume") / "often.toml"
    path.write_text(RECIPE.replace("epochs = 3", "epochs = 4\npatience = 9\ncheckpoint_minutes = 0.0005"))
    return path


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    """An undisturbed run of it."""
    out = recipe.parent / "run"
    quorem("train", recipe, "--out", out, "--quiet", "--device", "cpu")
    return out


def test_killed_at_any_step_and_resumed_equals_undisturbed(recipe: Path, run: Path, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    draw, out, resumed = random.Random(seed), tmp_path / "run", list[str]()
    for first in (1, 20, 44):  # of 64 steps
        process = begin(recipe, out, *resumed)
        wait_for_step(process, out, draw.randrange(first, first + 12))
        time.sleep(draw.random() * 0.02)
        process.kill()
        _, told = process.communicate()
        assert process.returncode == -signal.SIGKILL, (seed, told)
        resumed = ["--resume"]
    quorem("train", recipe, "--out", out, "--quiet", "--device", "cpu", "--resume")
    for name in (WEIGHTS, "manifest.json", "reference.safetensors"):
        assert (run / name).read_bytes() == (out / name).read_bytes(), (name, seed)
    assert not list(out.glob(".*"))  # nothing half written is left


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="limits another process, which Linux can")
def test_a_full_disk_loses_nothing_and_says_so(recipe: Path, run: Path, tmp_path: Path) -> None:
    """The system refuses to write more than 20 kB to a file: a checkpoint takes more."""
    import resource

    out = tmp_path / "run"
    process = begin(recipe, out, "--set", "train.checkpoint_minutes=0")
    wait_for_step(process, out, 4)
    before = (out / CHECKPOINT).stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    assert process.stderr is not None
    warned = process.stderr.readline()
    process.terminate()
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert "File too large" in warned
    assert "training goes on" in warned
    last = told.splitlines()[-1]
    assert "Make room, then --resume" in last
    assert f"the last good checkpoint is {out / CHECKPOINT} (" in last
    assert (out / CHECKPOINT).stat().st_size == before > 20_000
    assert not list(out.glob(".*"))
    quorem(
        "train", recipe, "--out", out, "--quiet", "--resume", "--set", "train.checkpoint_minutes=0", "--device", "cpu"
    )
    assert (run / WEIGHTS).read_bytes() == (out / WEIGHTS).read_bytes()


def test_a_row_that_makes_the_loss_no_number_is_named(tmp_path: Path) -> None:
    """One infinite number among 600 rows, in the second of four batches of the first epoch."""
    schema = pb.Schema(
        features=[
            pb.Feature(name="x", values=pb.INTEGER, id=pb.IdRange(size=5)),
            pb.Feature(name="n", values=pb.FLOAT, dense=pb.Dense(scale=1)),
        ]
    )
    field = pb.Field(feature="x", cardinality=6, dim=2, combine=pb.ALONE, tables=[pb.Table(rows=6, divide=1, dim=2)])
    layers = [
        pb.Layer(name="all", inputs=["embeddings", "dense"], concat=pb.Concat()),
        pb.Layer(name="out", inputs=["all"], linear=pb.Linear(inputs=3, outputs=1)),
    ]
    model = Model(schema, pb.Plan(fields=[field]), pb.Net(model="dnn", layers=layers), {})
    model.reset(1)
    order, labels = shuffled(600, 1, 0), (torch.arange(600) % 2).float()
    numbers = torch.zeros(600, 1)
    numbers[order[170]] = torch.inf
    rows = Rows(torch.arange(600).view(600, 1) % 5, numbers, labels, None, None)
    config = TrainConfig(batch=150, epochs=2, seed=1, checkpoint_minutes=0)
    with pytest.raises(QuoremError) as caught:
        fit(model, rows, rows, config, Place(tmp_path, "test", resume=False), Unwatched())
    told = caught.value
    assert told.rule == "every loss is a finite number"
    assert told.where.startswith(f"epoch 1, batch 2 of 4 (step 2), rows {order[150]}, {order[151]}, ")
    assert told.where.endswith(" and 142 more of the training rows, from 0")
    assert told.found == f"infinite values in row {order[170]} of the training rows, from 0"
    assert f"the last good checkpoint is {tmp_path / CHECKPOINT} (epoch 1, batch 1)" in told.remedy
    with safe_open(tmp_path / CHECKPOINT, "pt") as file:
        assert all(file.get_tensor(name).isfinite().all() for name in file.keys())  # noqa: SIM118  # no mapping


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_the_best_weights_wait_on_the_disk(tmp_path: Path) -> None:
    """Of a layer of 64 MB: they are what they were, whatever is learned and saved since, and take no memory."""
    model = nn.Linear(4096, 4096)
    optimizer = torch.optim.SGD(model.parameters())
    keeper = Keeper(tmp_path, "test", 10, warn=pytest.fail)
    total, before = model.weight.detach().double().sum(), anonymous()
    best = keeper.save(model, optimizer, model.state_dict(), Progress(), leaving=False)
    for _ in range(2):
        with torch.no_grad():
            model.weight.zero_()
        best = keeper.save(model, optimizer, best, Progress(), leaving=False)
    found = sum(rows.double().sum() for rows in best["weight"].split(256))
    assert found == pytest.approx(float(total), rel=1e-9, abs=1e-9)
    assert anonymous() - before < 16e6


def anonymous() -> int:
    """Bytes of memory that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_number_that_is_none_is_found_among_others(number: float, dtype: torch.dtype) -> None:
    values = torch.linspace(-9, 9, 999).to(dtype).view(3, 333)
    assert is_finite(values)
    values[1, 7] = number
    assert not is_finite(values)
    assert is_finite(values[:0])
    assert is_finite(torch.tensor(7))
