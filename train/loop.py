"""The training loop, from top to bottom: epochs of shuffled batches, validation, early stopping, checkpoints.

Legend: N rows, B rows of a batch.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ..protos.errors import QuoremError
from ..protos.metrics import Floats, evaluate
from .checkpoint import Progress, load_checkpoint, save_checkpoint
from .features import Rows
from .model import Model
from .optimizer import make_optimizer
from .recipe import TrainConfig

EVALUATION_BATCH = 8192
LOOKS = 20  # at the loss in an epoch: few, since each waits for the device,
LONGEST_BLIND = 64  # but one in so many steps at least
MIXER = 1_000_003  # a prime: seeds and numbers that are near each other are far apart in a generator's seeds


class Interrupted(Exception):
    """The user asked the run to stop; it is saved."""


class Watcher(Protocol):
    """Who is told how a run comes along."""

    def resumed(self, progress: Progress) -> None:
        """The run goes on from here."""
        ...

    def epoch(self, number: int, batches: int, done: int) -> None:
        """An epoch begins, `done` of its batches behind it."""
        ...

    def step(self, batches: int, rows: int, loss: float) -> None:
        """So many batches and rows more are done; mean loss of the epoch so far."""
        ...

    def validated(self, epoch: int, loss: float, metrics: dict[str, float], lr: float, best: bool) -> None:
        """An epoch ended with these metrics on the validation rows."""
        ...


@dataclass(frozen=True)
class Place:
    """Where checkpoints are kept, what they are checkpoints of, and whether to go on from the one that is there."""

    directory: Path
    identity: str
    resume: bool


def fit(model: Model, train: Rows, valid: Rows, config: TrainConfig, place: Place, watcher: Watcher) -> Progress:
    """Train until the validation AUC has not risen for `patience` epochs; leave the best epoch's weights in the model.

    With precision bf16 the layers run in bfloat16 where torch has it safe; weights, loss and evaluation are fp32.

    Raises:
        Interrupted: SIGINT or SIGTERM; a checkpoint holds everything up to the last whole batch.
        QuoremError: a loss that is no number any more.
    """
    tables = model.table_parameters()
    held = {id(parameter) for parameter in tables}
    optimizer = make_optimizer(config, tables, [each for each in model.parameters() if id(each) not in held])
    model.penalise = config.l2 > 0 and config.l2_rows == "batch"
    torch.manual_seed(config.seed)
    progress, best = Progress(lr=config.lr), dict[str, Tensor]()
    if place.resume:
        progress, best = load_checkpoint(place.directory, model, optimizer, place.identity)
        watcher.resumed(progress)
    batches = batches_of(len(train), config.batch)
    mixed = torch.autocast(train.ids.device.type, torch.bfloat16, enabled=config.precision == "bf16")
    glance = min(LONGEST_BLIND, -(-batches // LOOKS))
    with stop_signals() as stopping:
        while progress.epoch < config.epochs and progress.stale < config.patience:
            watcher.epoch(progress.epoch + 1, batches, progress.batch)
            order = shuffled(len(train), config.seed, progress.epoch).to(train.labels.device)
            model.train()
            looked, total = progress.batch, torch.tensor(progress.loss_sum, device=train.labels.device)
            for number in range(progress.batch, batches):
                chosen = batch_of(order, number, config.batch)
                with mixed:
                    logits, norm = model(train.ids[chosen], train.numbers[chosen])
                weight = None if train.weights is None else train.weights[chosen]
                loss = binary_cross_entropy_with_logits(logits, train.labels[chosen], weight)
                optimizer.zero_grad()
                (loss + config.l2 * norm if model.penalise else loss).backward()
                optimizer.step()
                total += loss.detach()
                progress.batch = number + 1
                stop = stopping()
                if progress.batch - looked == glance or progress.batch == batches or stop:
                    progress.loss_sum = total.item()
                    rows = (number - looked) * config.batch + len(chosen)
                    watcher.step(progress.batch - looked, rows, progress.loss_sum / progress.batch)
                    looked = progress.batch
                    if not np.isfinite(progress.loss_sum):
                        raise no_number("loss", f"epoch {progress.epoch + 1}, batches up to {progress.batch}")
                if stop:
                    save_checkpoint(place.directory, model, optimizer, best, progress, place.identity)
                    raise Interrupted
            mean, lr = progress.loss_sum / batches, progress.lr
            metrics = evaluate_rows(model, valid)
            better = metrics["auc"] > progress.best_auc
            progress.epoch, progress.batch, progress.loss_sum = progress.epoch + 1, 0, 0.0
            if better:
                progress.best_auc, progress.best_epoch, progress.stale = metrics["auc"], progress.epoch, 0
                best = {name: value.detach().clone() for name, value in model.state_dict().items()}
            else:
                progress.stale += 1
                progress.lr *= config.lr_decay
                for group in optimizer.param_groups:
                    group["lr"] = progress.lr
            save_checkpoint(place.directory, model, optimizer, best, progress, place.identity)
            watcher.validated(progress.epoch, mean, metrics, lr, better)
    model.load_state_dict(best)
    return progress


def batches_of(rows: int, size: int) -> int:
    """How many batches rows make. A last one of one row joins that before it: batch normalisation needs a variance."""
    return max(1, -(-(rows - 1) // size))


def batch_of(order: Tensor, number: int, size: int) -> Tensor:
    """The rows of a batch, (B,), of those of an epoch in their order, (N,)."""
    end = len(order) if number == batches_of(len(order), size) - 1 else (number + 1) * size
    return order[number * size : end]


def shuffled(rows: int, seed: int, epoch: int) -> Tensor:
    """The order of the rows in an epoch, (N,) int64: a function of seed and epoch, so that a resumed run knows it."""
    return torch.randperm(rows, generator=generator_of(seed, epoch))


def generator_of(seed: int, number: int) -> torch.Generator:
    """A fresh generator on the CPU, whose draws are a function of both."""
    return torch.Generator().manual_seed((seed * MIXER + number) % 2**63)


@torch.no_grad()
def score_rows(model: Model, rows: Rows) -> Floats:
    """Logits of every row, (N,) float32, in evaluation mode."""
    model.eval()
    parts = [
        model(rows.ids[start : start + EVALUATION_BATCH], rows.numbers[start : start + EVALUATION_BATCH])[0].cpu()
        for start in range(0, len(rows), EVALUATION_BATCH)
    ]
    return torch.cat(parts).numpy()


def evaluate_rows(model: Model, rows: Rows) -> dict[str, float]:
    """All metrics of a model on some rows."""
    logits, weights = score_rows(model, rows), None if rows.weights is None else rows.weights.cpu().numpy()
    if not np.isfinite(logits).all():
        raise no_number("logit", f"{len(rows)} rows that are evaluated")
    return evaluate(logits, rows.labels.cpu().numpy(), weights, rows.groups)


def no_number(what: str, where: str) -> QuoremError:
    """The error of a loss or a logit that is not finite any more."""
    return QuoremError(
        f"every {what} is a finite number",
        found="one that is not",
        where=where,
        remedy="Lower train.lr and begin again in another directory",
    )


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a flag, looked at between batches; a second one ends the run at once."""
    asked, before = list[int](), dict[int, Any]()

    def ask(number: int, _frame: object) -> None:
        asked.append(number)
        restore()

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    for kind in (signal.SIGINT, signal.SIGTERM):
        before[kind] = signal.signal(kind, ask)
    try:
        yield lambda: bool(asked)
    finally:
        restore()
