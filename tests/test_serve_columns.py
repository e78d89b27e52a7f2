"""Columns on the wire: what is packed comes back whole, and no bytes whatever get past without a named error."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from quorem.protos import manifest_pb2
from quorem.protos import scoring_pb2 as pb
from quorem.protos.encode import Column
from quorem.protos.errors import InputError
from quorem.serve.columns import decode, encode, join, split
from quorem.serve.sides import Sides
from served import features, make_columns

INT64S = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(width=32, allow_nan=True)
STRINGS = st.lists(st.binary(max_size=20), max_size=8)


def assert_same(found: Column, sent: Column) -> None:
    for name in ("integers", "floats", "lengths"):
        left, right = getattr(found, name), getattr(sent, name)
        assert (left is None) == (right is None), name
        if left is not None:
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
    assert found.strings == sent.strings
    flags = sent.missing if sent.missing is not None and sent.missing.any() else None
    assert (found.missing is None) == (flags is None)
    if flags is not None:
        np.testing.assert_array_equal(found.missing, flags)


@given(st.lists(st.tuples(INT64S, st.booleans()), max_size=8))
def test_integers_come_back_whole(pairs: list[tuple[int, bool]]):
    integers = np.array([value for value, _ in pairs], np.int64)
    sent = Column(integers=integers, missing=np.array([flag for _, flag in pairs], np.bool_))
    assert_same(decode(encode("x", sent)), sent)


@given(arrays.arrays(np.float32, st.integers(0, 8), elements=FLOATS))
def test_floats_come_back_whole(floats: np.ndarray):
    sent = Column(floats=floats)
    assert_same(decode(encode("x", sent)), sent)


@given(st.lists(STRINGS, min_size=1, max_size=5))
def test_bags_of_strings_come_back_whole(bags: list[list[bytes]]):
    strings = [each for bag in bags for each in bag]
    sent = Column(strings=strings, lengths=np.array([len(bag) for bag in bags], np.int64))
    assert_same(decode(encode("x", sent)), sent)


@given(STRINGS, st.data())
def test_coded_strings_are_sent_spelled_out(strings: list[bytes], data: st.DataObject):
    codes = data.draw(st.lists(st.integers(0, max(0, len(strings) - 1)), max_size=8 if strings else 0))
    wire = encode("x", Column(strings=strings, codes=np.array(codes, np.int64)))
    assert decode(wire).strings == [strings[code] for code in codes]


@given(st.binary(max_size=40), st.binary(max_size=24))
def test_strings_come_apart_only_where_their_lengths_add_up(data: bytes, lengths: bytes):
    wire = pb.Strings(data=data, lengths=lengths)
    adds_up = len(lengths) % 4 == 0 and int(np.frombuffer(lengths, "<u4").astype(object).sum()) == len(data)
    if adds_up:
        assert join(split(wire, "here")) == wire
    else:
        with pytest.raises(InputError, match=r"here.*(4 bytes each|add up)"):
            split(wire, "here")


SIDES = Sides(manifest_pb2.Schema(features=features()))
NAMES = st.sampled_from([feature.name for feature in features()] + ["other", ""])
BYTES = st.binary(max_size=33) | st.sampled_from([b"\0" * 8, b"\1\0\0\0" * 2, b"\xff" * 16])
VALUES = [{}, {"int64s": BYTES}, {"float32s": BYTES}, {"strings": st.builds(pb.Strings, data=BYTES, lengths=BYTES)}]
COLUMNS = st.one_of([st.builds(pb.Column, name=NAMES, lengths=BYTES, missing=BYTES, **each) for each in VALUES])


ROWS = 2
VALID = make_columns(np.arange(30), ROWS)


@given(COLUMNS, st.booleans())
def test_one_arbitrary_column_among_good_ones_is_encoded_or_refused_by_name(wire: pb.Column, shared: bool):
    good = [encode(name, column) for name, column in VALID.items() if name != wire.name]
    context, candidates = ([wire], good) if shared else ([], [*good, wire])
    refusal, encoded = outcome(lambda: SIDES.encode(context, candidates, ROWS))
    if refusal is None:
        assert encoded.ids.shape == (ROWS, 10)
        assert encoded.dense.shape == (ROWS, 3)
    else:
        assert refusal.rule
        assert refusal.where


@given(COLUMNS)
def test_a_decoded_column_is_what_the_encoder_expects(wire: pb.Column):
    refusal, column = outcome(lambda: decode(wire))
    if refusal is None:
        assert column.missing is None or len(column.missing) == len(column)
    else:
        assert refusal.where.startswith(f"column {wire.name!r}")


def outcome(call: Callable[[], Any]) -> tuple[InputError | None, Any]:
    """What a call refused, or returned; any other error fails the test."""
    try:
        return None, call()
    except InputError as refusal:
        return refusal, None
