"""Row-wise Adagrad: one number a row of the tables, where Adagrad keeps one a weight.

Source: Mudigere et al., ISCA'22 (arXiv 2104.05158); Duchi et al., JMLR 2011, for Adagrad.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

EPSILON = 1e-10  # as torch's Adagrad has it


class RowwiseAdagrad(Optimizer):
    """w -= lr g / (√sum + 1e-10), where g is the gradient plus weight_decay x w.

    sum: over the steps; in parameter groups of `rowwise` of the mean of g² over a row, (rows, 1) float32; in the others
    of every weight's g², in its shape.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "rowwise": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # no closure
        """One step along the gradients."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                gradient = weight.grad
                if group["weight_decay"]:
                    gradient = gradient.add(weight, alpha=group["weight_decay"])
                squares = gradient.square()
                if group["rowwise"]:
                    squares = squares.mean(1, keepdim=True)
                state = self.state[weight]
                if "sum" not in state:
                    state["sum"] = torch.zeros_like(squares)
                state["sum"].add_(squares)
                weight.addcdiv_(gradient, state["sum"].sqrt().add_(EPSILON), value=-group["lr"])
