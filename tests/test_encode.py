"""Laws of the encoder: which raw value lands in which slot, and a named refusal for every wrong column."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorem.protos import manifest_pb2 as pb
from quorem.protos.encode import Column, encode
from quorem.protos.errors import InputError, MissingColumn, OutOfRange, UnknownColumn, WrongLength, WrongType
from quorem.protos.ids import MISSING, raw64_of_strings

AGE = pb.Feature(name="age", values=pb.FLOAT, dense=pb.Dense(transform=pb.NONE, scale=1))
PRICE = pb.Feature(name="price", values=pb.FLOAT, bucket=pb.Bucket(boundaries=[1, 2]))
USER = pb.Feature(name="user", values=pb.INTEGER, hash=pb.Hash(buckets=10))
SEAT = pb.Feature(name="seat", values=pb.INTEGER, id=pb.IdRange(size=5, out_of_range=pb.ERROR))
ROOM = pb.Feature(name="room", values=pb.INTEGER, id=pb.IdRange(size=5, out_of_range=pb.RARE))
CITY = pb.Feature(name="city", values=pb.STRING, vocabulary=pb.Vocabulary(size=3, min_count=1))
TAGS = pb.Feature(name="tags", values=pb.INTEGER, hash=pb.Hash(buckets=9), bag=pb.Bag(max_length=3, pooling=pb.SUM))
WORDS = pb.Feature(name="words", values=pb.STRING, hash=pb.Hash(buckets=9), bag=pb.Bag(max_length=2, pooling=pb.MEAN))

int64s = st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(-2, 9)
strings = st.text(max_size=5).map(str.encode)


def integers(*values: int) -> Any:
    return np.array(values, np.int64)


def floats(*values: float) -> Any:
    return np.array(values, np.float32)


def flags(*values: int) -> Any:
    return np.array(values, np.bool_)


def ids(
    feature: pb.Feature, column: Column, rows: int, long_bags: Literal["cut", "refuse"] = "refuse"
) -> list[list[int]]:
    found = encode(pb.Schema(features=[feature]), {feature.name: column}, rows, long_bags=long_bags)
    assert (found.ids.dtype, found.dense.shape) == (np.int64, (rows, 0))
    return found.ids.tolist()


def dense(feature: pb.Feature, column: Column, rows: int) -> list[float]:
    found = encode(pb.Schema(features=[feature]), {feature.name: column}, rows, long_bags="refuse")
    assert (found.dense.dtype, found.ids.shape) == (np.float32, (rows, 0))
    return found.dense[:, 0].tolist()


# ---------------------------------------------------------------- where values land


def test_every_feature_has_its_slots_and_columns_in_schema_order() -> None:
    schema = pb.Schema(features=[TAGS, PRICE, USER, AGE, CITY])
    columns = {
        "city": Column(strings=[b"Rome", b""]),
        "age": Column(floats=floats(1.5, math.nan)),
        "user": Column(integers=integers(7, -7)),
        "price": Column(integers=integers(3, 4), missing=flags(0, 1)),
        "tags": Column(integers=integers(1, 2, 3), lengths=integers(0, 3)),
    }
    found = encode(schema, columns, 2, long_bags="refuse")
    rome, empty = raw64_of_strings([b"Rome", b""]).tolist()
    assert found.ids.tolist() == [[MISSING, MISSING, MISSING, 7, rome], [1, 2, 3, -7, empty]]
    np.testing.assert_array_equal(found.dense, floats(3, 1.5, math.nan, math.nan).reshape(2, 2))


@given(st.lists(st.tuples(int64s, st.booleans()), max_size=20))
def test_integers_are_raw64_themselves_and_missing_ones_missing(rows: list[tuple[int, bool]]) -> None:
    values, missing = [value for value, _ in rows], [flag for _, flag in rows]
    assert ids(USER, Column(integers=integers(*values)), len(rows)) == [[value] for value in values]
    found = ids(USER, Column(integers=integers(*values), missing=flags(*missing)), len(rows))
    assert found == [[MISSING if flag else value] for value, flag in rows]


@given(st.lists(st.tuples(strings, st.booleans()), max_size=20))
def test_a_dictionary_is_the_same_as_its_strings(rows: list[tuple[bytes, bool]]) -> None:
    plain, missing = [value for value, _ in rows], flags(*(flag for _, flag in rows))
    distinct = sorted(set(plain), reverse=True)
    codes = integers(*(distinct.index(value) for value in plain))
    for flagged in (None, missing):
        expected = ids(CITY, Column(strings=plain, missing=flagged), len(rows))
        assert ids(CITY, Column(strings=distinct, codes=codes, missing=flagged), len(rows)) == expected


def test_a_missing_values_code_points_nowhere() -> None:
    """As where a column is missing throughout, and its dictionary empty."""
    column = Column(strings=[], codes=integers(0, -1), missing=flags(1, 1))
    assert ids(CITY, column, 2) == [[MISSING], [MISSING]]


def test_the_empty_string_is_a_value() -> None:
    assert ids(CITY, Column(strings=[b""]), 1) == [[3244421341483603138]]


@given(
    st.lists(
        st.tuples(st.floats(width=32, allow_infinity=False) | st.just(math.nan), st.booleans()), min_size=1, max_size=20
    )
)
def test_numbers_stay_as_they_are_and_missing_ones_are_nan(rows: list[tuple[float, bool]]) -> None:
    column = Column(floats=floats(*(value for value, _ in rows)), missing=flags(*(flag for _, flag in rows)))
    expected = [math.nan if flag else value for value, flag in rows]
    for feature in (AGE, PRICE):
        np.testing.assert_array_equal(dense(feature, column, len(rows)), expected)


def test_a_missing_number_may_be_anything() -> None:
    assert math.isnan(dense(AGE, Column(floats=floats(math.inf), missing=flags(1)), 1)[0])


def test_no_rows_give_empty_arrays() -> None:
    schema = pb.Schema(features=[USER, TAGS, AGE])
    columns = {
        "user": Column(integers=integers()),
        "tags": Column(integers=integers(), lengths=integers()),
        "age": Column(floats=floats()),
    }
    found = encode(schema, columns, 0, long_bags="refuse")
    assert (found.ids.shape, found.dense.shape) == ((0, 4), (0, 1))


def test_encoding_changes_no_column() -> None:
    values, missing = integers(1, 2), flags(0, 1)
    ids(USER, Column(integers=values, missing=missing), 2)
    assert (values.tolist(), missing.tolist()) == ([1, 2], [False, True])


# ---------------------------------------------------------------- bags

bags = st.lists(st.lists(st.none() | int64s, max_size=6), max_size=8)


def bag_column(rows: list[list[int | None]]) -> Column:
    items = [item for row in rows for item in row]
    return Column(
        integers=integers(*(9 if item is None else item for item in items)),
        lengths=integers(*map(len, rows)),
        missing=flags(*(item is None for item in items)),
    )


@given(bags)
def test_a_bag_keeps_its_first_items_and_leaves_missing_ones_out(rows: list[list[int | None]]) -> None:
    real = [[item for item in row if item is not None] for row in rows]
    expected = [(row + [MISSING] * 3)[:3] for row in real]
    assert ids(TAGS, bag_column(rows), len(rows), "cut") == expected
    longest = max(map(len, real), default=0)
    if longest <= 3:
        assert ids(TAGS, bag_column(rows), len(rows), "refuse") == expected
        return
    with pytest.raises(WrongLength, match=f"at most 3 items. Found: {longest} items") as caught:
        ids(TAGS, bag_column(rows), len(rows), "refuse")
    assert caught.value.where == f"column 'tags', row {[len(row) for row in real].index(longest)}"


def test_a_bag_of_strings() -> None:
    a, b = raw64_of_strings([b"a", b"b"]).tolist()
    column = Column(strings=[b"b", b"a"], codes=integers(1, 0, 1), lengths=integers(2, 0, 1))
    assert ids(WORDS, column, 3) == [[a, b], [MISSING, MISSING], [a, MISSING]]


def test_the_code_of_a_missing_value_in_a_bag_is_no_item() -> None:
    assert ids(TAGS, Column(integers=integers(MISSING, 5), lengths=integers(2)), 1) == [[5, MISSING, MISSING]]


# ---------------------------------------------------------------- ranges


def test_an_id_range_that_refuses() -> None:
    assert ids(SEAT, Column(integers=integers(0, 4, 99), missing=flags(0, 0, 1)), 3) == [[0], [4], [MISSING]]
    for bad in (-1, 5, 2**63 - 1):
        with pytest.raises(OutOfRange, match=r"\[0, 5\)") as caught:
            ids(SEAT, Column(integers=integers(0, bad)), 2)
        assert (caught.value.where, caught.value.found) == ("column 'seat', value 1", str(bad))


@pytest.mark.parametrize(("first", "last"), [(-2, 2), (957, 961), (2**63 - 5, 2**63 - 1), (1 - 2**63, 5 - 2**63)])
def test_an_id_range_that_begins_elsewhere_refuses_on_both_sides(first: int, last: int) -> None:
    seat = pb.Feature(name="seat", values=pb.INTEGER, id=pb.IdRange(first=first, size=5, out_of_range=pb.ERROR))
    assert ids(seat, Column(integers=integers(first, last, 7), missing=flags(0, 0, 1)), 3) == [
        [first],
        [last],
        [MISSING],
    ]
    for bad in (each for each in (first - 1, last + 1) if MISSING < each < 2**63):
        with pytest.raises(OutOfRange, match=rf"\[{first}, {last + 1}\)") as caught:
            ids(seat, Column(integers=integers(first, bad)), 2)
        assert (caught.value.where, caught.value.found) == ("column 'seat', value 1", str(bad))


def test_an_id_range_with_a_rare_id_takes_everything() -> None:
    assert ids(ROOM, Column(integers=integers(-1, 5)), 2) == [[-1], [5]]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("columns", "error", "found"),
    [
        ({"user": Column(integers=integers(1, 2)), "usr": Column()}, UnknownColumn, "'usr'"),
        ({}, MissingColumn, "'user'"),
    ],
    ids=["unknown", "missing"],
)
def test_columns_are_those_of_the_schema(columns: Mapping[str, Column], error: type[InputError], found: str) -> None:
    with pytest.raises(error, match=found) as caught:
        encode(pb.Schema(features=[USER]), columns, 2, long_bags="refuse")
    assert caught.value.where == "columns"
    assert caught.value.remedy


ONE, TWO = integers(1), integers(1, 2)


@pytest.mark.parametrize(
    ("feature", "column", "error", "told"),
    [
        (USER, Column(strings=[b"1", b"2"]), WrongType, "takes integers. Found: strings"),
        (USER, Column(floats=floats(1, 2)), WrongType, "takes integers. Found: floats"),
        (USER, Column(), WrongType, "takes integers. Found: no values"),
        (CITY, Column(integers=TWO), WrongType, "takes strings. Found: integers"),
        (CITY, Column(floats=floats(1, 2)), WrongType, "takes strings. Found: floats"),
        (AGE, Column(strings=[b"1", b"2"]), WrongType, "takes numbers. Found: strings"),
        (PRICE, Column(), WrongType, "takes numbers. Found: no values"),
        (USER, Column(integers=TWO, lengths=TWO), WrongType, "only a bag has lengths"),
        (AGE, Column(floats=floats(1, 2), lengths=TWO), WrongType, "only a bag has lengths"),
        (TAGS, Column(integers=TWO), WrongType, "a bag has lengths"),
        (USER, Column(integers=ONE), WrongLength, "1 values for 2 rows"),
        (CITY, Column(strings=[b"a"] * 3), WrongLength, "3 values for 2 rows"),
        (CITY, Column(strings=[b"a"], codes=integers(0)), WrongLength, "1 values for 2 rows"),
        (AGE, Column(floats=floats(1, 2, 3)), WrongLength, "3 values for 2 rows"),
        (USER, Column(integers=TWO, missing=flags(0)), WrongLength, "1 flags for 2 values"),
        (CITY, Column(strings=[b"a"], codes=integers(0, 0), missing=flags(0)), WrongLength, "1 flags for 2 values"),
        (AGE, Column(floats=floats(1, 2), missing=flags(0)), WrongLength, "1 flags for 2 values"),
        (TAGS, Column(integers=TWO, lengths=integers(2)), WrongLength, "1 values for 2 rows"),
        (TAGS, Column(integers=TWO, lengths=integers(2, 1)), WrongLength, "sum 3 over 2 values"),
        (TAGS, Column(integers=TWO, lengths=integers(3, -1)), WrongLength, "at least 0"),
        (TAGS, Column(integers=integers(), lengths=integers(-(2**63), -(2**63))), WrongLength, "at least 0"),
        (TAGS, Column(integers=TWO, lengths=integers(2, 2**62)), WrongLength, "add up"),
        (AGE, Column(floats=floats(1, math.inf)), OutOfRange, "finite"),
        (PRICE, Column(floats=floats(1, -math.inf)), OutOfRange, "finite"),
        (CITY, Column(strings=[b"a"], codes=integers(0, 1)), OutOfRange, "distinct strings"),
        (CITY, Column(strings=[b"a"], codes=integers(0, -1)), OutOfRange, "distinct strings"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "name", ""),
)
def test_a_wrong_column_is_refused_by_name(
    feature: pb.Feature, column: Column, error: type[InputError], told: str
) -> None:
    with pytest.raises(InputError) as caught:
        encode(pb.Schema(features=[feature]), {feature.name: column}, 2, long_bags="cut")
    assert type(caught.value) is error
    assert told in str(caught.value)
    assert caught.value.where.startswith(f"column {feature.name!r}")
    assert caught.value.remedy


def test_lengths_whose_sum_wraps_around_are_refused() -> None:
    """Four times 2^62 is 0 in int64, which is how many values there are."""
    with pytest.raises(WrongLength, match="18446744073709551616 over 0 values"):
        ids(TAGS, Column(integers=integers(), lengths=np.full(4, 2**62)), 4)
