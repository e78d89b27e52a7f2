"""The search loop, from top to bottom: weights learn from training batches, the choice from validation batches.

Source: Zhao et al., WWW'21, section 2.4 and algorithm 1: first order, that is, the weights are taken as they are when
the probabilities learn.
"""

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Adam

from ..batches import batch_of, batches_of, shuffled
from ..features import Rows
from ..loop import Interrupted, Place, no_number, stop_signals
from ..optimizer import make_optimizer, sparse_from
from ..recipe import Recipe
from . import saved
from .choice import Choice
from .schedule import Step, steps
from .supernet import Supernet

RECORDS = 200  # of the choice over the whole search, about
VALIDATION_SEED = 1  # validation rows are shuffled by another seed than training rows


class Watcher(Protocol):
    """Who is told how a search comes along."""

    def resumed(self, step: int) -> None:
        """The search goes on from here: what was told of later steps holds no more."""
        ...

    def epoch(self, number: int, batches: int, done: int, *, warmup: bool) -> None:
        """An epoch begins, `done` of its batches behind it."""
        ...

    def record(self, facts: dict[str, Any], batches: int, rows: int) -> None:
        """So many batches and rows more are done, and this is how the choice stands (history.jsonl)."""
        ...


def learn_choice(net: Supernet, train: Rows, valid: Rows, recipe: Recipe, place: Place, watcher: Watcher) -> None:
    """Search: when it returns, the choice holds what was learnt.

    Raises:
        Interrupted: SIGINT or SIGTERM; a checkpoint holds everything up to the last whole batch.
        QuoremError: a loss or a weight that is no number any more; the last good checkpoint stays.
    """
    config, training, device = recipe.search, recipe.train, train.labels.device
    learning, start = _Learning(net, train, valid, recipe), 0
    net.model.train()
    torch.manual_seed(training.seed)
    if place.resume:
        start = learning.load(place)
        watcher.resumed(start)
    batches = batches_of(len(train), training.batch)
    every = max(1, (config.warmup + config.epochs) * batches // RECORDS)
    order, total, looked, rows = torch.empty(0, dtype=torch.int64), torch.zeros((), device=device), 0, 0
    with stop_signals() as stopping:
        for step in steps(config, batches, start):
            if step.batch == 0 or step.number == start:
                order = shuffled(len(train), training.seed, step.epoch).to(device)
                watcher.epoch(step.epoch + 1, batches, step.batch, warmup=step.tau is None)
            if step.chooses:
                learning.choose(step)
            chosen = batch_of(order, step.batch, training.batch)
            total, looked, rows = total + learning.train(step, chosen), looked + 1, rows + len(chosen)
            stop, last, done = stopping(), step.batch == batches - 1, step.number + 1
            where = f"search, epoch {step.epoch + 1}, batches up to {step.batch + 1}"
            if done % every == 0 or last or stop:
                facts = _facts(net.choice, step, float(total) / looked, learning.checked())
                if not all(math.isfinite(facts[name] or 0.0) for name in ("train_loss", "valid_loss", "entropy")):
                    raise no_number("loss", where)
                watcher.record(facts, looked, rows)
                total, looked, rows = torch.zeros((), device=device), 0, 0
            if last or stop:
                learning.save(place, done, where)
            if stop:
                raise Interrupted(stop)


class _Learning:
    """A supernet with what moves its weights and its choice: all that a checkpoint keeps."""

    def __init__(self, net: Supernet, train: Rows, valid: Rows, recipe: Recipe) -> None:
        self.net, self.rows, self.valid = net, train, valid
        self.config, self.training = recipe.search, recipe.train
        self.mixed = self.training.precision == "bf16"
        tables = net.model.table_parameters()
        held = {id(each) for each in tables}
        others = [each for each in net.model.parameters() if id(each) not in held and each.requires_grad]
        self.optimizer = make_optimizer(self.training, tables, others)
        self.learner = Adam(net.choice.parameters(), lr=self.config.lr)
        net.model.penalise = self.training.l2 > 0 and self.training.l2_rows == "batch"
        net.model.sparsify(sparse_from(self.training))
        self.validation = Validation(len(valid), self.training.batch, self.training.seed, valid.labels.device)
        self.valid_loss: Tensor | None = None

    def choose(self, step: Step) -> None:
        """The choice learns from the next batch of validation rows."""
        logits = self.net.choice.logits
        aim, _ = self.net.loss(self.valid, self.validation.next(), self._weights(step, 0), mixed=self.mixed)
        self.valid_loss = aim.detach()
        logits.grad = torch.autograd.grad(self._priced(aim), logits)[0]
        self.learner.step()

    def train(self, step: Step, chosen: Tensor) -> Tensor:
        """The weights learn from a batch of training rows, and so does the choice of a joint search; the mean loss."""
        weights, joint = self._weights(step, 1), self.config.update == "joint" and step.tau is not None
        loss, norm = self.net.loss(self.rows, chosen, weights if joint else weights.detach(), mixed=self.mixed)
        aim = loss + self.training.l2 * norm if self.net.model.penalise else loss
        self.optimizer.zero_grad()
        self.learner.zero_grad()
        (self._priced(aim) if joint else aim).backward()
        self.optimizer.step()
        if joint:
            self.learner.step()
        return loss.detach()

    def _weights(self, step: Step, draw: int) -> Tensor:
        """p, (F, N), of a batch of validation (draw 0) or training (1)."""
        choice = self.net.choice
        if step.tau is None:
            return choice.equal()
        if self.config.choice == "soft":
            return choice.probabilities()
        return choice.gumbel(step.tau, self.training.seed, 2 * step.number + draw)

    def _priced(self, aim: Tensor) -> Tensor:
        """A loss that the choice learns from, and beside it what its parameters cost."""
        return aim + self.config.penalty * self.net.choice.share() if self.config.penalty else aim

    def checked(self) -> float | None:
        """The loss of the last batch of validation rows; None before there was one."""
        return None if self.valid_loss is None else float(self.valid_loss)

    def save(self, place: Place, done: int, where: str) -> None:
        """Write a checkpoint of so many steps.

        Raises:
            QuoremError: a weight that is no number; the checkpoint that is there stays.
        """
        progress = {"step": done, "validation": self.validation.number, "valid_loss": self.checked()}
        optimizers = {"optimizer": self.optimizer, "learner": self.learner}
        saved.save(place, self._modules(), optimizers, progress, where)

    def load(self, place: Place) -> int:
        """Put a checkpoint back; how many steps are done."""
        rates = {"optimizer": (self.optimizer, self.training.lr), "learner": (self.learner, self.config.lr)}
        told = saved.load(place, self._modules(), rates)
        self.validation.number = told["validation"]
        if told["valid_loss"] is not None:
            self.valid_loss = torch.tensor(told["valid_loss"])
        return told["step"]

    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.net.model, "choice": self.net.choice}


def _facts(choice: Choice, step: Step, loss: float, valid_loss: float | None) -> dict[str, Any]:
    """A line of history.jsonl; tau is that of the first batch after the warm-up while it lasts."""
    return {
        "step": step.number + 1,
        "tau": 1.0 if step.tau is None else step.tau,
        "entropy": choice.entropy(),
        "parameters": choice.parameters_expected(),
        "train_loss": loss,
        "valid_loss": valid_loss,
        "probabilities": choice.told(),
    }


class Validation:
    """Batches of validation rows without end, shuffled anew each time round."""

    def __init__(self, rows: int, size: int, seed: int, device: torch.device) -> None:
        self.rows, self.size, self.seed, self.device, self.number = rows, size, seed + VALIDATION_SEED, device, 0
        self.batches, self.order, self.round = batches_of(rows, size), torch.empty(0), -1

    def next(self) -> Tensor:
        """The numbers of the next batch's rows, (B,) int64."""
        around, batch = divmod(self.number, self.batches)
        if around != self.round:
            self.order, self.round = shuffled(self.rows, self.seed, around).to(self.device), around
        self.number += 1
        return batch_of(self.order, batch, self.size)
