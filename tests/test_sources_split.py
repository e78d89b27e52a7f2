"""Splits: each row in one split, sizes as said, the newest rows last."""

import math
from datetime import date, datetime
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from quorem.protos.errors import DataError
from quorem.train.sources.split import ByShare, ByTime, by_share, by_time

percent = st.integers(1, 98)


def shares(valid: int, test: int) -> dict[str, float]:
    assume(valid + test < 100)
    return {"valid": valid / 100, "test": test / 100}


def check_sizes(parts, rows: int, valid: int, test: int) -> None:
    assert sorted(np.concatenate(list(parts.values()))) == list(range(rows))
    assert len(parts["valid"]) == math.floor(Fraction(valid, 100) * rows)
    assert len(parts["test"]) == math.floor(Fraction(test, 100) * rows)
    assert all((np.diff(part) > 0).all() for part in parts.values()), "file order"


@given(st.integers(0, 500), percent, st.integers(0, 98), st.integers(0, 2**63 - 1))
def test_shares_part_the_rows(rows, valid, test, seed):
    split = ByShare(by="share", seed=seed, **shares(valid, test))
    parts = by_share(rows, split)
    check_sizes(parts, rows, valid, test)
    again = by_share(rows, split)
    assert all((parts[name] == again[name]).all() for name in parts)


def test_shares_are_drawn_at_random_by_seed():
    one, two = (by_share(10000, ByShare(by="share", valid=0.2, test=0.3, seed=seed))["test"] for seed in (1, 2))
    assert 0.25 < len(np.intersect1d(one, two)) / 3000 < 0.35  # independent draws share .3 of their rows
    assert abs(one.mean() - 5000) < 5 * 10000 / math.sqrt(12 * 3000)
    assert 0.25 < np.mean(np.diff(one) == 1) < 0.35


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=200), percent, st.integers(0, 98))
def test_the_newest_rows_are_test(times, valid, test):
    column = pa.chunked_array([times], pa.int64())
    parts = by_time(column, ByTime(by="time", column="t", **shares(valid, test)), "file")
    check_sizes(parts, len(times), valid, test)
    age = [(time, row) for row, time in enumerate(times)]
    old, middle, new = ([age[row] for row in parts[name]] for name in ("train", "valid", "test"))
    assert max(old) < min(middle + new, default=(2**63, 0))
    assert not (middle and new) or max(middle) < min(new)


@pytest.mark.parametrize(
    "times",
    [
        ["9", "10", "-3"],
        ["9.5", "1e1", "-3"],
        ["2024-01-02", "2024-01-10", "2023-12-31"],
        ["2024-01-02 09:00:00", "2024-01-02 10:00:00.5", "2024-01-02 08:59:59"],
        ["2024-01-02T09:00:00Z", "2024-01-02T09:00:01Z", "2024-01-02T10:00:00+02:00"],
        [date(2024, 1, 2), date(2024, 1, 10), date(2023, 12, 31)],
        [datetime(2024, 1, 2, 9), datetime(2024, 1, 2, 10), datetime(2024, 1, 2, 8, 59)],
        [2.0**60, 2.0**60 * (1 + 2**-52), -1.0],
    ],
)
def test_times_are_compared_as_times(times):
    parts = by_time(pa.chunked_array([times]), ByTime(by="time", column="t", valid=0.34, test=0.34), "file")
    assert {name: rows.tolist() for name, rows in parts.items()} == {"train": [2], "valid": [0], "test": [1]}


@pytest.mark.parametrize(
    ("times", "found", "where"),
    [
        (["5/31/2024", "6/1/2024"], "'5/31/2024'", "file, column 't'"),
        ([[1], [2]], "a column of type list", "file, column 't'"),
        ([True, False], "a column of type bool", "file, column 't'"),
        ([1, None], "a missing value", "row 2 of file, column 't'"),
        ([float("nan"), 1.0], "a missing value", "row 1 of file, column 't'"),
    ],
)
def test_a_column_without_times_is_refused(times, found, where):
    with pytest.raises(DataError) as caught:
        by_time(pa.chunked_array([times]), ByTime(by="time", column="t", valid=0.5), "file")
    assert found in caught.value.found
    assert caught.value.where == where
