"""The grid: values of few bits while they learn, rounded to the levels of their columns, which are learned with them.

The gradient of a rounded value is that of the value it stands for, also beyond the last level, where LSQ has none.
On Frappe (dim 16, 2 bits, one seed, scales in absolute units) the AUC was .9838 so, .9823 with none beyond, .9819 with
levels that follow the columns' deviation, .9801 with those of least error over what is looked up; .9835 in the units
that are taken here, in which 8 bits are stable too. Seeds differ by about .0003.
Source: Esser et al., ICLR'20 (LSQ), for the gradient of the scales.
Legend: F fields; S slots; B rows; U distinct ids of a batch; D columns.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..protos.low_bits import FINEST

# The distance of levels that rounds normally distributed values of deviation one with the least error (Max, 1960).
DISTANCES = {8: 0.0308, 4: 0.3352, 3: 0.586, 2: 0.9957, 1: 1.596}
LEAST = 2.0**-40  # the least scale
STRETCH = 2**16  # numbers that are rounded together: what goes over them again finds them in a core's cache


class Grid(nn.Module):
    """The levels of a packed table: code * scale + offset, for codes 0 to 2^bits - 1, in each column of each field.

    As many lie on one side of what the table is kept as a deviation from as on the other. spread: (F, D) float32, what
    is learned of them: its size is the scale in units of 4 / 2^bits, exactly, so that it is about the deviation of the
    column, and an optimizer's steps suit it as they suit the rows, whatever the bits.
    """

    def __init__(self, bits: int, lengths: Sequence[int], dim: int) -> None:
        """Lay the grids of fields with `lengths` slots each out; `reset` or `take` fills them."""
        super().__init__()
        self.distance, self.top, self.unit, self.centre = DISTANCES[bits], 2**bits - 1, 4 / 2**bits, 0.0
        self.spread = nn.Parameter(torch.empty(len(lengths), dim))
        owners = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        self.owners: Tensor
        self.register_buffer("owners", owners, persistent=False)

    @torch.no_grad()
    def reset(self, tables: Sequence[Tensor], centre: float) -> None:
        """Suit the scales to fresh tables, one a field, that are kept as deviations from `centre`."""
        self.centre = centre
        for position, table in enumerate(tables):
            deviation = torch.linalg.vector_norm(table, dim=0) / len(table) ** 0.5
            self.take(position, (self.distance * deviation).clamp_(min=self._least()))

    @torch.no_grad()
    def take(self, position: int, scale: Tensor) -> None:
        """Set the scales, (D,), of the field at a position."""
        self.spread[position] = scale / self.unit

    def levels(self) -> tuple[Tensor, Tensor]:
        """Scales and offsets of values, (F, D) each, without gradient."""
        scale = (self.spread.detach().abs() * self.unit).clamp_(min=self._least())
        return scale, self.centre - scale * (self.top / 2)

    def forward(self, kept: Tensor, slots: Tensor | None = None) -> Tensor:
        """Rows as they are kept, (B, S, D), as values; with `slots`, (U,) int64, rows (1, U, D) of those."""
        values = _Round.apply(kept, self.spread, self, self.owners if slots is None else self.owners[slots])
        assert isinstance(values, Tensor)
        return values

    def values(self, kept: Tensor, position: int) -> Tensor:
        """The table of the field at a position, (rows, D), as `forward` has it."""
        scale, offset = (each[position] for each in self.levels())
        return self.rounded(kept, scale.expand(1, -1), offset.expand(1, -1))

    def rounded(self, kept: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """Rows (N, W) as values; scales and offsets are of each row, or (1, W) of all."""
        values, inverse = torch.empty_like(kept), scale.reciprocal()
        for part, own in _stretches(kept, inverse):
            into = torch.mul(kept[part], inverse[own], out=values[part])
            into.add_(self.top / 2).round_().clamp_(0, self.top).mul_(scale[own]).add_(offset[own])
        return values

    def _least(self) -> float:
        return max(LEAST, 2 * FINEST * self.centre)


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kept: Tensor, spread: Tensor, grid: Grid, owners: Tensor) -> Tensor:
        scale, offset = (each.index_select(0, owners).view(_folded(kept)) for each in grid.levels())
        values = grid.rounded(kept.reshape(-1, scale.shape[1]), scale, offset).view_as(kept)
        ctx.grid, ctx.owners = grid, owners
        ctx.save_for_backward(spread, kept, scale, values)
        return values

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (gradient,) = grad_outputs
        spread, *saved = ctx.saved_tensors
        spreads = None
        if ctx.needs_input_grad[1]:
            sums = _pulls(ctx.grid, gradient, *saved).view(-1, spread.shape[1])
            spreads = torch.zeros_like(spread).index_put_((ctx.owners,), sums, accumulate=True)
            spreads.mul_(spread.sign() * ctx.grid.unit)
        return gradient, spreads, None, None


def _pulls(grid: Grid, gradient: Tensor, kept: Tensor, scale: Tensor, values: Tensor) -> Tensor:
    """The gradient of scales, in the shape of `scale`, from that of values (B, S, D).

    Within the levels a larger scale moves a value by its rounding error in units of the scale; beyond them as it moves
    the last level.
    """
    gradient, kept, values = (each.reshape(-1, scale.shape[1]) for each in (gradient, kept, values))
    sums, ends = torch.zeros_like(scale), scale * ((grid.top + 1) / 2)
    for part, own in _stretches(kept, scale):
        within = kept[part].abs()
        torch.le(within, ends[own], out=within)  # ones and zeros: what reads booleans is ten times as slow
        moved = torch.sub(values[part], within.mul_(kept[part]), out=within)
        moved.sub_(grid.centre).mul_(gradient[part])
        sums[own] += moved.sum(0, keepdim=True) if len(scale) == 1 else moved
    return sums.div_(scale)


def _folded(kept: Tensor) -> tuple[int, int]:
    """The shape of scales for rows (B, S, D), whose slots stand side by side, (1, S * D); for (1, U, D), (U, D)."""
    batch, slots, dim = kept.shape
    return (1, slots * dim) if batch > 1 else (slots, dim)


def _stretches(kept: Tensor, scale: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows (N, W) in stretches, and the rows of scales, (N, W) or (1, W), that are theirs."""
    step = len(kept) if kept.is_cuda else max(1, STRETCH // kept.shape[1])
    for start in range(0, len(kept), step):
        part = slice(start, start + step)
        yield part, part if len(scale) > 1 else slice(None)
