"""Batch normalisation: torch's, and over the rows of all ranks where there are several."""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from .distributed import add_up, ranks


class _Total(torch.autograd.Function):
    """Sums over the ranks; the gradient of a rank's share is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        return add_up(values.clone())

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Tensor) -> Tensor:
        return add_up(grad_outputs[0].clone())


def _total(values: Tensor) -> Tensor:
    found = _Total.apply(values)
    assert isinstance(found, Tensor)
    return found


class BatchNorm(nn.BatchNorm1d):
    """As torch has it; with several ranks, mean and variance are of the whole batch, as one process takes them.

    Two messages of a number a column each way, forward and backward. Source: Ioffe and Szegedy, ICML'15, algorithm 1.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """(B, W) -> (B, W)."""
        if not self.training or ranks() == 1:
            return super().forward(input)
        values = input if input.dtype == torch.float64 else input.float()
        sums = _total(torch.cat([values.sum(0), values.new_full((1,), len(values))]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean
        variance = _total(centred.square().sum(0)) / count
        self._remember(mean.detach(), variance.detach() * (count / (count - 1)))
        return (centred * (variance + self.eps).rsqrt() * self.weight + self.bias).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
