"""Seed noise: Student's quantiles, Welch's test, and verdicts that claim no more than the runs can carry."""

import itertools
import math
import statistics

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from quorem.train.compare.noise import Difference, compare, incomplete_beta, stability, t_quantile

METRIC = st.floats(0.1, 0.99)
SAMPLE = st.lists(METRIC, min_size=2, max_size=6).map(tuple)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [
        (1, 12.7062),
        (2, 4.30265),
        (3, 3.18245),
        (4, 2.77645),
        (10, 2.22814),
        (30, 2.04227),
        (120, 1.97993),
        (1e7, 1.95996),
    ],
)
def test_quantiles_are_those_of_the_printed_tables(freedom: float, quantile: float):
    assert t_quantile(freedom) == pytest.approx(quantile, rel=3e-6)


@given(st.floats(1, 200), st.floats(1e-3, 50))
def test_quantiles_fall_towards_the_normal_ones(freedom: float, more: float):
    assert t_quantile(freedom) >= t_quantile(freedom + more) >= 1.959963


@given(st.floats(0.05, 60), st.floats(0.05, 60), st.floats(0.001, 0.999))
def test_the_incomplete_beta_function_is_a_distribution(a: float, b: float, x: float):
    value = incomplete_beta(a, b, x)
    assert -1e-12 <= value <= 1 + 1e-12
    assert value == pytest.approx(1 - incomplete_beta(b, a, 1 - x), abs=1e-9)
    assert incomplete_beta(a, 1, x) == pytest.approx(x**a, rel=1e-9)


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.01, 0.99))
def test_the_incomplete_beta_function_of_whole_numbers_is_a_binomial_tail(a: int, b: int, x: float):
    n = a + b - 1
    tail = sum(math.comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(a, n + 1))
    assert incomplete_beta(a, b, x) == pytest.approx(tail, rel=1e-9)


def test_an_example_worked_out_by_hand():
    # Means 2 and 6, variances 1 and 16/3: error^2 = 1/3 + 4/3, freedom = (5/3)^2 / ((1/3)^2 / 2 + (4/3)^2 / 3) = 30/7.
    found = compare((1, 2, 3), (4, 4, 8, 8), higher_is_better=True)
    assert found == Difference(-4, pytest.approx(t_quantile(30 / 7) * math.sqrt(5 / 3)), pooled=False, verdict="worse")
    assert compare((1, 2, 3), (3, 3, 7, 7), higher_is_better=True).verdict == "within seed noise"  # 3 < 3.49


@pytest.mark.parametrize(
    ("sample", "against", "higher", "verdict"),
    [
        ((0.98, 0.981, 0.979), (0.97, 0.971, 0.969), True, "better"),
        ((0.98, 0.981, 0.979), (0.97, 0.971, 0.969), False, "worse"),
        ((0.97, 0.971, 0.969), (0.98, 0.981, 0.979), True, "worse"),
        ((0.97, 0.98, 0.99), (0.969, 0.98, 0.992), True, "within seed noise"),
        ((0.9, 0.9), (0.8, 0.8), True, "better"),
        ((0.9, 0.9), (0.9, 0.9), True, "within seed noise"),
        ((0.9,), (0.8, 0.81), True, "one run: not known"),
        ((0.9, 0.91), (0.8,), True, "one run: not known"),
    ],
)
def test_verdicts(sample: tuple[float, ...], against: tuple[float, ...], higher: bool, verdict: str):
    assert compare(sample, against, higher_is_better=higher).verdict == verdict


@given(SAMPLE, SAMPLE)
def test_a_comparison_turned_round_says_the_opposite(sample: tuple[float, ...], against: tuple[float, ...]):
    there, back = (compare(*pair, higher_is_better=True) for pair in ((sample, against), (against, sample)))
    assert there.mean == -back.mean
    assert there.bound == pytest.approx(back.bound)
    opposite = {"better": "worse", "worse": "better", "within seed noise": "within seed noise"}
    assert back.verdict == opposite[there.verdict]


@given(SAMPLE, SAMPLE, st.floats(-5, 5), st.floats(0.01, 100))
def test_units_do_not_matter(sample: tuple[float, ...], against: tuple[float, ...], shift: float, scale: float):
    plain = compare(sample, against, higher_is_better=True)
    assert plain.bound is not None
    assume(abs(abs(plain.mean) - plain.bound) > 1e-6)
    moved = [tuple(shift + scale * value for value in each) for each in (sample, against)]
    assert compare(*moved, higher_is_better=True).verdict == plain.verdict


def test_a_single_run_borrows_the_noise_of_the_arms_that_have_several():
    others = [(0.90, 0.92), (0.80, 0.81, 0.82), (0.7,)]
    found = compare((0.95,), (0.90, 0.92), others, higher_is_better=True)
    variance = (0.0002 * 1 + 0.0001 * 2) / 3
    assert found.pooled
    assert found.bound == pytest.approx(t_quantile(3) * math.sqrt(variance * (1 + 1 / 2)))
    assert found.verdict == "within seed noise (pooled)"
    assert compare((0.995,), (0.90, 0.92), others, higher_is_better=True).verdict == "better (pooled)"
    assert compare((0.9,), (0.8,), [(0.7,)], higher_is_better=True) == Difference(
        pytest.approx(0.1), None, pooled=False, verdict="one run: not known"
    )


def test_one_in_twenty_differences_of_nothing_is_called_one():
    """Over all ways to split values of a bell curve: a verdict is as rare as the test promises, about."""
    normal = statistics.NormalDist()
    values = [normal.inv_cdf((place + 0.5) / 12) for place in range(12)]
    verdicts = [
        compare(tuple(part), tuple(sorted(set(values) - set(part))), higher_is_better=True).verdict
        for part in itertools.combinations(values, 6)
    ]
    share = sum(verdict != "within seed noise" for verdict in verdicts) / len(verdicts)
    assert 0.02 < share < 0.08


@pytest.mark.parametrize(
    ("choices", "alike"),
    [
        ([(2, 4, 8), (4, 8, 16)], 1.0),
        ([(2, 4, 8), (8, 6, 2)], -1.0),
        ([(2, 8, 2, 8), (2, 2, 8, 8)], 0.0),
        ([(2, 4, 8), (4, 8, 16), (8, 6, 2)], -1 / 3),  # of three pairs, two are opposite
        ([(2, 4, 8)], None),
        ([(2, 4, 8), (4, 4, 4)], None),  # nothing is correlated to what does not vary
        ([(2, 4, 8), (4, 4, 4), (4, 8, 16)], 1.0),
        ([], None),
    ],
)
def test_seeds_that_choose_alike_are_correlated(choices: list[tuple[int, ...]], alike: float | None):
    assert stability(choices) == (None if alike is None else pytest.approx(alike, abs=1e-12))
