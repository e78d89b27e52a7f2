"""Rounding: values of tables whose bits are still to be chosen, rounded to those that each field has at the moment.

The same arithmetic as grid.py, with a scale for every number of bits that a field may have: the rows behind them are
one, and learn under all. Legend: P fields of a packed table; N candidates of bits, 0 for float32; S slots; W columns.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..grid import DISTANCES, LEAST
from .drawn import Drawn


class Rounding(nn.Module):
    """In place of a packed table's grid: rounds each field's values to the bits that `drawn` gives it."""

    def __init__(self, bits: Sequence[int], members: Sequence[int], lengths: Sequence[int], dim: int, drawn: Drawn):
        """`members`: each field's number among all; `lengths`: its slots; `drawn`: what is shared with all tables."""
        super().__init__()
        self.bits, self.drawn, self.centre = tuple(bits), drawn, 0.0
        self.spread = nn.Parameter(torch.empty(len(bits), len(members), dim))
        self.members: Tensor
        self.owners: Tensor
        self.tops: Tensor
        self.units: Tensor
        owners = torch.repeat_interleave(torch.arange(len(members)), torch.tensor(lengths))
        for name, values in (
            ("members", torch.tensor(members)),
            ("owners", owners),
            ("tops", torch.tensor([2.0**each - 1 if each else 1.0 for each in bits])),
            ("units", torch.tensor([4 / 2**each if each else 1.0 for each in bits]).view(-1, 1, 1)),
        ):
            self.register_buffer(name, values, persistent=False)

    @torch.no_grad()
    def reset(self, tables: Sequence[Tensor], centre: float) -> None:
        """Suit the scales to fresh tables, one a field, that are kept as deviations from `centre`."""
        self.centre = centre
        for position, table in enumerate(tables):
            deviation = torch.linalg.vector_norm(table, dim=0) / len(table) ** 0.5
            for number, bits in enumerate(self.bits):
                self.spread[number, position] = deviation * (DISTANCES[bits] * 2**bits / 4 if bits else 1.0)

    def forward(self, kept: Tensor, slots: Tensor | None = None) -> Tensor:
        """Rows as they are kept, (B, S, W), as values; with `slots`, (U,) int64, rows (1, U, W) of those."""
        own = self.owners if slots is None else self.owners[slots]
        scales = (self.spread.abs() * self.units).clamp(min=LEAST)
        chosen, weights = self.drawn.bits[self.members], self.drawn.bit_weights
        values = self._rounded(kept, scales, chosen, own)
        if weights is None:
            return values
        with torch.no_grad():
            every = [self._rounded(kept, scales, torch.full_like(chosen, n), own) for n in range(len(self.bits))]
        pulls = weights[self.members] - weights[self.members].detach()  # zero, with the gradient of the weights
        for number, each in enumerate(every):
            values = values + pulls[own, number].unsqueeze(1) * each
        return values

    def _rounded(self, kept: Tensor, scales: Tensor, chosen: Tensor, own: Tensor) -> Tensor:
        scale = scales[chosen, torch.arange(len(chosen), device=chosen.device)]
        floats = [self.bits[number] == 0 for number in chosen.tolist()]
        if all(floats):
            return kept + self.centre if self.centre else kept
        exact = torch.tensor(floats, device=own.device)[own].unsqueeze(1) if any(floats) else None
        values = _Round.apply(kept, scale[own], self.tops[chosen][own].unsqueeze(1), exact, self.centre)
        assert isinstance(values, Tensor)
        return values


class _Round(torch.autograd.Function):
    """Straight through to the rows; to the scales as grid.py has it."""

    @staticmethod
    def forward(ctx: Any, kept: Tensor, scale: Tensor, top: Tensor, exact: Tensor | None, centre: float) -> Tensor:
        half = top / 2
        values = torch.mul(kept, scale.reciprocal()).add_(half).round_()
        values = torch.minimum(values.clamp_(min=0), top, out=values).mul_(scale).add_(centre - scale * half)
        if exact is not None:
            values = torch.where(exact, kept + centre, values)
        ctx.save_for_backward(kept, values, scale, top)
        ctx.exact, ctx.centre = exact, centre
        return values

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        (gradient,) = grad_outputs
        kept, values, scale, top = ctx.saved_tensors
        scales = None
        if ctx.needs_input_grad[1]:
            within = (kept.abs() <= scale * ((top + 1) / 2)) * kept
            scales = (values - ctx.centre - within).mul_(gradient).sum(0) / scale
            if ctx.exact is not None:
                scales = scales.masked_fill(ctx.exact, 0.0)
        return gradient, scales, None, None, None
