"""Half: columns that are joined give the arrays of those that are decoded one by one, and the same errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quorem.protos import manifest_pb2
from quorem.protos.encode import Column, Encoder
from quorem.protos.errors import OutOfRange, WrongLength
from quorem.serve.columns import decode, encode
from quorem.serve.sides import Sides

ROWS = 5
FIRST = {"a": 0, "b": 100, "strict": -4}


def schema() -> manifest_pb2.Schema:
    found = manifest_pb2.Schema()
    for name, first in FIRST.items():
        rule = manifest_pb2.ERROR if name == "strict" else manifest_pb2.RARE
        kind = manifest_pb2.IdRange(first=first, size=9, out_of_range=rule)
        found.features.add(name=name, values=manifest_pb2.INTEGER, side=manifest_pb2.CANDIDATE, id=kind)
    bag = manifest_pb2.Bag(max_length=3, pooling=manifest_pb2.MEAN)
    hashed = manifest_pb2.Hash(buckets=50)
    found.features.add(name="tags", values=manifest_pb2.STRING, side=manifest_pb2.CANDIDATE, hash=hashed, bag=bag)
    found.features.add(name="c", values=manifest_pb2.STRING, side=manifest_pb2.CANDIDATE, hash=hashed)
    for name in ("x", "y"):
        dense = manifest_pb2.Dense(transform=manifest_pb2.NONE, scale=1)
        found.features.add(name=name, values=manifest_pb2.FLOAT, side=manifest_pb2.CANDIDATE, dense=dense)
    return found


def columns(seed: int, flagged: frozenset[str]) -> dict[str, Column]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, ROWS)

    def missing(name: str) -> np.ndarray | None:
        return rng.random(ROWS) < 0.5 if name in flagged else None

    return {
        "tags": Column(strings=[b"t%d" % each for each in rng.integers(0, 9, lengths.sum())], lengths=lengths),
        **{
            name: Column(integers=rng.integers(0, 9, ROWS) + first, missing=missing(name))
            for name, first in FIRST.items()
        },
        "c": Column(strings=[b"s%d" % each for each in rng.integers(0, 9, ROWS)], missing=missing("c")),
        "y": Column(integers=rng.integers(0, 9, ROWS)) if "y" in flagged else Column(floats=_floats(rng)),
        "x": Column(floats=_floats(rng), missing=missing("x")),
    }


def _floats(rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(ROWS) < 0.3, np.nan, rng.random(ROWS)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.frozensets(st.sampled_from(["a", "strict", "c", "x", "y"])), st.permutations(range(7)))
def test_any_mix_of_columns_in_any_order_is_encoded_as_the_encoder_does(seed, flagged, order):
    sent = columns(seed, flagged)
    wire = [encode(name, column) for name, column in sent.items()]
    found = Sides(schema()).encode([], [wire[position] for position in order], ROWS)
    decoded = {column.name: decode(column) for column in wire}
    expected = Encoder(schema()).encode(decoded, ROWS, long_bags="refuse")
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.dense, expected.dense)
    assert found.ids.flags.c_contiguous
    assert found.dense.flags.c_contiguous


@pytest.mark.parametrize(
    ("name", "column", "error", "said"),
    [
        ("strict", Column(integers=np.array([0, -4, 5, 4, 3])), OutOfRange, "'strict', value 2"),
        ("strict", Column(integers=np.array([0, -5, 4, 2, 3])), OutOfRange, "'strict', value 1"),
        ("x", Column(floats=np.array([0, 1, np.inf, 0, 0], np.float32)), OutOfRange, "'x', row 2"),
        ("a", Column(integers=np.arange(4)), WrongLength, "4 values for 5 rows"),
        ("y", Column(floats=np.zeros(6, np.float32)), WrongLength, "6 values for 5 rows"),
    ],
)
def test_what_the_encoder_refuses_is_refused_in_its_words(name, column, error, said):
    sent = columns(1, frozenset()) | {name: column}
    with pytest.raises(error, match=said):
        Sides(schema()).encode([], [encode(*each) for each in sent.items()], ROWS)
