"""Ranks: processes that train together, and, run as a program, what each of them does.

`python ranks.py OUT RECIPE DTYPE [RECIPE DTYPE ...]`: trains the models of recipes in those precisions and writes the
losses of their steps and digests of their weights, by recipe, as JSON, to OUT/<rank>.json.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from quorem.train.distributed import joined, rank
from quorem.train.features import Rows
from quorem.train.fresh import make_fresh
from quorem.train.loop import Place, Unwatched, evaluate_rows, fit
from quorem.train.planning import make_plan
from quorem.train.prepare import prepare
from quorem.train.recipe_file import read_recipe


def start(ranks: int, *command: str | Path, port: int | None = None) -> list[subprocess.Popen[str]]:
    """The ranks of one machine, each `python COMMAND`, without torchrun: nobody ends the others when one is lost."""
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    usual = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env={**usual, "RANK": str(number), "LOCAL_RANK": str(number), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(ranks)
    ]


def end(processes: Sequence[subprocess.Popen[str]], codes: Sequence[int]) -> list[str]:
    """Wait for them; what each said on stderr. Their exit codes must be these."""
    told = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == list(codes), told
    return told


@dataclass
class Curve(Unwatched):
    """A watcher that keeps the loss of every step, where it is told of each."""

    losses: list[float] = field(default_factory=list)
    before: float = 0.0
    batch: int = 0

    def epoch(self, number: int, batches: int, done: int, rows: int) -> None:
        """Begin a sum."""
        self.before, self.batch = 0.0, 0

    def step(self, batches: int, rows: int, loss: float, lr: float) -> None:
        """Take the mean so far apart again."""
        assert batches == 1
        self.batch += 1
        total = loss * self.batch
        self.losses.append(total - self.before)
        self.before = total


def main(out: Path, asked: Sequence[tuple[str, str]]) -> None:
    """Train, on one rank of several."""
    out.mkdir(exist_ok=True)
    with joined(torch.device("cpu")) as device:
        told = {Path(recipe).stem: trained(recipe, out / Path(recipe).stem, dtype, device) for recipe, dtype in asked}
        (out / f"{rank()}.json").write_text(json.dumps(told))


def trained(recipe: str, out: Path, dtype: str, device: torch.device) -> dict[str, Any]:
    """What is known of a model after training."""
    (found, base), kind = read_recipe(recipe, [], None), getattr(torch, dtype)
    out.mkdir(exist_ok=True)
    prepared = prepare(found, base)
    plan = make_plan(found.embedding, prepared.schema, {}, first_order=found.model.first_order)
    _, model = make_fresh(found, prepared, plan, device, "test")
    train, valid, watcher = _as(prepared.train, kind), _as(prepared.valid, kind), Curve()
    fit(model.to(kind), train, valid, found.train, Place(out, "test", resume=False), watcher)
    digest = hashlib.sha256(b"".join(each.numpy().tobytes() for each in model.state_dict().values())).hexdigest()
    return {"losses": watcher.losses, "weights": digest, "metrics": evaluate_rows(model, valid)}


def _as(rows: Rows, dtype: torch.dtype) -> Rows:
    return Rows(rows.ids, rows.numbers.to(dtype), rows.labels.to(dtype), None, None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), list(zip(sys.argv[2::2], sys.argv[3::2], strict=True)))
