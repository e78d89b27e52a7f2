"""The choice of a budget search: its lean, its draws, what bytes cost, and what is likely."""

import itertools

import pytest
import torch
from budgets import DIMS, OWN, SIZES, options_for, recipe_of
from hypothesis import given, settings
from hypothesis import strategies as st
from quorem.train.budget.choice import PARTS, Choice
from quorem.train.budget.drawn import Drawn
from quorem.train.budget.options import Option

OPTIONS = options_for(recipe_of())
NAMES = OPTIONS.features


def choice_of(seed: int | None = None, spread: float = 1.0) -> Choice:
    """A fresh choice, or one of random logits."""
    choice = Choice(OPTIONS)
    if seed is not None:
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for logits in choice.logits.values():
                logits.normal_(0, spread, generator=draw)
    return choice


def numbers(drawn: Drawn) -> list[Option]:
    """The options that were drawn."""
    return list(zip(drawn.schemes, drawn.dims.argmax(1).tolist(), drawn.bits.tolist(), strict=True))


@pytest.mark.parametrize("seed", [None, 3])
def test_what_is_likely_is_the_products_of_its_parts(seed: int | None) -> None:
    choice = choice_of(seed)
    chances = torch.from_numpy(choice.chance()).exp()
    allowed = torch.from_numpy(OPTIONS.allowed)
    assert torch.equal(chances > 0, allowed), "exactly"
    torch.testing.assert_close(chances.sum((1, 2, 3)), torch.ones(len(NAMES), dtype=torch.float64), rtol=1e-5, atol=0)
    expected = float((chances * torch.from_numpy(OPTIONS.sizes)).sum())
    assert choice.bytes_expected() == pytest.approx(expected, rel=1e-5)
    entropy = float(-(chances * chances.clamp(min=1e-300).log()).sum()) / len(NAMES)
    assert choice.entropy() == pytest.approx(entropy, rel=1e-5)
    if seed is None:
        for own, mask in zip(chances, allowed, strict=True):
            torch.testing.assert_close(own[mask], torch.full((int(mask.sum()),), 1 / int(mask.sum())).double())
    told = choice.told()
    assert set(told) == set(PARTS)
    assert all(sum(row) == pytest.approx(1, abs=1e-5) for part in told.values() for row in part.values())
    assert list(told["dims"]) == NAMES


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_it_leans_until_it_expects_the_budget(seed: int | None) -> None:
    ends = list[float]()
    for budget in (1, 10**12):
        steepest = choice_of(seed)
        steepest.lean(budget)
        ends.append(steepest.bytes_expected())
    assert ends[0] < 8 * OPTIONS.smallest() < choice_of(seed).bytes_expected() < ends[1]
    for share in (0.003, 0.01, 0.1, 0.3, 0.9):
        budget = int(ends[0] + share * (ends[1] - ends[0]))
        choice = choice_of(seed)
        choice.lean(budget)
        assert choice.bytes_expected() == pytest.approx(budget, rel=0.01)
        choice.lean(budget)
        assert choice.bytes_expected() == pytest.approx(budget, rel=0.01), "leaning twice is leaning once"
        assert all(bool(each.isfinite().all()) for each in choice.logits.values())


def test_small_fields_stay_about_as_likely() -> None:
    choice, fresh = choice_of(), choice_of()
    choice.lean(20_000)
    moved = {
        name: max(
            float((choice.told()[part][name][k] - fresh.told()[part][name][k]).__abs__())
            for part in PARTS
            for k in range(len(fresh.told()[part][name]))
        )
        for name in NAMES
    }
    assert moved["huge"] > 0.3
    assert max(moved[name] for name in ("kind", "brand", "chosen")) < 0.05


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.sampled_from([1.0, 0.3, 0.01]))
@settings(max_examples=25)
def test_draws_are_a_function_of_seed_and_number(seed: int, number: int, tau: float) -> None:
    choice, state = choice_of(5), torch.get_rng_state()
    found, again = (choice.draw(seed, number, tau, learns=False) for _ in range(2))
    assert numbers(found) == numbers(again)
    learning = choice.draw(seed, number, tau, learns=True)
    assert numbers(learning) == numbers(found), "whether it learns or not"
    torch.testing.assert_close(learning.dims, found.dims)
    assert found.scheme_weights is found.bit_weights is None
    assert learning.scheme_weights is not None
    assert learning.scheme_weights.argmax(1).tolist() == found.schemes
    assert learning.bit_weights is not None
    assert torch.equal(learning.bit_weights.argmax(1), found.bits)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    assert all(OPTIONS.allowed[(field, *option)] for field, option in enumerate(numbers(found)))


def test_other_seeds_and_numbers_draw_otherwise() -> None:
    choice = choice_of()
    every = [numbers(choice.draw(seed, number, 1.0, learns=False)) for seed in (1, 2) for number in (1, 2, 3)]
    assert len({tuple(each) for each in every}) == 6


