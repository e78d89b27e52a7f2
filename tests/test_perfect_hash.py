"""Vocabularies by perfect hash: each kept value finds its id in a slot of its own, and no other value finds one.

`located` is the arithmetic that export/perfect_hash.py states, written again; the graphs are held against `ids_of`.
"""

import hashlib
from collections.abc import Sequence
from random import Random

import numpy as np
import onnx
import pytest
from graphs import opened
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from quorem.export.graph import Graph
from quorem.export.perfect_hash import FACTOR, PerfectHash, perfect_hash
from quorem.export.vocabulary import find, vocabularies
from quorem.protos import manifest_pb2 as pb
from quorem.protos.ids import MISSING, Int64s, VocabularyValues, ids_of

INT64S = st.integers(-(2**63), 2**63 - 1)
EXTREMES = [-(2**63), 1 - 2**63, -(2**32), -1, 0, 1, 2**31, 2**32, 2**63 - 2, 2**63 - 1]
SHAPES = {
    "at random": lambda n: np.random.default_rng(n).integers(-(2**63), 2**63 - 1, n),
    "one after the other": lambda n: np.arange(n),
    "below 0": lambda n: -np.arange(n),
    "hours in ms": lambda n: 1_600_000_000_000 + 3_600_000 * np.arange(n),
    "multiples of 2^20": lambda n: np.arange(n) << 20,
    "of the same low half": lambda n: np.arange(n) << 32 | 0x12345678,
    "of few high bits": lambda n: np.arange(n) << (63 - max(n - 1, 1).bit_length()),
    "two packed in one": lambda n: (np.arange(n) // 97 << 32) | np.arange(n) % 97,
    "multiples of FACTOR's inverse": lambda n: (np.arange(n, dtype=np.uint64) * pow(FACTOR, -1, 2**64)).view(np.int64),
}


def distinct(values: Sequence[int] | Int64s) -> tuple[Int64s, np.ndarray]:
    """The values, rising, and ids in another order."""
    rising = np.unique(np.array(values, np.int64))
    return rising, np.random.default_rng(len(rising)).permutation(len(rising)).astype(np.int32) + 1


def located(found: PerfectHash, n: int, raw: Int64s) -> tuple[Int64s, Int64s]:
    """Slots and ids of raw values."""
    shift = np.uint64(32)
    spread = raw.view(np.uint64) * np.uint64(FACTOR)
    mixed = (spread ^ (spread >> shift)) * np.uint64(found.seed)
    hashes = (mixed ^ (mixed >> shift)).view(np.int64)
    slots = (hashes ^ found.displacements[hashes % len(found.displacements)]) % max(n, 1)
    return slots, n - np.minimum(found.entries[slots] ^ spread, np.uint64(n)).astype(np.int64)


def expect_law(values: Int64s, ids: np.ndarray, others: Int64s) -> PerfectHash:
    found, n = perfect_hash(values, ids), len(values)
    slots, ids_found = located(found, n, values)
    assert sorted(slots.tolist()) == list(range(n)), "n values, n slots"
    assert ids_found.tolist() == ids.tolist()
    assert (found.displacements >= 0).all()
    assert len(found.entries) == max(n, 1)
    unseen = others[~np.isin(others, values)]
    assert not located(found, n, unseen)[1].any()
    return found


@settings(max_examples=150, deadline=None)
@given(st.lists(INT64S | st.sampled_from(EXTREMES) | st.integers(-50, 50), max_size=60), st.lists(INT64S, max_size=20))
def test_kept_values_find_their_ids_and_neighbours_do_not(drawn: list[int], others: list[int]) -> None:
    values, ids = distinct(drawn)
    near = [values + step for step in (-1, 1, 2**31, 1 - 2**32, 2**32 - 1, 2**32, -(2**40), 2**63 - 1, MISSING)]
    expect_law(values, ids, np.concatenate([*near, np.array(others, np.int64), EXTREMES]))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 64, 1000, 1024, 65536])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_of_any_shape_have_a_hash(shape: str, n: int) -> None:
    values, ids = distinct(SHAPES[shape](n))
    assert len(values) == n
    steps = np.random.default_rng(n).integers(1, 2**32, (2, n))
    others = [values + steps[0], values - steps[0], values + (steps[1] << 32), values + 1, values - 1]
    found = expect_law(values, ids, np.concatenate([*others, [MISSING]]))
    if n >= 1000:
        assert found.displacements.nbytes + found.entries.nbytes <= 9.65 * n


@pytest.mark.parametrize("shape", ["at random", "one after the other"])
def test_a_million_values(shape: str) -> None:
    values, ids = distinct(SHAPES[shape](10**6))
    others = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 10**6)
    found = expect_law(values, ids, np.concatenate([others, values + 2**20, values + 2**32]))
    assert found.displacements.nbytes + found.entries.nbytes <= 9.51 * len(values)


def test_no_multiple_of_the_factor_is_near() -> None:
    """Neighbours of one product: the convergents of FACTOR / 2^64 come nearest (Khinchin, Continued Fractions, 6)."""
    assert FACTOR % 2
    times, before, last, distance = [1], 0, 2**64, FACTOR
    while times[-1] < 2**32:
        before, following = times[-1], before + last // distance * times[-1]
        times.append(following)
        last, distance = distance, last % distance
    distances = [min(each * FACTOR % 2**64, -each * FACTOR % 2**64) for each in times]
    assert distances[1:] == sorted(distances[1:], reverse=True)
    assert times[-2] < 2**32 <= times[-1]
    assert distances[-2] >= 2**31
    multiples = np.arange(1, 2**20, dtype=np.uint64) * np.uint64(FACTOR)
    assert np.minimum(multiples, -multiples).min() == min(
        each for each, n in zip(distances, times, strict=True) if n < 2**20
    )


