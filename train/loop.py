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
from .batches import WHOLE, Batch, Source, batches_of
from .checkpoint import Progress
from .distributed import add_up, add_up_gradients, check_alike, rank, ranks, refuse, seed_rank, spread
from .features import Rows
from .keeper import Keeper
from .memory import keep_freed
from .model import Model
from .optimizer import load_state_tensors, make_optimizer, sparse_from
from .recipe import TrainConfig

EVALUATION_BATCH = 8192
LOOKS = 20  # at the loss in an epoch: few, since each waits for the device,
LONGEST_BLIND = 64  # but one in so many steps at least,
LONGEST_DEAF = 16  # or in so many where ranks agree then whether to stop
ROWS_TOLD = 8  # of a batch, in a message


class Interrupted(Exception):
    """The user asked the run to stop; it is saved. status: the exit code that says so, 128 and the signal's number."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.status = 128 + (number or signal.SIGINT)


class Watcher(Protocol):
    """Who is told how a run comes along."""

    def resumed(self, progress: Progress) -> None:
        """The run goes on from here."""
        ...

    def epoch(self, number: int, batches: int, done: int, rows: int) -> None:
        """An epoch begins, `done` of its batches behind it, and so many rows of all epochs."""
        ...

    def seen(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> None:
        """A batch, (B,) each, scored as it was learned from; of every step, so nothing here may wait for the device."""
        ...

    def step(self, batches: int, rows: int, loss: float, lr: float) -> None:
        """So many batches and rows more are done; mean loss of the epoch so far."""
        ...

    def warned(self, told: str) -> None:
        """Something went wrong, and the run goes on."""
        ...

    def validated(self, epoch: int, loss: float, metrics: dict[str, float], lr: float, best: bool) -> None:
        """An epoch ended with these metrics on the validation rows."""
        ...


class Unwatched:
    """Tells nobody: what a rank that writes nothing is watched by."""

    def taught(self, batches: int, done: int) -> None:
        """Nothing."""

    def resumed(self, progress: Progress) -> None:
        """Nothing."""

    def epoch(self, number: int, batches: int, done: int, rows: int) -> None:
        """Nothing."""

    def seen(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> None:
        """Nothing."""

    def step(self, batches: int, rows: int, loss: float, lr: float) -> None:
        """Nothing."""

    def warned(self, told: str) -> None:
        """Nothing."""

    def validated(self, epoch: int, loss: float, metrics: dict[str, float], lr: float, best: bool) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Place:
    """Where checkpoints are kept, what they are checkpoints of, and whether to go on from the one that is there.

    state: of the optimizer, as state_tensors gives it, to begin with; None for a fresh one.
    """

    directory: Path
    identity: str
    resume: bool
    state: dict[str, Tensor] | None = None


def fit(
    model: Model,
    train: Source,
    valid: Rows,
    config: TrainConfig,
    place: Place,
    watcher: Watcher,
    taught: Tensor | None = None,
) -> Progress:
    """Train until the validation AUC has not risen for `patience` epochs; leave the best epoch's weights in the model.

    With a teacher's logits of the training rows as `taught`, (N,) float32 where the rows are, that is learned from too:
    see `distil` of TrainConfig; the loss that is told is that of both.

    With precision bf16 the layers run in bfloat16 where torch has it safe; weights, loss and evaluation are fp32.
    On several ranks (distributed.py) each takes its part of every batch, and all end with the same weights.

    Raises:
        Interrupted: SIGINT or SIGTERM; a checkpoint holds everything up to the last whole batch.
        QuoremError: a loss that is no number any more; or stopped, and the disk is full.
        Unavailable: another rank is gone. Elsewhere: it was refused.
    """
    keep_freed()
    tables = model.table_parameters()
    held = {id(parameter) for parameter in tables}
    optimizer = make_optimizer(config, tables, [each for each in model.parameters() if id(each) not in held])
    model.penalise = config.l2 > 0 and config.l2_rows == "batch"
    model.sparsify(sparse_from(config))
    check_alike(place.identity)
    seed_rank(config.seed)
    progress, best = Progress(lr=config.lr), dict[str, Tensor]()
    keeper = Keeper(place.directory, place.identity, config.checkpoint_minutes, watcher.warned)
    if place.state is not None:
        load_state_tensors(optimizer, place.state, config.lr)
    if place.resume:
        progress, best = keeper.load(model, optimizer)
        watcher.resumed(progress)
    else:
        spread(model.state_dict())
    batches, part = batches_of(len(train), config.batch), (rank(), ranks())
    mixed = torch.autocast(train.device.type, torch.bfloat16, enabled=config.precision == "bf16")
    glance = min(LONGEST_BLIND if ranks() == 1 else LONGEST_DEAF, -(-batches // LOOKS))
    losses = torch.zeros(glance, device=train.device, dtype=next(model.parameters()).dtype)
    with stop_signals() as stopping, keeper.telling():
        while progress.epoch < config.epochs and progress.stale < config.patience:
            behind = len(train) if progress.batch == batches else progress.batch * config.batch
            watcher.epoch(progress.epoch + 1, batches, progress.batch, progress.epoch * len(train) + behind)
            model.train()
            looked, rows = progress.batch, 0
            for batch in train.batches(config.seed, progress.epoch, config.batch, progress.batch, part):
                with mixed:
                    logits, norm = model(batch.ids, batch.numbers)
                loss = _loss(logits, batch, _softened(batch, taught, config.distil))
                watcher.seen(logits.detach(), batch.labels, batch.weights)
                optimizer.zero_grad()
                (loss + config.l2 * norm if model.penalise else loss).backward()
                add_up_gradients(model.parameters())
                optimizer.step()
                losses[progress.batch - looked] = loss.detach()
                progress.batch, rows = progress.batch + 1, rows + batch.total
                count = progress.batch - looked
                hurry = part == WHOLE and (stopping() or keeper.due())  # ranks agree when all of them look
                if not (count == glance or progress.batch == batches or hurry):
                    continue
                found, stop, due = _look(losses[:count], stopping() > 0, keeper.due())
                if not bool(found.isfinite().all()):
                    first = looked + int(found.isfinite().int().argmin())
                    refuse(keeper.broken("loss", *_culprits(train, config, progress, batches, first)))
                progress.loss_sum = _total(progress.loss_sum, found)
                watcher.step(count, rows, progress.loss_sum / progress.batch, progress.lr)
                looked, rows = progress.batch, 0
                if stop or (due and progress.batch < batches):
                    best = keeper.save(model, optimizer, best, progress, leaving=stop)
                if stop:
                    raise Interrupted(stopping())
            mean, lr = progress.loss_sum / batches, progress.lr
            metrics = evaluate_rows(model, valid)
            better = metrics["auc"] > progress.best_auc
            progress.epoch, progress.batch, progress.loss_sum = progress.epoch + 1, 0, 0.0
            if better:
                progress.best_auc, progress.best_epoch, progress.stale = metrics["auc"], progress.epoch, 0
                best = model.state_dict()  # no copy: it is written before the next step
            else:
                progress.stale += 1
                progress.lr *= config.lr_decay
                for group in optimizer.param_groups:
                    group["lr"] = progress.lr
            watcher.validated(progress.epoch, mean, metrics, lr, better)
            best = keeper.save(model, optimizer, best, progress, leaving=False)
    if rank() == 0:
        model.load_state_dict(best)
    spread(model.state_dict())
    return progress


def _softened(batch: Batch, taught: Tensor | None, share: float) -> Tensor:
    """Labels, (B,), moved by a share to the teacher's probabilities: cross entropy is linear in its targets."""
    return batch.labels if taught is None else batch.labels.lerp(taught[batch.rows].sigmoid(), share)


