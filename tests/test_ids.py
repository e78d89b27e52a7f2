"""Laws of ids: the published vectors, and every encoding against its definition in the manifest's own words."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorem.protos import ids
from quorem.protos import manifest_pb2 as pb

GOLDEN = json.loads((Path(__file__).parent / "golden" / "ids.json").read_text())
EDGES = [0, 1, -1, 2**24 - 1, 2**24 + 1, 2**31, 2**33, 2**53 + 1, 2**62, 2**63 - 1, -(2**63), -(2**63) + 1]

int64s = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EDGES) | st.integers(-3, 12)
floats = st.floats(width=32, allow_subnormal=True)


def array(values: list[int]) -> ids.Int64s:
    return np.array(values, np.int64)


def string_of(vector: dict[str, str]) -> bytes:
    return bytes.fromhex(vector["bytes"]) if "bytes" in vector else vector["text"].encode()


# ---------------------------------------------------------------- published vectors


@pytest.mark.parametrize("vector", GOLDEN["strings"], ids=lambda vector: ascii(string_of(vector)[:16]))
def test_strings_have_their_published_raw64(vector: dict[str, str]) -> None:
    assert ids.raw64_of_strings([string_of(vector)]).tolist() == [int(vector["raw64"])]


def test_the_vectors_agree_with_those_of_the_hash_itself() -> None:
    """XXH3's own sanity checks: the empty string and "a", seed 0."""
    found = ids.raw64_of_strings([b"", b"a"]).view(np.uint64).tolist()
    assert found == [0x2D06800538D394C2, 0xE6C632B61E964E1F]


def test_no_string_is_missing() -> None:
    """The golden file holds eight bytes whose xxh3_64 is the code of a missing value."""
    assert ids.MISSING not in ids.raw64_of_strings([string_of(vector) for vector in GOLDEN["strings"]])


def test_fmix64_has_its_published_values() -> None:
    values = np.array([int(vector["value"]) for vector in GOLDEN["fmix64"]], np.uint64)
    assert ids.fmix64(values).tolist() == [int(vector["mixed"]) for vector in GOLDEN["fmix64"]]


@pytest.mark.parametrize("vector", GOLDEN["hash"], ids=lambda vector: vector["raw64"])
def test_hashed_ids_have_their_published_values(vector: dict[str, str]) -> None:
    feature = pb.Feature(hash=pb.Hash(buckets=int(vector["buckets"]), seed=int(vector["seed"])))
    assert ids.ids_of(feature, array([int(vector["raw64"])])).tolist() == [int(vector["id"])]


def test_the_vectors_in_the_docstring_hold() -> None:
    vectors = [line.strip() for line in (ids.__doc__ or "").splitlines() if "==" in line]
    assert len(vectors) == 2
    for vector in vectors:
        call, _, expected = vector.partition(" == ")
        call = call.replace("fmix64([0, 1])", "fmix64(np.array([0, 1], np.uint64))")
        assert eval(call, {"np": np} | vars(ids)).tolist() == eval(expected)


def test_another_process_gives_the_same_ids() -> None:
    program = (
        "import sys, json; from quorem.protos.ids import raw64_of_strings\n"
        "strings = [bytes.fromhex(each) for each in json.load(sys.stdin)]\n"
        "print(json.dumps(raw64_of_strings(strings).tolist()))"
    )
    strings = [string_of(vector) for vector in GOLDEN["strings"]]
    found = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([string.hex() for string in strings]),
        env=os.environ | {"PYTHONHASHSEED": "123"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(found.stdout) == [int(vector["raw64"]) for vector in GOLDEN["strings"]]


# ---------------------------------------------------------------- fmix64 and hash


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 8), min_size=1))
def test_fmix64_is_the_integers_one(values: list[int]) -> None:
    assert ids.fmix64(np.array(values, np.uint64)).tolist() == [oracle.fmix64(value) for value in values]


def test_fmix64_leaves_its_argument_alone() -> None:
    values = np.arange(5, dtype=np.uint64)
    ids.fmix64(values)
    assert values.tolist() == [0, 1, 2, 3, 4]


@given(
    raw=st.lists(int64s, min_size=1),
    buckets=st.integers(1, 2**63 - 1) | st.integers(1, 8),
    seed=st.integers(0, 2**64 - 1),
)
def test_hashed_ids_are_the_integers_ones(raw: list[int], buckets: int, seed: int) -> None:
    feature = pb.Feature(hash=pb.Hash(buckets=buckets, seed=seed))
    found = ids.ids_of(feature, array(raw)).tolist()
    assert found == [oracle.fmix64(each % 2**64 ^ seed) % buckets for each in raw]
    assert all(0 <= each < buckets for each in found)


def test_hashed_ids_of_consecutive_integers_fill_their_buckets_evenly() -> None:
    """A bijection that scatters: 2^16 neighbours over 64 buckets stay within 5 standard deviations of 1024 each."""
    feature = pb.Feature(hash=pb.Hash(buckets=64, seed=1))
    counts = np.bincount(ids.ids_of(feature, np.arange(2**16)), minlength=64)
    assert np.abs(counts - 1024).max() < 5 * math.sqrt(1024)


# ---------------------------------------------------------------- id ranges


