"""Laws of the metrics: against definitions by brute force, and at the edges."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from quorem.protos.metrics import auc, evaluate, grouped_auc, logloss

SCORES = st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 1), st.integers(1, 4)), min_size=1, max_size=40)


def pairwise_auc(rows: list[tuple[int, int, int]]) -> float:
    """The share of (positive, negative) pairs in order, by weight; ties count half."""
    won = total = 0.0
    for score, label, weight in rows:
        for other, second, heft in rows:
            if label and not second:
                total += weight * heft
                won += weight * heft * (1 if score > other else 0.5 if score == other else 0)
    return won / total if total else math.nan


@given(SCORES)
def test_auc_is_the_share_of_ordered_pairs(rows: list[tuple[int, int, int]]) -> None:
    logits, labels, weights = (np.array(column, float) for column in zip(*rows, strict=True))
    found, expected = auc(logits, labels, weights), pairwise_auc(rows)
    assert (math.isnan(found) and math.isnan(expected)) or abs(found - expected) < 1e-12


@given(SCORES)
def test_auc_does_not_see_a_rising_transform(rows: list[tuple[int, int, int]]) -> None:
    logits, labels, _ = (np.array(column, float) for column in zip(*rows, strict=True))
    assert np.array_equal(auc(logits, labels), auc(np.exp(logits) * 3 + 1, labels), equal_nan=True)


@given(SCORES)
def test_logloss_is_the_mean_cross_entropy(rows: list[tuple[int, int, int]]) -> None:
    logits, labels, weights = (np.array(column, float) for column in zip(*rows, strict=True))
    losses = [-math.log(1 / (1 + math.exp(-z)) if y else 1 / (1 + math.exp(z))) for z, y, _ in rows]
    assert math.isclose(logloss(logits, labels, weights), np.average(losses, weights=weights), rel_tol=1e-9)


def test_logloss_of_huge_logits_is_finite() -> None:
    assert logloss(np.array([1000.0, -1000.0]), np.array([1.0, 0.0])) == 0
    assert logloss(np.array([1000.0]), np.array([0.0])) == 1000


def test_grouped_auc_averages_groups_of_both_classes_by_rows() -> None:
    logits, labels = np.array([1.0, 2, 3, 4, 9, 8]), np.array([0.0, 1, 1, 0, 1, 1])
    groups = np.array([7, 7, 8, 8, 9, 9])
    assert grouped_auc(logits, labels, groups) == 0.5  # 1 and 0; the third group has one class


def test_guessing_the_base_rate_has_normalized_entropy_and_calibration_one() -> None:
    labels = np.array([1.0] * 25 + [0.0] * 75)
    found = evaluate(np.full(100, math.log(1 / 3)), labels)
    assert math.isclose(found["normalized_entropy"], 1)
    assert math.isclose(found["calibration"], 1)
    assert found["auc"] == 0.5


def test_one_class_has_no_auc() -> None:
    assert set(evaluate(np.zeros(3), np.ones(3))) == {"logloss"}
