"""The optimizer of a recipe: fused where torch has it, by rows for large tables, weight decay where it is L2 of all."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.optim import Adagrad, Adam, Optimizer

from .recipe import TrainConfig
from .row_steps import RowSteps
from .rowwise import RowwiseAdagrad

NEVER = 2**63  # no table has as many rows


class Parts(Optimizer):
    """Several optimizers that step together, each of its own weights."""

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # no closure
        """One step of each."""
        assert closure is None
        for part in self.parts:
            part.step()

    def share_groups(self) -> None:
        """Take the groups of the parts anew, which replace theirs when state is put back."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def sparse_from(config: TrainConfig) -> int:
    """The rows from which on a packed table's gradient is sparse; L2 over whole tables moves every row, so never."""
    return NEVER if config.l2 > 0 and config.l2_rows == "all" else config.sparse_rows


def make_optimizer(config: TrainConfig, tables: Iterable[nn.Parameter], others: Iterable[nn.Parameter]) -> Optimizer:
    """Adam, AMSGrad, Adagrad or row-wise Adagrad over tables and all other weights.

    Tables of `sparse_from` rows or more are stepped row by row (`Model.sparsify` makes their gradients so); there L2 of
    a batch's rows is the optimizer's. Elsewhere weight decay adds l2 x weight to the gradient: that of half the squared
    norm of the whole tables.
    """
    held, least = list(tables), sparse_from(config)
    dense = _dense(config, [each for each in held if len(each) < least], others)
    large = [each for each in held if len(each) >= least]
    return Parts(dense, RowSteps(large, config.optimizer, config.lr, config.l2)) if large else dense


def _dense(config: TrainConfig, tables: list[nn.Parameter], others: Iterable[nn.Parameter]) -> Optimizer:
    decay = config.l2 if config.l2_rows == "all" else 0.0
    groups = [{"params": tables, "weight_decay": decay}, {"params": list(others)}]
    if config.optimizer == "rowwise_adagrad":
        return RowwiseAdagrad([{**groups[0], "rowwise": True}, groups[1]], lr=config.lr)
    if config.optimizer == "adagrad":
        return Adagrad(groups, lr=config.lr)
    return Adam(groups, lr=config.lr, amsgrad=config.optimizer == "amsgrad", fused=True)


def state_tensors(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state, flat, for a checkpoint: `<parameter>.<name>` -> tensor."""
    return {
        f"{first + index}.{name}": value
        for part, first in _parts(optimizer)
        for index, held in part.state_dict()["state"].items()
        for name, value in held.items()
    }


def load_state_tensors(optimizer: Optimizer, tensors: dict[str, torch.Tensor], lr: float) -> None:
    """Put a checkpoint's state and learning rate back."""
    for part, first in _parts(optimizer):
        whole = part.state_dict()
        count, whole["state"] = _count(part), {}
        for name, value in tensors.items():
            index, _, key = name.partition(".")
            if 0 <= int(index) - first < count:
                whole["state"].setdefault(int(index) - first, {})[key] = value
        for group in whole["param_groups"]:
            group["lr"] = lr
        part.load_state_dict(whole)
    if isinstance(optimizer, Parts):
        optimizer.share_groups()


def _parts(optimizer: Optimizer) -> Iterator[tuple[Optimizer, int]]:
    """Each part with the number of its first parameter among all."""
    first = 0
    for part in optimizer.parts if isinstance(optimizer, Parts) else (optimizer,):
        yield part, first
        first += _count(part)


def _count(optimizer: Optimizer) -> int:
    return sum(len(group["params"]) for group in optimizer.param_groups)
