"""Planted dims: each field's part in the label has the rank that the recipe says, no more and no less."""

import hashlib
import math
from itertools import combinations
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from pydantic import ValidationError
from quorem.protos.errors import DataError
from quorem.train.data import DataConfig, Splits, read
from quorem.train.recipe_file import read_recipe, to_toml
from quorem.train.sources.counter import stream
from quorem.train.sources.planted import Planted, amplitudes, factors, sums
from quorem.train.sources.synthetic import Split, SyntheticConfig, splits

ROWS = {"train": 1000, "valid": 500, "test": 20000}
PLANTED = [8, 2, 24, 16, 2, 32, 8, 32, 16, 24]
RANKS = st.lists(st.integers(1, 20), min_size=0, max_size=6).flatmap(
    lambda few: st.integers(max(few, default=1), 24).flatmap(lambda top: st.permutations([top, top, *few]))
)


def make(columns, limit=None, **table) -> Splits:
    section = {"source": "synthetic", "rows": limit, "synthetic": {"rows": ROWS, **table}}
    return read(DataConfig.model_validate(section), columns, Path())


def vectors_of(ranks, ids=64, seed=1) -> list[np.ndarray]:
    """For each field the planted vector of each of its ids, (ids, R) float64."""
    sizes = amplitudes(ranks)
    each = [factors(stream(seed, 5, field), np.arange(ids), max(ranks)) * size for field, size in enumerate(sizes)]
    return [table[:, 1:].astype(np.float64) for table in each]


def interactions(vectors, field) -> np.ndarray:
    """What each id of a field makes of each id of the others, less what weights of ids can hold."""
    centred = [table - table.mean(0) for table in vectors]
    return np.concatenate([centred[field] @ other.T for g, other in enumerate(centred) if g != field], axis=1)


def energies(matrix) -> np.ndarray:
    return np.linalg.svd(matrix, compute_uv=False) ** 2


@settings(max_examples=40, deadline=None)
@given(RANKS, st.integers(0, 2**32))
def test_a_field_needs_as_many_components_as_its_rank(ranks, seed):
    vectors = vectors_of(ranks, seed=seed)
    for field, rank in enumerate(ranks):
        assert np.linalg.matrix_rank(interactions(vectors, field)) == rank


@given(RANKS)
def test_components_are_as_large_as_they_say(ranks):
    squares = amplitudes(ranks).astype(np.float64)[:, 1:] ** 2
    variance = squares * (squares.sum(axis=0) - squares)  # of a component's products with the other fields'
    for field, rank in enumerate(ranks):
        together = np.array([sum(1 / other for other in ranks if other > component) for component in range(rank)])
        np.testing.assert_allclose(variance[field, :rank], (1 - 1 / (rank * together)) / rank, rtol=1e-5)
        assert not squares[field, rank:].any()
        if rank == max(ranks):
            assert variance[field, :rank].min() >= variance[field, :rank].max() / 2 * (1 - 1e-5)
    assert (amplitudes(ranks)[:, 0] == 1).all(), "weights of first order are all alike"


@given(RANKS)
def test_pairs_of_fields_of_a_rank_are_alike(ranks):
    even = sorted([*ranks, *ranks])
    table = amplitudes(even)
    assert (table[0::2] == table[1::2]).all()
    squares = table.astype(np.float64)[:, 1:] ** 2
    parts = (squares * (squares.sum(axis=0) - squares)).sum(axis=1)
    assert parts.max() < 4 * parts.min(), "no field is lost beside the others"


def test_what_a_field_needs_rises_with_its_rank():
    vectors = vectors_of(PLANTED)
    needed, shares = [], []
    for field in range(len(PLANTED)):
        energy = energies(interactions(vectors, field))
        needed.append(int((np.cumsum(energy) < 0.95 * energy.sum()).sum()) + 1)
        shares.append(energy.sum())
    for (rank, need), (higher, more) in combinations(sorted(zip(PLANTED, needed, strict=True)), 2):
        assert rank == higher or need < more, f"{need} components hold 95 % of rank {rank}, {more} of rank {higher}"
    assert max(shares) < 1.3 * min(shares)