def _loss(logits: Tensor, batch: Batch, labels: Tensor) -> Tensor:
    """The mean loss of a batch, or this rank's part of it: those of all ranks add up to the mean."""
    if ranks() == 1:
        return binary_cross_entropy_with_logits(logits, labels, batch.weights)
    return binary_cross_entropy_with_logits(logits, labels, batch.weights, reduction="sum") / batch.total


def _look(losses: Tensor, stop: bool, due: bool) -> tuple[Tensor, bool, bool]:
    """Mean losses of the last batches, (count,), on the CPU; and whether any rank was asked to stop, or has one due."""
    seen = add_up(torch.cat([losses, losses.new_tensor([stop, due])])).cpu()
    return seen[:-2], bool(seen[-2] > 0), bool(seen[-1] > 0)


def _total(before: float, losses: Tensor) -> float:
    """The sum of an epoch's losses, in their own precision and order: the same however often it is looked at."""
    total = torch.tensor(before, dtype=losses.dtype)
    for loss in losses:
        total += loss
    return total.item()


def _culprits(train: Source, config: TrainConfig, progress: Progress, batches: int, number: int) -> tuple[str, str]:
    """Where a loss is not finite, and what was found there: the step, and the batch's rows in the training data."""
    batch = next(train.batches(config.seed, progress.epoch, config.batch, number))
    step = progress.epoch * batches + number + 1
    where = f"epoch {progress.epoch + 1}, batch {number + 1} of {batches} (step {step}), {_told(batch.rows)}"
    strange = batch.numbers.isinf().any(1) | ~batch.labels.isfinite()
    if batch.weights is not None:
        strange |= ~batch.weights.isfinite()
    infinite = batch.rows[strange]
    return where, f"infinite values in {_told(infinite)}" if len(infinite) else "one that is not, of finite rows"


