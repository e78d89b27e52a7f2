"""The synthetic source: ids by Zipf's law, labels by the planted model, the same bytes for the same seed."""

import hashlib
import math
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from quorem.protos.errors import DataError
from quorem.train.data import DataConfig, Splits, read
from quorem.train.sources.counter import bits, stream, uniform
from quorem.train.sources.planted import area_under_curve, factors, sums
from quorem.train.sources.synthetic import CRITEO, SyntheticConfig, scatter, splits
from quorem.train.sources.zipf import ranks

FIELDS = [f"C{field}" for field in range(1, 27)]
DENSE = [f"I{column}" for column in range(1, 14)]


def make(columns=(*DENSE, *FIELDS), limit=None, train=3000, valid=1000, test=40000, **table) -> Splits:
    rows = {"train": train, "valid": valid, "test": test}
    section = {"source": "synthetic", "rows": limit, "synthetic": {"rows": rows, **table}}
    return read(DataConfig.model_validate(section), columns, Path())


def digest(table: pa.Table) -> str:
    return hashlib.sha256(b"".join(table[name].to_numpy().tobytes() for name in table.column_names)).hexdigest()


def brute_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    positive, negative = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return float(np.mean((positive > negative) + 0.5 * (positive == negative)))


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_random_bits_are_a_function_of_key_and_index(key, index):
    together = bits(key, np.array(index, np.uint64))
    assert [bits(key, np.array([one], np.uint64))[0] for one in index] == list(together)


def test_random_bits_are_splitmix64():
    # The published first outputs for the seed 1234567; a stream's index 0 stands for the first step.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert bits(1234567, np.arange(4, dtype=np.uint64)).tolist() == expected
    values = uniform(stream(3, 1), np.arange(200000, dtype=np.uint64))
    assert abs(values.mean() - 0.5) < 5 / math.sqrt(12 * len(values))
    assert values.min() > 0
    assert values.max() < 1


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 1.1, 2.5])
@pytest.mark.parametrize("n", [1, 2, 3, 50, 1000])
def test_ranks_follow_zipf(n, exponent):
    count = 200000
    drawn = ranks(n, exponent, stream(7, n), np.arange(count, dtype=np.uint64))
    weight = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    expected = count * weight / weight.sum()
    seen = np.bincount(drawn, minlength=n)
    assert len(seen) == n
    likely = expected >= 5
    # Pearson's statistic over likely ranks, the others as one cell: mean and half the variance are its cells - 1.
    observed = np.append(seen[likely], seen[~likely].sum())
    expected = np.append(expected[likely], expected[~likely].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert statistic < len(expected) - 1 + 5 * math.sqrt(2 * max(1, len(expected) - 1))


def test_ranks_follow_zipf_over_ten_million():
    n, exponent, count = CRITEO[2], 1.1, 400000
    drawn = ranks(n, exponent, stream(1), np.arange(count, dtype=np.uint64))
    weight = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    share = np.cumsum(weight) / weight.sum()
    for head in (1, 10, 1000, 100000, 5000000):
        expected = share[head - 1]
        assert abs((drawn < head).mean() - expected) < 5 * math.sqrt(expected * (1 - expected) / count), head
    assert drawn.min() >= 0
    assert drawn.max() < n


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_ids_are_a_permutation_of_ranks(n, key):
    assert sorted(scatter(np.arange(n), n, key).tolist()) == list(range(n))


def test_ids_stay_exact_at_full_cardinality():
    n, rank, key = max(CRITEO), np.array([0, 1, max(CRITEO) - 1]), stream(1, 2)
    first, second, last = scatter(rank, n, key).tolist()
    assert (first - (second - first)) % n == last, "one step before the first"
    assert 0.3 < ((second - first) % n) / n < 0.7, "not in the order of frequency"


@given(st.integers(2, 6), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**32))
def test_the_sum_of_pairs_is_the_factorisation_machine(fields, rank, rows, seed):
    vectors = [factors(stream(seed, field), np.arange(rows), rank) for field in range(fields)]
    dense = np.linspace(-1, 1, rows * 2, dtype=np.float32).reshape(rows, 2)
    first, pairs, linear = sums(vectors, dense, seed)
    exact = [vector.astype(np.float64) for vector in vectors]
    np.testing.assert_allclose(first, sum(vector[:, 0] for vector in exact), atol=1e-5)
    by_pair = sum((exact[f][:, 1:] * exact[g][:, 1:]).sum(1) for g in range(fields) for f in range(g))
    np.testing.assert_allclose(pairs, by_pair, atol=1e-4)
    np.testing.assert_allclose(linear, dense @ factors(seed, np.arange(2), 1)[:, 0], atol=1e-6)
    assert all((np.abs(vector) < 1).all() for vector in vectors)


@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=40))
def test_the_area_is_that_of_all_pairs(rows):
    scores, labels = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    one_class = len(set(labels)) == 1
    expected = None if one_class else pytest.approx(brute_auc(scores, labels))
    assert area_under_curve(scores, labels) == expected


@pytest.fixture(scope="module")
def clicks() -> Splits:
    return make()


