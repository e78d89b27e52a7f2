"""Laws of a bench's load: its requests hold the rows that were asked for, of their sizes, and the same for a seed."""

import argparse
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import runs
from quorem.export.bundle import export
from quorem.protos import manifest_pb2, schema
from quorem.protos import open_inference_pb2 as inference
from quorem.protos import scoring_pb2 as scoring
from quorem.protos.encode import Column, Encoded, encode
from quorem.protos.errors import DataError, TooLarge, Unimplemented, WrongLength, WrongSchema
from quorem.protos.ids import MISSING
from quorem.serve import columns as wire
from quorem.serve.batches import parts
from quorem.serve.bench import drawn
from quorem.serve.bench.load import Drawn, GoldenRows, RowsFile, build
from quorem.serve.bench.sizes import Fixed, Mixed, parse_size
from quorem.serve.bench.target import PATHS, Protocol, Target, Tensor
from quorem.serve.channel import Access
from served import ROWS, Rows

MLPERF = {100: 2, 200: 12, 300: 2, 400: 1, 500: 1, 600: 1, 700: 1}


def target_of(protocol: Protocol, described: manifest_pb2.Schema | None, *tensors: Tensor) -> Target:
    return Target(Access("nowhere:1"), PATHS[protocol], protocol, "ctr", "3", None, tensors, 700, described)


def inferred(request: bytes) -> Encoded:
    found = inference.ModelInferRequest.FromString(request)
    assert (found.model_name, found.model_version) == ("ctr", "3")
    arrays = {
        each.name: np.frombuffer(raw, {"INT64": "<i8", "FP32": "<f4"}[each.datatype]).reshape(each.shape).copy()
        for each, raw in zip(found.inputs, found.raw_input_contents, strict=True)
    }
    return Encoded(arrays["ids"], arrays["dense"])


def scored(described: manifest_pb2.Schema, request: bytes) -> Encoded:
    """The candidates of a Score request, whose context is one row."""
    found = scoring.ScoreRequest.FromString(request)
    assert (found.model, found.version) == ("ctr", 3)
    encoded = list[Encoded]()
    for side, sent, rows in (("CONTEXT", found.context, 1), ("CANDIDATE", found.candidates, found.rows)):
        features = [each for each in described.features if each.side == manifest_pb2.Side.Value(side)]
        columns = {each.name: wire.decode(each) for each in sent}
        encoded.append(encode(manifest_pb2.Schema(features=features), columns, rows, long_bags="refuse"))
    return encoded[1]


def test_sizes_are_read():
    assert parse_size("128") == parse_size("128-128") == Fixed(128)
    assert parse_size("mlperf") == Mixed("mlperf", tuple(MLPERF.items()))
    assert (parse_size("mlperf").mean, parse_size("mlperf").largest) == (270, 700)
    spread = parse_size("100-700")
    assert (spread.name, spread.mean, spread.largest) == ("100-700", 400, 700)
    for wrong in ("", "0", "-1", "1-", "7-3", "1-2-3", "1.5", "\u0661", str(2**20 + 1), "9" * 5000, "MLPerf"):
        with pytest.raises(argparse.ArgumentTypeError, match="rows are 1 to"):
            parse_size(wrong)


def test_few_requests_have_the_whole_distribution():
    rng = np.random.default_rng(1)
    found = parse_size("mlperf").counts(240, rng)
    assert Counter(found) == {rows: 12 * weight for rows, weight in MLPERF.items()}
    assert found != sorted(found)
    assert sorted(parse_size("1-8").counts(16, rng)) == sorted([*range(1, 9)] * 2)
    assert np.mean(parse_size("100-700").counts(100, rng)) == pytest.approx(400, abs=1)
    assert Fixed(5).counts(3, rng) == [5, 5, 5]


@pytest.mark.parametrize("protocol", ["score", "infer"])
def test_a_load_has_the_rows_of_its_sizes_and_the_same_bytes_for_a_seed(golden: Rows, protocol: Protocol):
    target = target_of(protocol, golden.schema)
    one, again, other = (build(target, Drawn(), parse_size("mlperf"), seed) for seed in (1, 1, 2))
    assert one == again
    assert set(one.requests).isdisjoint(other.requests)
    assert (one.name, len(one.requests), one.expected) == ("mlperf", 242, (None,) * 242)
    assert np.mean(one.counts) == pytest.approx(270, rel=0.01)
    for request, rows in zip(one.requests, one.counts, strict=True):
        found = inferred(request) if protocol == "infer" else scored(golden.schema, request)
        assert len(found.ids) == len(found.dense) == rows


