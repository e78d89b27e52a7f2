"""Row steps: an optimizer's step on the rows of a table that a batch looked up, and on no others.

Where a row without a gradient stays as it is, that is the dense step: row-wise Adagrad (Mudigere et al., ISCA'22) and
Adagrad. Adam and AMSGrad are lazy here: a row's moments, and the row, rest until it is looked up again, where dense
Adam lets them fade and the row drift; where every row is looked up, both are the same. Bias is corrected by the number
of all steps. Legend: n rows of a table; D its width; R rows of a gradient.
"""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .lookup import distinct, rows_from, whole_sums

Kind = Literal["adam", "amsgrad", "adagrad", "rowwise_adagrad"]
BETAS, ADAM_EPSILON, ADAGRAD_EPSILON = (0.9, 0.999), 1e-8, 1e-10  # as torch's Adam and Adagrad have them


class RowSteps(Optimizer):
    """Adam, AMSGrad, Adagrad or row-wise Adagrad of tables whose gradients are sparse (COO).

    `weight_decay` adds decay x row to the gradient of each row looked up, once. State, as the dense optimizers name it:
    step, () float32; sum, (n, D) or row-wise (n, 1); exp_avg, exp_avg_sq and AMSGrad's max_exp_avg_sq, (n, D).
    """

    def __init__(self, tables: Iterable[nn.Parameter], kind: Kind, lr: float, weight_decay: float) -> None:
        super().__init__(list(tables), {"lr": lr, "weight_decay": weight_decay})
        self.kind = kind

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # no closure
        """One step along the gradients."""
        assert closure is None
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                rows, gradient = rows_of(table.grad)
                weight = rows_from(table, rows)
                if group["weight_decay"]:
                    gradient = gradient.add(weight, alpha=group["weight_decay"])
                if self.kind in ("adam", "amsgrad"):
                    self._adam(table, rows, weight, gradient, group["lr"])
                else:
                    self._adagrad(table, rows, weight, gradient, group["lr"])
                table.index_copy_(0, rows, weight)

    def _adagrad(self, table: Tensor, rows: Tensor, weight: Tensor, gradient: Tensor, lr: float) -> None:
        """Rows (R,), of `weight` (R, D) with `gradient` (R, D); the weight is moved in place."""
        squares = gradient.square()
        if self.kind == "rowwise_adagrad":
            squares = squares.mean(1, keepdim=True)
        total = self._state(table, "sum", squares.shape[1])
        held = rows_from(total, rows).add_(squares)
        total.index_copy_(0, rows, held)
        weight.addcdiv_(gradient, held.sqrt_().add_(ADAGRAD_EPSILON), value=-lr)

    def _adam(self, table: Tensor, rows: Tensor, weight: Tensor, gradient: Tensor, lr: float) -> None:
        """The same, of Adam; Kingma & Ba, ICLR'15, and Reddi et al., ICLR'18, for AMSGrad."""
        state, width = self.state[table], table.shape[1]
        steps = state.setdefault("step", torch.zeros(()))  # on the CPU: read without waiting for a device
        steps += 1
        (first, second), count = BETAS, steps.item()
        moments = list[Tensor]()
        for name, value, beta in (("exp_avg", gradient, first), ("exp_avg_sq", gradient.square(), second)):
            whole = self._state(table, name, width)
            moments.append(rows_from(whole, rows).lerp_(value, 1 - beta))
            whole.index_copy_(0, rows, moments[-1])
        mean, square = moments
        if self.kind == "amsgrad":
            whole = self._state(table, "max_exp_avg_sq", width)
            square = torch.maximum(rows_from(whole, rows), square)
            whole.index_copy_(0, rows, square)
        root = square.sqrt_().div_((1 - second**count) ** 0.5).add_(ADAM_EPSILON)
        weight.addcdiv_(mean, root, value=-lr / (1 - first**count))

    def _state(self, table: Tensor, name: str, width: int) -> Tensor:
        state = self.state[table]
        if name not in state:
            state[name] = table.new_zeros(len(table), width)
        return state[name]


def rows_of(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (R,) int64 of a sparse gradient, (n, D) COO, and each one's whole gradient, (R, D).

    On the CPU each row is there once; on a GPU perhaps several times, each time with the whole.
    """
    assert gradient.is_sparse
    rows, values = gradient._indices()[0], gradient._values()
    if gradient.is_coalesced():
        return rows, values
    if gradient.is_cuda:
        return whole_sums(rows, values)
    if bool((rows[1:] > rows[:-1]).all()):  # as backward made it: torch forgets that what it keeps was coalesced
        return rows, values
    found = distinct(rows, gradient.shape[0])
    return found.rows, found.sums(values)