def test_the_best_possible_auc_is_that_of_the_planted_model(clicks):
    table, config = clicks.test, SyntheticConfig.model_validate({"rows": {"train": 1, "valid": 1, "test": 1}})
    planted = splits(config)[0].planted
    # The probabilities once more, from nothing but the columns that training sees.
    vectors = [factors(stream(1, 5, field), table[name].to_numpy(), 4) for field, name in enumerate(FIELDS)]
    parts = sums(vectors, np.stack([table[name].to_numpy() for name in DENSE], axis=1), stream(1, 6))
    probability, labels = planted.probability(parts), table["label"].to_numpy().astype(np.float64)
    order = np.argsort(np.argsort(probability)) + 1.0
    positive = labels.sum()
    auc = (order[labels == 1].sum() - positive * (positive + 1) / 2) / (positive * (len(labels) - positive))
    assert clicks.facts.optimal_auc == pytest.approx(auc, abs=1e-9)
    loss = -(labels * np.log(probability) + (1 - labels) * np.log1p(-probability)).mean()
    assert clicks.facts.optimal_logloss == pytest.approx(loss, abs=1e-9)
    # Labels are drawn from them: in each tenth of the rows, positives as many as promised.
    for tenth in np.array_split(np.argsort(probability), 10):
        promised = probability[tenth]
        assert abs(labels[tenth].sum() - promised.sum()) < 5 * math.sqrt((promised * (1 - promised)).sum())
    for part, share in zip(parts, (0.5, 0.3, 0.2), strict=True):
        weight = planted.weights[[0.5, 0.3, 0.2].index(share)]
        total = sum(np.var(w * p) for w, p in zip(planted.weights, parts, strict=True))
        assert np.var(weight * part) / total == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(
    ("table", "auc", "positives"),
    [
        ({}, 0.8, 0.25),
        ({"auc": 0.7, "positives": 0.1, "seed": 9}, 0.7, 0.1),
        ({"scale": 1.0, "strings": True, "rank": 8, "zipf": 0.9}, 0.8, 0.25),
        ({"dense": 0, "bag": 4, "seed": 2}, 0.8, 0.25),
        ({"noise": 0.5}, 0.65, 0.25),  # half the labels are coins: half of the way from .8 to .5
    ],
)
def test_the_best_possible_auc_is_about_the_one_asked_for(table, auc, positives):
    facts = make(columns=["C1"], **table).facts
    assert facts.optimal_auc == pytest.approx(auc, abs=0.02)
    for name, rows in facts.rows.items():
        assert facts.positives[name] / rows == pytest.approx(positives, abs=0.015 + 4 * math.sqrt(0.19 / rows))


def test_a_seed_gives_the_same_bytes(clicks):
    again = make()
    assert again.facts == clicks.facts
    for name in ("train", "valid", "test"):
        assert digest(getattr(again, name)) == digest(getattr(clicks, name))
    assert digest(make(seed=2).train) != digest(clicks.train)
    assert digest(make(train=1000).train) == "8328cda9da7932f30e992bb89f0331abec4944c6ef4efe6bc64f410e939f92b0"


def test_a_split_is_its_own_and_its_prefix_stands(clicks):
    other = make(train=70000, valid=500, test=100)
    assert other.train.slice(0, 3000).equals(clicks.train)
    assert other.valid.equals(clicks.valid.slice(0, 500))
    assert make(limit=100).test.equals(other.test)
    heads = {tuple(getattr(clicks, name).slice(0, 1).to_pylist()[0].values()) for name in ("train", "valid", "test")}
    assert len(heads) == 3


def test_columns_are_what_they_say(clicks):
    assert clicks.train.column_names == [*DENSE, *FIELDS, "label"]
    rows = {"train": 1, "valid": 1, "test": 1}
    config = SyntheticConfig.model_validate({"rows": rows, "scale": 0.001})
    assert [config.cardinality(n) for n in (1460, 10131227, 3, 4, 24, 3000, 3001)] == [3, 10132, 3, 3, 3, 3, 4]
    full = SyntheticConfig.model_validate({"rows": rows, "scale": 1.0})
    assert [full.cardinality(n) for n in CRITEO] == list(CRITEO)
    for field, name in enumerate(FIELDS):
        ids = clicks.test[name].to_numpy()
        assert ids.dtype == np.int64
        assert ids.min() >= 0
        assert ids.max() < config.cardinality(CRITEO[field])
    for name in DENSE:
        values = clicks.test[name].to_numpy()
        assert values.dtype == np.float32
        assert abs(values.mean()) < 0.03
        assert abs(values.std() - 1) < 0.03


def test_strings_are_the_same_ids_in_hexadecimal(clicks):
    text = make(strings=True, train=3000, test=1).train
    assert text["C3"].type == pa.string()
    for name in FIELDS:
        assert text[name].to_pylist() == [f"{value:08x}" for value in clicks.train[name].to_pylist()]
    assert text["label"].equals(clicks.train["label"])


def test_bags_hold_one_to_length_ids_and_move_the_label(clicks):
    table = make(columns=["C1", "B1"], bag=5).train
    assert table["B1"].type == pa.list_(pa.int64())
    lengths = [len(bag) for bag in table["B1"].to_pylist()]
    assert set(lengths) == {1, 2, 3, 4, 5}
    assert {value for bag in table["B1"].to_pylist() for value in bag} == set(range(10))
    assert not table["label"].equals(clicks.train["label"])
    with pytest.raises(DataError, match="no column 'B1'"):
        make(columns=["B1"])


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(0, 20), st.integers(1, 40))
def test_any_shape_of_table_is_made(bag, dense, rows):
    columns = [f"I{column + 1}" for column in range(dense)] + ["B1", "C26"]
    made = make(columns=columns, train=rows, valid=rows, test=50, bag=bag, dense=dense)
    assert made.train.num_rows == rows
    assert made.train.column_names == [*columns, "label"]
