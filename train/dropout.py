"""Dropout: a layer's values zeroed at random, with bits drawn four values at a time where torch draws one by one.

On a CPU torch's own draw takes longer than the matrix products around it; here 64 random bits decide on four values.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SHARES = 2**16  # a value is kept by 16 bits: the probability is a multiple of 1 / SHARES


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, probability: float) -> Tensor:
        count = values.numel()
        drawn = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = drawn.view(torch.int16)[:count].view(values.shape)
        dropped = min(round(probability * SHARES), SHARES - 1)
        kept = (bits >= dropped - SHARES // 2).to(values.dtype).mul_(SHARES / (SHARES - dropped))
        ctx.save_for_backward(kept)
        return values * kept

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return grad_outputs[0] * kept, None


class Dropout(nn.Module):
    """Zeroes each value with a probability and scales the others up, while training; drawn by torch's own generator."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, values: Tensor) -> Tensor:
        """Values of any shape, float."""
        if not self.training or self.probability == 0:
            return values
        if values.is_cuda:
            return functional.dropout(values, self.probability)
        masked = _Masked.apply(values, self.probability)
        assert isinstance(masked, Tensor)
        return masked