def test_missing_is_told_from_every_small_integer() -> None:
    values, ids = distinct(np.arange(-500, 500))
    expect_law(values, ids, np.array([MISSING]))
    for value in (-1, 0, 1, 2**31, 2**32, -(2**62)):
        expect_law(np.array([value]), np.ones(1, np.int32), np.array([MISSING]))


def test_the_same_values_give_the_same_bytes() -> None:
    values, ids = np.arange(1000) * 7, np.arange(1, 1001, dtype=np.int32)
    found = [perfect_hash(values, ids) for _ in range(2)]
    digests = [hashlib.sha256(one.displacements.tobytes() + one.entries.tobytes()).hexdigest()[:16] for one in found]
    assert digests == ["2374a90475b007c6"] * 2, "another hash than quorem's releases have made of these values"


def in_graph(kept: Sequence[Int64s], columns: Sequence[int], raw: Int64s, to: int) -> tuple[onnx.ModelProto, Int64s]:
    """The stage alone, its tables inside the model, and the ids it finds for raw values of the columns."""
    features = [
        pb.Feature(name=f"v{k}", vocabulary=pb.Vocabulary(size=len(each), min_count=1)) for k, each in enumerate(kept)
    ]
    weights = dict[str, np.ndarray]()
    for k, each in enumerate(kept):
        weights[f"vocabulary.v{k}.values"], weights[f"vocabulary.v{k}.ids"] = distinct(each)
    graph, dense = Graph(), pb.Feature(name="x", dense=pb.Dense())
    known = vocabularies(pb.Schema(features=[*features, dense]), weights.__getitem__)
    found = find(graph, "vocabulary", "raw", [features[k] for k in columns], known, to)
    model = graph.model(
        [helper.make_tensor_value_info("raw", TensorProto.INT64, ["rows", len(columns)])],
        [helper.make_tensor_value_info(found, to, ["rows", len(columns)])],
    )
    inside = [numpy_helper.from_array(one.parts[0], name) for name, one in graph.store.packed.items()]
    kept_inside = [one for one in model.graph.initializer if one.name not in graph.store.packed]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept_inside, *inside])
    onnx.checker.check_model(model, full_check=True)
    result = np.asarray(opened(model).run(None, {"raw": raw})[0])
    assert result.dtype == helper.tensor_dtype_to_np_dtype(to)
    for place, k in enumerate(columns):
        values = VocabularyValues(weights[f"vocabulary.v{k}.values"], weights[f"vocabulary.v{k}.ids"])
        column = np.ascontiguousarray(raw[:, place])
        assert result[:, place].tolist() == ids_of(features[k], column, values).tolist(), k
    return model, result


@pytest.mark.parametrize("to", [TensorProto.INT64, TensorProto.INT32])
def test_the_graph_finds_the_ids_of_all_vocabularies_in_step(to: int) -> None:
    rng = np.random.default_rng(0)
    kept = [
        np.arange(0),
        np.array(EXTREMES, np.int64),
        np.arange(200),
        np.arange(200) + 100,  # many values of its neighbour, under other ids
        rng.integers(-(2**63), 2**63 - 1, 1000),
        np.array([0]),
        np.arange(64) << 32,
    ]
    columns = [4, 2, 3, 3, 0, 1, 6, 5, 2]  # another order, and bags
    everything = np.concatenate([np.concatenate(kept), EXTREMES, rng.integers(-(2**63), 2**63 - 1, 500)])
    raw = np.stack([rng.permutation(everything) for _ in columns], axis=1).astype(np.int64)
    model, result = in_graph(kept, columns, raw, to)
    assert (result.max(0) == [len(np.unique(kept[k])) for k in columns]).all(), "every id was found"
    assert len(model.graph.node) == 20


def test_one_vocabulary_needs_no_starts() -> None:
    model, _ = in_graph([np.arange(50)], [0, 0], np.arange(-20, 80).reshape(-1, 2), TensorProto.INT64)
    assert len(model.graph.node) == 18


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(INT64S | st.integers(-9, 9), max_size=12), min_size=1, max_size=4), st.randoms())
def test_the_graph_finds_what_ids_of_finds(kept: list[list[int]], random: Random) -> None:
    columns = list(range(len(kept)))
    pool = [*EXTREMES, *range(-9, 10), *(value for each in kept for value in each)]
    raw = np.array([[random.choice(pool) for _ in columns] for _ in range(30)], np.int64)
    in_graph([np.array(each, np.int64) for each in kept], columns, raw, TensorProto.INT64)


def test_both_sides_of_a_model_share_the_tables() -> None:
    feature = pb.Feature(name="v", vocabulary=pb.Vocabulary(size=2, min_count=1))
    weights = {"vocabulary.v.values": np.array([3, 9]), "vocabulary.v.ids": np.array([2, 1], np.int32)}
    known, graph = vocabularies(pb.Schema(features=[feature]), weights.__getitem__), Graph()
    for prefix, raw in (("context", "context_ids"), ("candidate", "candidate_ids")):
        find(graph, prefix, raw, [feature], known)
    assert sorted(graph.store.packed) == ["vocabulary/displacements", "vocabulary/entries"]
    assert len({node.name for node in graph.nodes}) == len(graph.nodes) == 36