def _told(rows: Tensor) -> str:
    """Numbers of rows, (n,), the first few of them."""
    few = rows[:ROWS_TOLD].tolist()
    more = f" and {len(rows) - len(few)} more" if len(rows) > len(few) else ""
    return f"{'rows' if len(rows) > 1 else 'row'} {', '.join(map(str, few))}{more} of the training rows, from 0"


@torch.no_grad()
def score_rows(model: Model, rows: Rows, part: tuple[int, int] = WHOLE) -> Floats:
    """Logits of every row, (N,) float32, in evaluation mode.

    With a part (rank, ranks), each rank scores every so many batches, and all have all logits at the end.
    """
    model.eval()
    logits = torch.zeros(len(rows), device=rows.device)
    for start in range(part[0] * EVALUATION_BATCH, len(rows), part[1] * EVALUATION_BATCH):
        end = start + EVALUATION_BATCH
        logits[start:end] = model(rows.ids[start:end], rows.numbers[start:end])[0]
    return (logits if part == WHOLE else add_up(logits)).cpu().numpy()


def evaluate_rows(model: Model, rows: Rows) -> dict[str, float]:
    """All metrics of a model on some rows; ranks share the work."""
    logits = score_rows(model, rows, (rank(), ranks()))
    weights = None if rows.weights is None else rows.weights.cpu().numpy()
    if not np.isfinite(logits).all():
        refuse(no_number("logit", f"{len(rows)} rows that are evaluated"))
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
def stop_signals() -> Iterator[Callable[[], int]]:
    """Keep the number of the first SIGINT or SIGTERM, 0 before, to be looked at between batches; a second one kills."""
    asked, before = list[int](), dict[int, Any]()

    def ask(number: int, _frame: object) -> None:
        asked.append(number)
        if ranks() == 1:  # torchrun repeats what the terminal has sent
            restore()

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    for kind in (signal.SIGINT, signal.SIGTERM):
        before[kind] = signal.signal(kind, ask)
    try:
        yield lambda: asked[0] if asked else 0
    finally:
        restore()
