"""The loop of a budget search: weights learn from training batches, the choice from validation batches and from bytes.

Each batch sees one option of every field, so that a step costs about what one of the retraining does.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from ..batches import batch_of, batches_of, shuffled
from ..checkpoint import checkpoint_tensors, is_finite, part, prefixed, save_tensors
from ..features import Rows
from ..loop import Interrupted, Place, no_number, stop_signals
from ..optimizer import NEVER, load_state_tensors, make_optimizer, sparse_from, state_tensors
from ..recipe import Recipe
from ..search.loop import RECORDS, Validation, Watcher
from ..tables import Tables
from .schedule import Step, epochs_of, steps
from .supernet import Supernet

DRAWS = 2  # of a step: one for the choice, one for the weights


def learn(
    net: Supernet,
    train: Rows,
    valid: Rows,
    recipe: Recipe,
    budgets: Sequence[int],
    place: Place,
    watcher: Watcher,
    reached: Callable[[int], None],
    taught: Tensor | None = None,
) -> None:
    """Search: `reached` is told the number of each budget once the choice has learnt it.

    With a teacher's logits of the training rows as `taught`, (N,), weights learn from that too: `distil` of TrainConfig.

    Raises:
        Interrupted: SIGINT or SIGTERM; a checkpoint holds everything up to the last whole batch.
        QuoremError: a loss or a weight that is no number any more; the last good checkpoint stays.
    """
    config, training, device = recipe.search, recipe.train, train.labels.device
    learning, start = _Learning(net, train, valid, recipe, taught), 0
    net.model.train()
    net.choice.begin(budgets[0])
    torch.manual_seed(training.seed)
    if place.resume:
        start = learning.load(place)
        watcher.resumed(start)
    batches = batches_of(len(train), training.batch)
    epochs = config.warmup + sum(epochs_of(config, budgets))
    every = max(1, epochs * batches // RECORDS)
    order, total, looked, rows = torch.empty(0, dtype=torch.int64), torch.zeros((), device=device), 0, 0
    with stop_signals() as stopping:
        for step in steps(config, budgets, batches, start):
            if step.batch == 0 or step.number == start:
                order = shuffled(len(train), training.seed, step.epoch).to(device)
                watcher.epoch(step.epoch + 1, batches, step.batch, warmup=step.phase is None)
            if step.chooses and step.phase is not None:
                learning.choose(step, budgets[step.phase])
            chosen = batch_of(order, step.batch, training.batch)
            total, looked, rows = total + learning.train(step, chosen), looked + 1, rows + len(chosen)
            stop, last, done = stopping(), step.batch == batches - 1, step.number + 1
            where = f"search, epoch {step.epoch + 1}, batches up to {step.batch + 1}"
            if done % every == 0 or last or stop:
                facts = learning.facts(step, float(total) / looked)
                if not all(math.isfinite(facts[name] or 0.0) for name in ("train_loss", "valid_loss", "entropy")):
                    raise no_number("loss", where)
                watcher.record(facts, looked, rows)
                total, looked, rows = torch.zeros((), device=device), 0, 0
            if step.last and step.phase is not None:
                reached(step.phase)
            if last or stop:
                learning.save(place, done, where)
            if stop:
                raise Interrupted(stop)


class _Learning:
    """A supernet with what moves its weights and its choice: all that a checkpoint keeps."""

    def __init__(self, net: Supernet, train: Rows, valid: Rows, recipe: Recipe, taught: Tensor | None) -> None:
        self.net, self.rows, self.config, self.training = net, train, recipe.search, recipe.train
        self.labels = train.labels
        if taught is not None:
            self.labels = train.labels.lerp(taught.sigmoid(), recipe.train.distil)
        self.valid, self.mixed = valid, recipe.train.precision == "bf16"
        whole = self.training.l2 > 0 and self.training.l2_rows == "all"
        self.decay = self.training.l2 if whole else 0.0  # by hand: of the options that were drawn alone
        own = self.training.model_copy(update={"l2": 0.0}) if whole else self.training
        least, tables = NEVER if whole else sparse_from(own), net.model.table_parameters()
        held = {id(each) for each in tables}
        others = [each for each in net.model.parameters() if id(each) not in held and each.requires_grad]
        self.optimizer = make_optimizer(own.model_copy(update={"sparse_rows": least}), tables, others)
        self.learner = Adam(net.choice.logits.parameters(), lr=self.config.lr)
        net.model.penalise = own.l2 > 0 and own.l2_rows == "batch"
        net.model.sparsify(least)
        self.validation = Validation(len(valid), self.training.batch, self.training.seed, valid.labels.device)
        self.valid_loss: Tensor | None = None

    def choose(self, step: Step, budget: int) -> None:
        """The choice learns from the next batch of validation rows and from what bytes cost, and the price from both."""
        choice = self.net.choice
        drawn = choice.draw(self.training.seed, DRAWS * step.number, step.tau, learns=True)
        loss, _ = self.net.loss(self.valid, self.validation.next(), drawn, self.valid.labels, mixed=self.mixed)
        self.valid_loss = loss.detach()
        logits = list(choice.logits.parameters())
        for each, gradient in zip(logits, torch.autograd.grad(loss + choice.cost(budget), logits), strict=True):
            each.grad = gradient
        self.learner.step()
        choice.raise_price(budget, self.config.price)

    def train(self, step: Step, chosen: Tensor) -> Tensor:
        """The weights learn from a batch of training rows; the mean loss."""
        with torch.no_grad():
            drawn = self.net.choice.draw(self.training.seed, DRAWS * step.number + 1, step.tau, learns=False)
        loss, norm = self.net.loss(self.rows, chosen, drawn, self.labels, mixed=self.mixed)
        self.optimizer.zero_grad()
        (loss + self.training.l2 * norm if self.net.model.penalise else loss).backward()
        if self.decay:
            self._decay(drawn.schemes)
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def _decay(self, schemes: Sequence[int]) -> None:
        """L2 of whole tables, of those that were drawn: Adam would pull the others to zero at its full rate."""
        for rung, tables in enumerate(self.net.tables.rungs):
            assert isinstance(tables, Tables)
            for group in tables.packed():
                for partition in group.packed():
                    if partition.weight.grad is None:
                        continue
                    for position, (field, table) in enumerate(partition.tables()):
                        if schemes[self.net.choice.features.index(field.feature)] == rung:
                            own = slice(partition.starts[position], partition.starts[position + 1])
                            partition.weight.grad[own].add_(table, alpha=self.decay)
        first = self.net.model.first_order
        for group in first.packed() if first is not None else ():
            for weight in group.decaying():
                if weight.grad is not None:
                    weight.grad.add_(weight, alpha=self.decay)

    def facts(self, step: Step, loss: float) -> dict[str, Any]:
        """A line of history.jsonl."""
        choice = self.net.choice
        return {
            "step": step.number + 1,
            "tau": step.tau,
            "entropy": choice.entropy(),
            "bytes": choice.bytes_expected(),
            "price": float(choice.price),
            "train_loss": loss,
            "valid_loss": None if self.valid_loss is None else float(self.valid_loss),
            "probabilities": choice.told(),
        }

    def save(self, place: Place, done: int, where: str) -> None:
        """Write a checkpoint of so many steps.

        Raises:
            QuoremError: a weight that is no number; the checkpoint that is there stays.
        """
        whole = prefixed("model", self.net.model.state_dict()) | prefixed("choice", self.net.choice.state_dict())
        whole |= prefixed("optimizer", state_tensors(self.optimizer))
        whole |= prefixed("learner", state_tensors(self.learner))
        if not all(map(is_finite, whole.values())):
            raise no_number("weight", where)
        valid_loss = None if self.valid_loss is None else float(self.valid_loss)
        progress = {"step": done, "validation": self.validation.number, "valid_loss": valid_loss}
        save_tensors(place.directory, whole, progress, place.identity)

    def load(self, place: Place) -> int:
        """Put a checkpoint back; how many steps are done."""
        with checkpoint_tensors(place.directory, place.identity) as (tensors, told):
            self.net.model.load_state_dict(part(tensors, "model"))
            self.net.choice.load_state_dict(part(tensors, "choice"))
            load_state_tensors(self.optimizer, part(tensors, "optimizer"), self.training.lr)
            load_state_tensors(self.learner, part(tensors, "learner"), self.config.lr)
            self.validation.number = told["validation"]
            if told["valid_loss"] is not None:
                self.valid_loss = torch.tensor(told["valid_loss"])
            return told["step"]
