"""Hashing many strings at once: the same raw64 as of each alone."""

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from quorem.protos.ids import raw64_of_strings
from quorem.train.encode.hashing import raw64_of_array


def expected(strings: list[str]) -> np.ndarray:
    return raw64_of_strings([each.encode() for each in strings])


@given(st.lists(st.text(max_size=80), max_size=30), st.integers(0, 5))
def test_any_strings(strings: list[str], skipped: int) -> None:
    found = raw64_of_array(pa.array(strings, pa.string()).slice(skipped))
    assert found.dtype == np.int64
    assert found.tolist() == expected(strings[skipped:]).tolist()


@pytest.mark.parametrize("alone", [True, False], ids=["one length", "all lengths"])
def test_every_length(alone: bool) -> None:
    draw = np.random.default_rng(3)
    strings = [bytes(draw.integers(1, 127, size)).decode() for size in range(300) for _ in range(3)]
    groups = [strings[first : first + 3] for first in range(0, 900, 3)] if alone else [strings]
    for group in groups:
        assert raw64_of_array(pa.array(group)).tolist() == expected(group).tolist(), len(group[0])


def test_more_than_are_hashed_at_a_time() -> None:
    strings = [f"{number * 2654435761 % 2**32:08x}" for number in range(20_000)]
    assert (raw64_of_array(pa.array(strings)) == expected(strings)).all()
