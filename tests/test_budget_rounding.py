"""Rounding of bits that are still to be chosen: bit for bit what grids of those bits have, and its gradients.

Legend: B rows; S slots; W columns; F fields of a packed table.
"""

import pytest
import torch
from quorem.protos.low_bits import BITS
from quorem.train.budget.drawn import Drawn
from quorem.train.budget.rounding import Rounding
from quorem.train.grid import Grid
from torch import Tensor

LENGTHS, MEMBERS, W = [1, 3, 2], [4, 0, 2], 5  # slots of each field, and its number among six
OWNERS = torch.tensor([0, 1, 1, 1, 2, 2])
EVERY = (0, *BITS)


def drawn_as(bits: list[int], weights: Tensor | None = None) -> Drawn:
    """What was drawn of the three fields: numbers of candidates."""
    chosen = torch.zeros(6, dtype=torch.int64)
    chosen[MEMBERS] = torch.tensor(bits)
    return Drawn([0] * 6, torch.zeros(6, 1), chosen, bit_weights=weights)


def tables_of(seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(7 + field, W, generator=draw) * (0.05 + field) for field in range(3)]


def rows_of(shape: tuple[int, ...] = (40, 6, W), seed: int = 1) -> Tensor:
    """Some of them beyond the last levels."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1.5


def pair(bits: int, centre: float) -> tuple[Rounding, Grid]:
    """A rounding of one number of bits, and the grid of the same scales."""
    rounding = Rounding((bits,), MEMBERS, LENGTHS, W, drawn_as([0, 0, 0]))
    grid = Grid(bits, LENGTHS, W)
    for each in (rounding, grid):
        each.reset(tables_of(), centre)
    torch.testing.assert_close(rounding.spread[0], grid.spread)
    with torch.no_grad():
        grid.spread.mul_(torch.tensor([1.0, -1.0, 0.7]).view(3, 1))  # its size counts alone
        rounding.spread[0] = grid.spread
    return rounding, grid


@pytest.mark.parametrize("centre", [0.0, 1.0])
@pytest.mark.parametrize("bits", BITS)
def test_one_number_of_bits_is_that_grid(bits: int, centre: float) -> None:
    rounding, grid = pair(bits, centre)
    pull = rows_of(seed=2)
    found = list[tuple[Tensor, Tensor]]()
    for each in (rounding, grid):
        kept = rows_of().requires_grad_()
        values = each(kept)
        (values * pull).sum().backward()
        assert kept.grad is not None
        assert torch.equal(kept.grad, pull), "straight through, also beyond the last level"
        assert each.spread.grad is not None
        found.append((values.detach(), each.spread.grad.view(3, W)))
    (one, learnt), (other, expected) = found
    assert torch.equal(one, other)
    assert expected.abs().min() > 0
    torch.testing.assert_close(learnt, expected, rtol=2e-5, atol=2e-5)
    for position, end in enumerate(torch.tensor(LENGTHS).cumsum(0).tolist()):
        own = rows_of()[:, end - LENGTHS[position] : end].reshape(-1, W)
        assert torch.equal(one[:, end - LENGTHS[position] : end].reshape(-1, W), grid.values(own, position))


@pytest.mark.parametrize("bits", BITS)
def test_rows_of_slots_are_rounded_as_those_slots_are(bits: int) -> None:
    rounding, grid = pair(bits, 1.0)
    slots = torch.tensor([0, 0, 1, 2, 3, 3, 5])
    kept = rows_of((1, len(slots), W))
    assert torch.equal(rounding(kept, slots), grid(kept, slots))


@pytest.mark.parametrize("centre", [0.0, 1.0])
def test_each_field_has_its_own_bits(centre: float) -> None:
    """All pairs of candidates, the third field in float32 or not."""
    kept = rows_of()
    for first in range(len(EVERY)):
        for third in (0, 3):
            chosen = [first, (first + 2) % len(EVERY), third]
            rounding = Rounding(EVERY, MEMBERS, LENGTHS, W, drawn_as(chosen))
            rounding.reset(tables_of(), centre)
            values, end = rounding(kept), 0
            for position, (number, length) in enumerate(zip(chosen, LENGTHS, strict=True)):
                own = kept[:, end : end + length]
                expected = own + centre if centre else own
                if EVERY[number]:
                    grid = Grid(EVERY[number], [length], W)
                    grid.reset([tables_of()[position]], centre)
                    with torch.no_grad():
                        grid.spread.copy_(rounding.spread[number, position])
                    expected = grid(own)
                assert torch.equal(values[:, end : end + length], expected)
                end += length


def test_values_in_float32_teach_no_scale() -> None:
    rounding = Rounding(EVERY, MEMBERS, LENGTHS, W, drawn_as([0, 2, 4]))
    rounding.reset(tables_of(), 0.0)
    rounding(rows_of()).square().sum().backward()
    gradient = rounding.spread.grad
    assert gradient is not None
    learnt = {(number, field) for number, field, _ in gradient.nonzero().tolist()}
    assert learnt == {(2, 1), (4, 2)}, "of the bits that were drawn"


@pytest.mark.parametrize("centre", [0.0, 1.0])
def test_bits_learn_how_their_values_pull(centre: float) -> None:
    """The gradient of a candidate's weight: the inner product of its values with the vectors' gradient."""
    chosen, kept, pull = [1, 0, 5], rows_of(), rows_of(seed=3)
    weights = torch.nn.functional.one_hot(drawn_as(chosen).bits, len(EVERY)).float().requires_grad_()
    rounding = Rounding(EVERY, MEMBERS, LENGTHS, W, drawn_as(chosen, weights))
    rounding.reset(tables_of(), centre)
    values = rounding(kept)
    rounding.drawn.bit_weights = None
    assert torch.equal(values, rounding(kept)), "what is looked up is what was drawn"
    (found,) = torch.autograd.grad((values * pull).sum(), weights)
    expected = torch.zeros(6, len(EVERY))
    for number in range(len(EVERY)):
        rounding.drawn.bits = drawn_as([number] * 3).bits
        products = (rounding(kept) * pull).sum((0, 2))  # (S,)
        expected[MEMBERS, number] = torch.zeros(3).index_add_(0, OWNERS, products.detach())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