@given(raw=st.lists(int64s, min_size=1), size=st.integers(1, 2**63 - 2) | st.integers(1, 8))
def test_an_id_is_itself_within_its_range_and_rare_outside(raw: list[int], size: int) -> None:
    found = ids.ids_of(pb.Feature(id=pb.IdRange(size=size)), array(raw)).tolist()
    assert found == [each if 0 <= each < size else size for each in raw]


def test_the_edges_of_an_id_range() -> None:
    found = ids.ids_of(pb.Feature(id=pb.IdRange(size=2**62)), array([-1, 0, 2**62 - 1, 2**62, 2**63 - 1, ids.MISSING]))
    assert found.tolist() == [2**62, 0, 2**62 - 1, 2**62, 2**62, 2**62]


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int]:
    """The first value and the size of a range that lies within int64, above the code of a missing value."""
    size = draw(st.integers(1, 2**63 - 2) | st.integers(1, 8))
    last = 2**63 - size
    return draw(
        st.integers(-(2**63) + 1, last) | st.sampled_from([1 - 2**63, last]) | st.integers(-9, min(9, last))
    ), size


@given(raw=st.lists(int64s, min_size=1), held=ranges())
def test_a_range_may_begin_anywhere(raw: list[int], held: tuple[int, int]) -> None:
    first, size = held
    values = [*raw, ids.MISSING, first, first - 1, first + size - 1, min(first + size, 2**63 - 1)]
    found = ids.ids_of(pb.Feature(id=pb.IdRange(first=first, size=size)), array(values)).tolist()
    assert found == [each - first if first <= each < first + size else size for each in values]
    assert found[len(raw)] == size, "a missing value is in no range"


@given(st.lists(st.lists(int64s, min_size=3, max_size=3), min_size=1))
def test_ids_keep_the_shape_of_their_raw_values(raw: list[list[int]]) -> None:
    feature, grid = pb.Feature(id=pb.IdRange(size=5)), np.array(raw, np.int64)
    assert ids.ids_of(feature, grid).shape == grid.shape
    assert ids.ids_of(feature, grid[:, 1]).tolist() == ids.ids_of(feature, grid)[:, 1].tolist()  # a strided view


# ---------------------------------------------------------------- vocabularies


@given(raw=st.lists(int64s, max_size=60), min_count=st.integers(1, 4), probes=st.lists(int64s, max_size=20))
def test_a_vocabulary_is_its_definition(raw: list[int], min_count: int, probes: list[int]) -> None:
    """Ids 1, 2, … by falling count, ties by smaller raw64; rare and unseen values have id 0."""
    counts = {value: raw.count(value) for value in raw}
    kept = sorted((value for value in counts if counts[value] >= min_count), key=lambda value: (-counts[value], value))
    expected = {value: position for position, value in enumerate(kept, start=1)}
    vocabulary = ids.count_vocabulary(array(raw), min_count)
    assert vocabulary.values.tolist() == sorted(kept)
    assert dict(zip(vocabulary.values.tolist(), vocabulary.ids.tolist(), strict=True)) == expected
    assert (vocabulary.values.dtype, vocabulary.ids.dtype) == (np.int64, np.int32)

    feature = pb.Feature(vocabulary=pb.Vocabulary(size=len(kept), min_count=min_count))
    found = ids.ids_of(feature, array(raw + probes), vocabulary)
    assert found.dtype == np.int64
    assert found.tolist() == [expected.get(value, 0) for value in raw + probes]


def test_the_order_of_the_rows_does_not_change_a_vocabulary() -> None:
    raw = np.random.default_rng(0).integers(-40, 40, 500)
    first, second = ids.count_vocabulary(raw, 2), ids.count_vocabulary(raw[::-1].copy(), 2)
    assert first.values.tobytes() == second.values.tobytes()
    assert first.ids.tobytes() == second.ids.tobytes()


def test_missing_is_a_value_like_any_other_to_a_vocabulary() -> None:
    vocabulary = ids.count_vocabulary(array([ids.MISSING, ids.MISSING, 7]), 1)
    feature = pb.Feature(vocabulary=pb.Vocabulary(size=2, min_count=1))
    assert ids.ids_of(feature, array([7, ids.MISSING, 8]), vocabulary).tolist() == [2, 1, 0]


# ---------------------------------------------------------------- buckets

boundary_lists = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=8, unique=True)


@given(boundaries=boundary_lists, numbers=st.lists(floats, min_size=1))
def test_a_bucket_counts_the_boundaries_at_or_below(boundaries: list[float], numbers: list[float]) -> None:
    boundaries = sorted(set(boundaries))
    numbers += boundaries
    found = ids.bucket_ids(np.array(boundaries, np.float32), np.array(numbers, np.float32)).tolist()
    assert found == [
        0 if math.isnan(number) else 1 + sum(boundary <= number for boundary in boundaries) for number in numbers
    ]
    assert all(0 <= each < len(boundaries) + 2 for each in found)


def test_the_edges_of_buckets() -> None:
    boundaries = np.array([0.0, 0.1, 5.0], np.float32)
    below = np.nextafter(boundaries[1], np.float32(0))
    numbers = np.array([math.nan, -math.inf, -0.0, below, boundaries[1], 5.0, math.inf], np.float32)
    assert ids.bucket_ids(boundaries, numbers).tolist() == [0, 1, 2, 2, 3, 4, 4]
