"""The search loop, from top to bottom: weights learn from training batches, the choice from validation batches.

Source: Zhao et al., WWW'21, section 2.4 and algorithm 1: first order, that is, the weights are taken as they are when
the probabilities learn.
"""

import math
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Adam

from ..checkpoint import checkpoint_tensors, part, prefixed, save_tensors
from ..features import Rows
from ..loop import Interrupted, Place, batches_of, no_number, shuffled, stop_signals
from ..optimizer import load_state_tensors, make_optimizer, state_tensors
from ..recipe import Recipe
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
    config, training, choice, device = recipe.search, recipe.train, net.choice, train.labels.device
    tables = net.model.table_parameters()
    held = {id(each) for each in tables}
    others = [each for each in net.model.parameters() if id(each) not in held and each.requires_grad]
    optimizer = make_optimizer(training, tables, others)
    learner = Adam(choice.parameters(), lr=config.lr)
    net.model.penalise = training.l2 > 0 and training.l2_rows == "batch"
    net.model.train()
    torch.manual_seed(training.seed)
    batches, mixed = batches_of(len(train), training.batch), training.precision == "bf16"
    start, total, looked = 0, torch.zeros((), device=device), 0
    validation = _Validation(len(valid), training.batch, training.seed)
    valid_loss: Tensor | None = None
    if place.resume:
        with checkpoint_tensors(place.directory, place.identity) as (tensors, told):
            net.model.load_state_dict(part(tensors, "model"))
            choice.load_state_dict(part(tensors, "choice"))
            load_state_tensors(optimizer, part(tensors, "optimizer"), training.lr)
            load_state_tensors(learner, part(tensors, "learner"), config.lr)
            start, validation.number = told["step"], told["validation"]
            if told["valid_loss"] is not None:
                valid_loss = torch.tensor(told["valid_loss"])
        watcher.resumed(start)

    def save(done: int, where: str) -> None:
        whole = prefixed("model", net.model.state_dict()) | prefixed("choice", choice.state_dict())
        whole |= prefixed("optimizer", state_tensors(optimizer)) | prefixed("learner", state_tensors(learner))
        if not all(each.isfinite().all() for each in whole.values()):
            raise no_number("weight", where)
        checked = None if valid_loss is None else float(valid_loss)
        progress = {"step": done, "validation": validation.number, "valid_loss": checked}
        save_tensors(place.directory, whole, progress, place.identity)

    every = max(1, (config.warmup + config.epochs) * batches // RECORDS)
    order = torch.empty(0, dtype=torch.int64)
    with stop_signals() as stopping:
        for step in steps(config, batches, start):
            if step.batch == 0 or step.number == start:
                order = shuffled(len(train), training.seed, step.epoch).to(device)
                warmup = step.tau is None
                watcher.epoch(step.epoch + 1, batches, step.batch, warmup=warmup)
            if step.chooses:
                noisy = _weights(recipe, choice, step, 0)
                aim, _ = net.loss(valid, validation.next().to(device), noisy, mixed=mixed)
                valid_loss = aim.detach()
                if config.penalty:
                    aim = aim + config.penalty * choice.share()
                choice.logits.grad = torch.autograd.grad(aim, choice.logits)[0]
                learner.step()
            end = len(train) if step.batch == batches - 1 else (step.batch + 1) * training.batch
            weights = _weights(recipe, choice, step, 1)
            joint = config.update == "joint" and step.tau is not None
            loss, norm = net.loss(
                train, order[step.batch * training.batch : end], weights if joint else weights.detach(), mixed=mixed
            )
            aim = loss + training.l2 * norm if net.model.penalise else loss
            if joint and config.penalty:
                aim = aim + config.penalty * choice.share()
            optimizer.zero_grad()
            learner.zero_grad()
            aim.backward()
            optimizer.step()
            if joint:
                learner.step()
            total, looked, done = total + loss.detach(), looked + 1, step.number + 1
            stop, last = stopping(), step.batch == batches - 1
            where = f"search, epoch {step.epoch + 1}, batches up to {step.batch + 1}"
            if done % every == 0 or last or stop:
                checked = None if valid_loss is None else float(valid_loss)
                facts = _facts(choice, done, step, float(total) / looked, checked)
                if not all(math.isfinite(facts[name] or 0.0) for name in ("train_loss", "valid_loss", "entropy")):
                    raise no_number("loss", where)
                watcher.record(facts, looked, looked * training.batch)
                total, looked = torch.zeros((), device=device), 0
            if last or stop:
                save(done, where)
            if stop:
                raise Interrupted


def _weights(recipe: Recipe, choice: Choice, step: Step, draw: int) -> Tensor:
    """p, (F, N), of a batch of validation (draw 0) or training (1)."""
    if step.tau is None:
        return choice.equal()
    if recipe.search.choice == "soft":
        return choice.probabilities()
    return choice.gumbel(step.tau, recipe.train.seed, 2 * step.number + draw)


def _facts(choice: Choice, done: int, step: Step, loss: float, valid_loss: float | None) -> dict[str, Any]:
    """A line of history.jsonl; tau is that of the first batch after the warm-up while it lasts."""
    return {
        "step": done,
        "tau": 1.0 if step.tau is None else step.tau,
        "entropy": choice.entropy(),
        "parameters": choice.parameters_expected(),
        "train_loss": loss,
        "valid_loss": valid_loss,
        "probabilities": choice.told(),
    }


class _Validation:
    """Batches of validation rows without end, shuffled anew each time round."""

    def __init__(self, rows: int, size: int, seed: int) -> None:
        self.rows, self.size, self.seed, self.number = rows, size, seed + VALIDATION_SEED, 0
        self.batches, self.order, self.round = batches_of(rows, size), torch.empty(0), -1

    def next(self) -> Tensor:
        """The numbers of the next batch's rows."""
        around, batch = divmod(self.number, self.batches)
        if around != self.round:
            self.order, self.round = shuffled(self.rows, self.seed, around), around
        self.number += 1
        end = self.rows if batch == self.batches - 1 else (batch + 1) * self.size
        return self.order[batch * self.size : end]