def test_few_large_requests_and_many_small_ones(golden: Rows):
    target = replace(target_of("infer", golden.schema), max_rows=None)
    assert [len(build(target, Drawn(), Fixed(rows), 1).requests) for rows in (1, 1024, 20000)] == [256, 64, 8]


def test_more_rows_than_the_server_takes(golden: Rows):
    for size in (Fixed(701), parse_size("1-701")):
        with pytest.raises(TooLarge, match=r"at most 700 rows per call.*701"):
            build(target_of("score", golden.schema), Drawn(), size, 1)


def test_drawn_rows_are_valid_and_skewed(golden: Rows):
    columns = drawn.columns(golden.schema, 5000, np.random.default_rng(1))
    encoded = encode(golden.schema, columns, 5000, long_bags="refuse")
    users = columns["user"].integers
    assert users is not None
    assert 0 <= users.min() <= users.max() < 1000
    counts = np.sort(np.unique(users, return_counts=True)[1])[::-1]
    assert counts[0] > 20 * counts[len(counts) // 2]
    start, length = schema.layout(golden.schema).slots["seen"]
    filled = (encoded.ids[:, start : start + length] != MISSING).sum(axis=1)
    assert set(filled) == set(range(length + 1))


def test_a_model_of_another_kind_gets_what_its_metadata_says():
    tensors = (
        Tensor("item", "INT64", (-1, 3)),
        Tensor("kind", "INT8", (-1,)),
        Tensor("price", "FP16", (-1, -1, 2)),
        Tensor("new", "BOOL", (-1, 1)),
    )
    load = build(target_of("infer", None, *tensors), Drawn(id_range=1000), Fixed(512), 1)
    found = inference.ModelInferRequest.FromString(load.requests[0])
    shapes = [(each.name, each.datatype, list(each.shape)) for each in found.inputs]
    assert shapes == [
        ("item", "INT64", [512, 3]),
        ("kind", "INT8", [512]),
        ("price", "FP16", [512, 1, 2]),
        ("new", "BOOL", [512, 1]),
    ]
    kinds = zip(found.raw_input_contents, ("<i8", "i1", "<f2", "u1"), strict=True)
    item, kind, price, new = (np.frombuffer(raw, kind) for raw, kind in kinds)
    assert [len(each) for each in (item, kind, price, new)] == [math.prod(shape) for _, _, shape in shapes]
    assert 0 <= item.min() <= 1 < item.max() < 1000
    assert 0 <= kind.min() < kind.max() <= 127
    assert price.min() > 0
    assert set(new) == {0, 1}


def test_a_model_that_cannot_be_drawn_for():
    with pytest.raises(WrongLength, match=r"'x': an input's first dimension is the rows, here 2. Found: shape \[16\]"):
        build(target_of("infer", None, Tensor("x", "FP32", (16,))), Drawn(), Fixed(2), 1)
    with pytest.raises(Unimplemented, match="Found: BYTES"):
        build(target_of("infer", None, Tensor("x", "BYTES", (-1, 1))), Drawn(), Fixed(2), 1)
    with pytest.raises(DataError, match="--bundle"):
        build(target_of("infer", None), Drawn(), Fixed(2), 1)
    with pytest.raises(DataError, match="--bundle"):
        build(target_of("infer", None), RowsFile(Path("rows.csv")), Fixed(2), 1)


def test_inputs_that_are_not_the_schemas(golden: Rows):
    ids, dense = (array.shape[1] for array in (golden.encoded.ids, golden.encoded.dense))
    right = Tensor("ids", "INT64", (-1, ids)), Tensor("dense", "FP32", (-1, -1))
    assert build(target_of("infer", golden.schema, *right), Drawn(), Fixed(1), 1).requests
    for wrong in (
        (right[0],),
        (Tensor("ids", "INT32", (-1, ids)), right[1]),
        (right[0], Tensor("dense", "FP32", (-1, dense + 1))),
        (*right, Tensor("more", "FP32", (-1, 1))),
    ):
        with pytest.raises(WrongSchema, match="has the inputs of its schema"):
            build(target_of("infer", golden.schema, *wrong), Drawn(), Fixed(1), 1)


def write_rows(path: Path, rows: int) -> None:
    """Rows whose user is the row's number, and that have so many tags as its last bits say."""
    lines = ["user,item,city,tags,seen,age,price,rank,label"]
    lines += [f"{row},item {row},,{'|'.join(['hats'] * (row % 4))},1 2,0.5,,2,1" for row in range(rows)]
    path.write_text("\n".join(lines) + "\n")


def test_rows_of_a_file_are_sent_in_their_order(golden: Rows, tmp_path: Path):
    path = tmp_path / "rows.csv"
    write_rows(path, 100)
    source = RowsFile(path, ignored=("label",))
    target = target_of("infer", golden.schema)
    load = build(target, source, parse_size("3-9"), 1)
    sent = [inferred(request) for request in load.requests]
    assert [len(each.ids) for each in sent] == list(load.counts)
    ids = np.concatenate([each.ids for each in sent])
    assert 91 < len(ids) <= 100
    assert ids[:, 0].tolist() == list(range(len(ids)))
    start, length = schema.layout(golden.schema).slots["tags"]
    assert (ids[:, start : start + length] != MISSING).sum(axis=1).tolist() == [row % 4 for row in range(len(ids))]
    score = build(target_of("score", golden.schema), source, Fixed(40), 1)
    found = [scoring.ScoreRequest.FromString(each) for each in score.requests]
    assert [each.rows for each in found] == [40, 40]
    users = [wire.decode(each.context[0]).integers for each in found]
    assert [each.tolist() for each in users if each is not None] == [[0], [40]]
    with pytest.raises(DataError, match=r"a bench of 101 rows per call has that many rows to send\. Found: 100 rows"):
        build(target, source, Fixed(101), 1)


def test_golden_rows_come_with_their_logits(golden: Rows, served_root: Path):
    source = GoldenRows(served_root / "models" / "ctr" / "1")
    load = build(target_of("infer", golden.schema), source, Fixed(48), 1)
    assert load.bound > 0
    sent = np.concatenate([inferred(request).ids for request in load.requests[:4]])
    np.testing.assert_array_equal(sent, np.concatenate([golden.encoded.ids] * 3))
    known = [each for each in load.expected[:4] if each is not None]
    np.testing.assert_array_equal(np.concatenate(known), np.concatenate([golden.logits] * 3))
    assert len(load.expected) == len(load.requests)
    with pytest.raises(Unimplemented, match=r"Found: features \['item', 'tags'\]"):
        build(target_of("score", golden.schema), source, Fixed(1), 1)


def test_golden_rows_of_integers_are_columns_again(tmp_path: Path):
    features = [
        runs.categorical("user", "id", 50),
        runs.categorical("item", "hash", 30),
        runs.categorical("seen", "id", 9, bag=3),
        runs.number("price"),
    ]
    for each in features:
        each.side = manifest_pb2.CANDIDATE
    fields = [runs.field(each, "full", manifest_pb2.MULT, 4) for each in features[:3]]
    for side in (manifest_pb2.CANDIDATE, manifest_pb2.CONTEXT):
        features[0].side = side
        written = runs.make_run(
            tmp_path / f"run{side}", runs.model(features, fields, "deepfm"), np.random.default_rng(1)
        )
        export(tmp_path / f"run{side}", tmp_path / f"ctr{side}")
        source = GoldenRows(tmp_path / f"ctr{side}" / "1")
        flat = build(target_of("infer", written.schema), source, Fixed(7), 1)
        load = build(target_of("score", written.schema), source, Fixed(7), 1)
        assert (load.counts, load.bound) == (flat.counts, flat.bound)
        for request, same, expected, logits in zip(
            load.requests, flat.requests, load.expected, flat.expected, strict=True
        ):
            found, rows = scoring.ScoreRequest.FromString(request), inferred(same)
            columns = {each.name: wire.decode(each) for each in (*found.context, *found.candidates)}
            if side == manifest_pb2.CONTEXT:
                assert expected is None, "the first row's user is not the others'"
                assert [each.name for each in found.context] == ["user"]
                assert wire.decode(found.context[0]).integers == rows.ids[0, 0]
                columns["user"] = Column(integers=np.full(7, rows.ids[0, 0]))
                rows.ids[:, 0] = rows.ids[0, 0]
            else:
                np.testing.assert_array_equal(expected, logits)
            again = encode(written.schema, columns, 7, long_bags="refuse")
            np.testing.assert_array_equal(again.ids[:, :2], rows.ids[:, :2])
            np.testing.assert_array_equal(np.sort(again.ids[:, 2:]), np.sort(rows.ids[:, 2:]))
            np.testing.assert_array_equal(again.dense, rows.dense)
        single = build(target_of("score", written.schema), source, Fixed(1), 1)
        assert all(each is not None for each in single.expected)


def test_parts_lie_between_their_bounds(golden: Rows):
    found = list(parts(golden.columns, ROWS, [0, 1, 1, 40]))
    assert [(each.first, each.rows) for each in found] == [(0, 1), (1, 0), (1, 39)]
    encoded = [encode(golden.schema, each.columns, each.rows, long_bags="refuse").ids for each in found]
    np.testing.assert_array_equal(np.concatenate(encoded), golden.encoded.ids[:40])