DRAWS = 3000


@pytest.mark.parametrize("tau", [1.0, 0.01])
def test_options_are_drawn_as_often_as_they_are_likely(tau: float) -> None:
    """By chi-square, part by part, and two parts of a field independently of each other."""
    choice = choice_of(4)
    every = [numbers(choice.draw(7, number, tau, learns=False)) for number in range(DRAWS)]
    told = choice.told()
    for field, name in enumerate(NAMES):
        for place, part in enumerate(PARTS):
            expected = torch.tensor(told[part][name], dtype=torch.float64) * DRAWS
            counted = torch.bincount(torch.tensor([each[field][place] for each in every]), minlength=len(expected))
            assert not counted[expected == 0].any()
            likely = expected > 0
            distance = float(((counted - expected)[likely].square() / expected[likely]).sum())
            assert distance < 30, f"{name}, {part}: of at most 10 degrees of freedom; 30 is passed once in 1,000"
    schemes, bits = ([each[0][place] for each in every] for place in (0, 2))
    both = sum(scheme == bit == 1 for scheme, bit in zip(schemes, bits, strict=True)) / DRAWS
    apart = schemes.count(1) * bits.count(1) / DRAWS**2
    assert both == pytest.approx(apart, abs=0.03)


def test_the_richest_have_the_first_schemes_most_bits_and_their_own_widest_dims() -> None:
    dims = sorted({*DIMS, *(dim for own in OWN.values() for dim in own)})
    assert [(scheme, dims[dim], bits) for scheme, dim, bits in numbers(choice_of(6).rich())] == [
        (0, OWN.get(name, DIMS)[-1], 0) for name in NAMES
    ]


def test_fixed_options_are_what_is_told() -> None:
    wanted = [OPTIONS.of(field)[-1] for field in range(len(SIZES))]
    drawn = choice_of().fixed(wanted)
    assert numbers(drawn) == wanted
    assert drawn.dims.sum(1).tolist() == [1.0] * len(SIZES)
    assert drawn.scheme_weights is drawn.bit_weights is None


def test_the_price_rises_above_the_budget_and_falls_below_it() -> None:
    choice = choice_of()
    held = choice.bytes_expected()
    prices = [float(choice.price)]
    for factor in (0.5, 0.5, 0.9, 1.5, 10, 10, 10):
        choice.raise_price(int(held * factor), 0.1)
        prices.append(float(choice.price))
    steps = [after - before for before, after in itertools.pairwise(prices)]
    assert all(step > 0 for step in steps[:3])
    assert steps[0] == pytest.approx(0.1 * 0.6931, rel=1e-3), "by the logarithm of how far"
    assert steps[3] < 0
    assert prices[-1] == 0, "never below nothing"
    before = float(choice.cost(int(held / 2)).detach())
    assert before == 0
    choice.raise_price(int(held / 2), 1.0)
    assert float(choice.cost(int(held / 2)).detach()) == pytest.approx(0.6931**2, rel=1e-3)


def test_what_bytes_cost_moves_the_choice_to_fewer() -> None:
    choice, budget = choice_of(), 20_000
    learner = torch.optim.Adam(choice.logits.parameters(), lr=0.05)
    expected = [choice.bytes_expected()]
    for _ in range(200):
        learner.zero_grad()
        choice.cost(budget).backward()
        learner.step()
        choice.raise_price(budget, 0.05)
        expected.append(choice.bytes_expected())
    assert expected[-1] < 1.2 * budget < 0.2 * expected[0]
    for part in PARTS:
        gradient = choice.logits[part].grad
        assert gradient is not None
        assert bool(gradient.isfinite().all())
        assert not gradient[~choice.get_buffer(f"own_{part}")].any(), "what a field does not have never learns"


def test_a_choice_learns_through_what_was_drawn() -> None:
    """Dims, bits and schemes alike have the gradient of the softmax, at a temperature."""
    choice = choice_of(2)
    for tau in (1.0, 0.2):
        drawn = choice.draw(3, 4, tau, learns=True)
        assert drawn.scheme_weights is not None
        assert drawn.bit_weights is not None
        given = {"schemes": drawn.scheme_weights, "dims": drawn.dims, "bits": drawn.bit_weights}
        for part, weights in given.items():
            own = choice.get_buffer(f"own_{part}")
            values = torch.arange(1.0, weights.shape[1] + 1)
            (gradient,) = torch.autograd.grad((weights * values).sum(), choice.logits[part], retain_graph=True)
            assert not gradient[~own].any()
            several = own.sum(1) > 1
            assert bool((gradient[several].abs().sum(1) > 0).all())
            torch.testing.assert_close(gradient.sum(1), torch.zeros(len(NAMES)), atol=1e-5, rtol=0)
