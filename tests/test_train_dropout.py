"""Dropout: the share that is zeroed, the scale of the rest, and a gradient through what was kept."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quorem.train.dropout import Dropout


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@given(probability=st.sampled_from([0.001, 0.2, 0.5, 0.9]), width=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_values_are_zeroed_with_the_probability_and_the_others_scaled(
    kind: torch.dtype, probability: float, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    values = torch.ones(3001, width, dtype=kind, requires_grad=True)
    found = Dropout(probability)(values)
    kept = found != 0
    expected = torch.tensor(1 / (1 - probability), dtype=kind)
    assert torch.allclose(found[kept].float(), expected.float(), rtol=1e-4 if kind == torch.float32 else 1e-2)
    count, share = found.numel(), 1 - kept.float().mean().item()
    assert abs(share - probability) < 6 * math.sqrt(probability * (1 - probability) / count) + 2**-16
    found.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, found.detach())  # d(x m) / dx = m, and x is 1


def test_neighbours_are_dropped_independently() -> None:
    """Four values share a random integer: each pair of them falls together as often as any two do."""
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(400_000)) == 0).view(-1, 4).double()
    together = dropped.T @ dropped / len(dropped)
    off = together[~torch.eye(4, dtype=torch.bool)]
    assert (off - 0.25).abs().max() < 6 * math.sqrt(0.25 * 0.75 / 100_000)


def test_nothing_is_dropped_outside_training_or_at_probability_zero() -> None:
    values = torch.randn(5, 3)
    assert Dropout(0.5).eval()(values) is values
    assert Dropout(0.0)(values) is values


def test_the_same_seed_drops_the_same_and_the_generator_moves_on() -> None:
    values, dropout = torch.ones(1000), Dropout(0.3)
    torch.manual_seed(4)
    first, second = dropout(values), dropout(values)
    torch.manual_seed(4)
    assert torch.equal(dropout(values), first)
    assert not torch.equal(second, first)


def test_a_probability_next_to_one_keeps_finite_values() -> None:
    torch.manual_seed(0)
    assert Dropout(1 - 1e-9)(torch.ones(10_000)).isfinite().all()