def test_fields_beyond_the_ranks_have_no_part_in_the_label():
    ranks = [3, 1, 5, 5]
    table = {"ranks": ranks, "scale": 0.02, "dense": 0}
    made = make([f"C{field}" for field in range(1, 27)], **table)
    planted = splits(SyntheticConfig.model_validate({"rows": ROWS, **table}))[0].planted
    # Truth and labels once more, from the four columns alone.
    sizes = amplitudes(ranks)
    columns = [made.test[f"C{field}"].to_numpy() for field in range(1, 5)]
    vectors = [factors(stream(1, 5, field), ids, 5) * sizes[field] for field, ids in enumerate(columns)]
    probability = planted.probability(sums(vectors, np.zeros((len(columns[0]), 0), np.float32), 0))
    labels = made.test["label"].to_numpy()
    loss = -np.where(labels == 1, np.log(probability), np.log1p(-probability)).mean()
    assert made.facts.optimal_logloss == pytest.approx(loss, abs=1e-9)
    for tenth in np.array_split(np.argsort(probability), 10):
        promised = probability[tenth]
        assert abs(labels[tenth].sum() - promised.sum()) < 5 * math.sqrt((promised * (1 - promised)).sum())
    assert make(["C1"], **table).train["label"].equals(made.train["label"])
    assert made.test["C26"].to_numpy().max() > 1000


def test_a_rank_changes_no_id_and_no_other_ids():
    planted = make(["C1", "C2"], ranks=[2, 7, 7], scale=0.02)
    plain = make(["C1", "C2"], scale=0.02)
    assert planted.test.select(["C1", "C2"]).equals(plain.test.select(["C1", "C2"]))
    assert not planted.test["label"].equals(plain.test["label"])


def test_cardinalities_are_those_of_the_fields_and_there_are_no_others():
    sizes = [5, 100, 2**31 - 1]
    made = make(["C1", "C2", "C3"], ranks=[2, 4, 4], cardinalities=sizes, zipf=0.0, dense=0)
    for name, size in zip(["C1", "C2", "C3"], sizes, strict=True):
        ids = made.test[name].to_numpy()
        assert ids.dtype == np.int64
        assert ids.min() >= 0
        assert size * 0.99 < ids.max() + 1 <= size
    with pytest.raises(DataError, match="no column 'C4'"):
        make(["C4"], ranks=[2, 4, 4], cardinalities=sizes)


@pytest.mark.parametrize("shares", [(0.2, 0.8, 0.0), (0.0, 1.0, 0.0), (1, 0, 0), (0.1, 0.2, 0.7)])
@pytest.mark.parametrize("ranks", [None, [3, 2, 3]])
def test_the_logit_is_shared_out_as_asked(shares, ranks):
    table = {"rows": ROWS, "shares": shares, "ranks": ranks, "scale": 0.02}
    test = splits(SyntheticConfig.model_validate(table))[2]
    (rows,) = test._chunks()
    parts = np.var(np.array(test.planted.weights)[:, None] * rows.parts, axis=1)
    np.testing.assert_allclose(parts / parts.sum(), shares, atol=0.04)


def test_without_dense_columns_the_others_share_their_part():
    test = splits(SyntheticConfig.model_validate({"rows": ROWS, "dense": 0}))[2]
    (rows,) = test._chunks()
    parts = np.var(np.array(test.planted.weights)[:, None] * rows.parts, axis=1)
    np.testing.assert_allclose(parts / parts.sum(), [0.625, 0.375, 0], atol=0.03)


