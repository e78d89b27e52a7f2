"""The optimizer of a recipe: fused where torch has a fused kernel, weight decay only where it is L2 on whole tables."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Adagrad, Adam, Optimizer

from .recipe import TrainConfig
from .rowwise import RowwiseAdagrad


def make_optimizer(config: TrainConfig, tables: Iterable[nn.Parameter], others: Iterable[nn.Parameter]) -> Optimizer:
    """Adam, AMSGrad, Adagrad or row-wise Adagrad over tables and all other weights.

    Weight decay adds l2 x weight to the gradient: the gradient of half the squared norm of the whole tables.
    """
    decay = config.l2 if config.l2_rows == "all" else 0.0
    groups = [{"params": list(tables), "weight_decay": decay}, {"params": list(others)}]
    if config.optimizer == "rowwise_adagrad":
        return RowwiseAdagrad([{**groups[0], "rowwise": True}, groups[1]], lr=config.lr)
    if config.optimizer == "adagrad":
        return Adagrad(groups, lr=config.lr)
    return Adam(groups, lr=config.lr, amsgrad=config.optimizer == "amsgrad", fused=True)


def state_tensors(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state, flat, for a checkpoint: `<parameter>.<name>` -> tensor."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, held in state.items() for name, value in held.items()}


def load_state_tensors(optimizer: Optimizer, tensors: dict[str, torch.Tensor], lr: float) -> None:
    """Put a checkpoint's state and learning rate back."""
    whole = optimizer.state_dict()
    whole["state"] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        whole["state"].setdefault(int(index), {})[key] = value
    for group in whole["param_groups"]:
        group["lr"] = lr
    optimizer.load_state_dict(whole)
