"""Learning: a supernet with what moves its weights, its choice and the price of bytes: all that a checkpoint keeps."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from ..checkpoint import part, prefixed
from ..features import Rows
from ..loop import Place
from ..optimizer import NEVER, load_state_tensors, make_optimizer, sparse_from, state_tensors
from ..recipe import Recipe
from ..search import saved
from ..search.loop import Validation
from ..tables import Tables
from .drawn import Drawn
from .schedule import Step
from .supernet import Supernet

DRAWS = 2  # of a step: one for the choice, one for the weights


class Learning:
    """What learns, and on which rows."""

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
        """The choice learns from the next batch of validation rows and from what bytes cost; then the price moves."""
        choice = self.net.choice
        drawn = choice.draw(self.training.seed, DRAWS * step.number, step.tau, learns=True)
        loss, _ = self.net.loss(self.valid, self.validation.next(), drawn, self.valid.labels, mixed=self.mixed)
        self.valid_loss = loss.detach()
        logits = list(choice.logits.parameters())
        for each, gradient in zip(logits, torch.autograd.grad(loss + choice.cost(budget), logits), strict=True):
            each.grad = gradient
        self.learner.step()
        choice.raise_price(budget, self.config.price)

    @torch.no_grad()
    def draw(self, step: Step) -> Drawn:
        """The options that the weights learn under in a step; in the warm-up the richest."""
        if step.phase is None:
            return self.net.choice.rich()
        return self.net.choice.draw(self.training.seed, DRAWS * step.number + 1, step.tau, learns=False)

    def train(self, chosen: Tensor, drawn: Drawn) -> Tensor:
        """The weights learn from a batch of training rows under what was drawn; the mean loss."""
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

    def pace(self, lr: float) -> None:
        """Set the learning rate of the weights."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def snapshot(self) -> dict[str, Tensor]:
        """The weights and their optimizer's state as they are, copied."""
        whole = prefixed("model", self.net.model.state_dict()) | prefixed("optimizer", state_tensors(self.optimizer))
        return {name: tensor.clone() for name, tensor in whole.items()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Put a snapshot back, which stays as it is."""
        copied = {name: tensor.clone() for name, tensor in snapshot.items()}
        self.net.model.load_state_dict(part(copied, "model"))
        load_state_tensors(self.optimizer, part(copied, "optimizer"), self.training.lr)

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
            "valid_loss": self.checked(),
            "probabilities": choice.told(),
        }

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