@settings(max_examples=40, deadline=None)
@given(RANKS, st.integers(25, 300), st.integers(1, 300), st.integers(0, 2**63 - 1))
def test_any_ranks_are_made_and_a_prefix_stands(ranks, ids, rows, seed):
    table = {"ranks": ranks, "cardinalities": [ids] * len(ranks), "dense": 0, "seed": seed, "zipf": 0.5}
    config, planted = SyntheticConfig.model_validate({"rows": ROWS, **table}), Planted(-1.0, (1.0, 2.0, 0.0), 0.0, 0.25)
    names = ("label", *(f"C{field}" for field in range(1, len(ranks) + 1)))
    (whole,) = Split(config, "train", 300, planted).batches(names)
    (few,) = Split(config, "train", rows, planted).batches(names)
    assert whole.slice(0, rows).equals(few)
    for name in names[1:]:
        assert 0 <= whole[name].to_numpy().min() <= whole[name].to_numpy().max() < ids


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"ranks": [2, 4, 4], "rank": 4}, "`ranks` go instead of `rank`; found rank = 4 as well"),
        ({"ranks": [2, 4, 4], "bag": 3}, "the bag has none; found bag = 3"),
        ({"ranks": [2, 8]}, "two fields or more have the largest of `ranks`.* found 8 for C2 only"),
        ({"ranks": [8, 4, 4]}, "found 8 for C1 only"),
        ({"ranks": [4]}, "ranks\n.*at least 2 items"),
        ({"ranks": [2] * 27}, "ranks\n.*at most 26 items"),
        ({"ranks": [0, 2, 2]}, "ranks.0\n"),
        ({"ranks": [65, 65]}, "ranks.0\n"),
        ({"ranks": [2.0, 2]}, "ranks.0\n.*integer"),
        ({"ranks": [3, 3, 3]}, "more ids than its rank.* found 3 ids of rank 3 for C1"),
        ({"ranks": [4, 4], "cardinalities": [5, 4]}, "found 4 ids of rank 4 for C2"),
        ({"ranks": [4, 4], "cardinalities": [5, 5], "scale": 0.001}, "`cardinalities` go instead of `scale`"),
        ({"ranks": [4, 4], "cardinalities": [9]}, "a number for each of `ranks`; found 1 for 2"),
        ({"ranks": [4, 4], "cardinalities": [9, 2**31]}, "cardinalities.1\n"),
        ({"cardinalities": [9, 9]}, "found no `ranks`"),
        ({"shares": [0.5, 0.3, 0.3]}, "`shares` sum to 1; found 1.1"),
        ({"shares": [0.5, 0.5]}, "shares.2\n"),
        ({"shares": [1.5, -0.5, 0.0]}, "shares.0\n"),
        ({"shares": [0, 0, 1], "dense": 0}, "something to follow; found 1.0 for `dense` = 0"),
    ],
)
def test_what_cannot_be_planted_is_refused(table, said):
    with pytest.raises(ValidationError, match=said):
        SyntheticConfig.model_validate({"rows": ROWS, **table})


def test_a_seed_gives_the_same_bytes():
    table = make(["C1", "C2", "C3"], ranks=[2, 8, 8], cardinalities=[20, 30, 40], limit=1000).train
    digest = hashlib.sha256(b"".join(table[name].to_numpy().tobytes() for name in table.column_names)).hexdigest()
    assert digest == "ae153ece57220e1daa99feb23be07b7715423414eea5e4d2449b765ffdca9806"


def test_the_shipped_recipe_plants_what_its_features_show(tmp_path):
    recipe, base = read_recipe("planted_dims")
    made = recipe.data.synthetic
    assert made is not None
    assert made.ranks is not None
    assert list(recipe.features) == [f"C{field}" for field in range(1, len(made.ranks) + 1)]
    assert recipe.search.candidates[-1] >= max(made.ranks)
    assert all(made.ranks.count(rank) >= 2 for rank in made.ranks)
    assert list(made.ranks) not in (sorted(made.ranks), sorted(made.ranks, reverse=True))
    written = tmp_path / "recipe.toml"
    written.write_text(to_toml(recipe, base))
    assert read_recipe(str(written))[0] == recipe
