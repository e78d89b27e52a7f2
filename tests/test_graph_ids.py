"""Ids and rows in the graph: integers, exact wherever they stand in int64."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import oracle
import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st
from quorem.export.graph import Graph, value_info
from quorem.export.ids import encode
from quorem.export.rows import rows_graph
from quorem.export.tables import write
from quorem.export.tensors import open_tensors
from quorem.protos import manifest_pb2 as pb
from quorem.protos import packing, partitions, plan, schema
from safetensors.numpy import save_file

LANDMARKS = [2**24 - 1, 2**24, 2**24 + 1, 2**31 - 1, 2**31, 2**31 + 1, 2**33 - 1, 2**33, 2**33 + 1, 2**62 - 1, 2**62]


def run(model: onnx.ModelProto | Path, inputs: Mapping[str, runs.Array]) -> dict[str, runs.Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def rows_in_graph(fields: Sequence[pb.Field], classes: dict[str, runs.Array], ids: runs.Array) -> list[list[list[int]]]:
    """Rows of each field's tables: field -> id -> table."""
    outputs = run(rows_graph(fields, classes), {"ids": ids})
    found = [[list[int]() for _ in ids] for _ in fields]
    for g, group in enumerate(packing.groups(fields)):
        for j in range(group.depth):
            for column, position in enumerate(group.fields):
                rows = outputs[f"rows.{g}.{j}"][:, column].tolist()
                if j < len(fields[position].tables):
                    for each, row in zip(found[position], rows, strict=True):
                        each.append(row)
                else:
                    assert set(rows) <= {0}, "a field without a table takes the neutral row"
    return found


def field(name: str, n: int, tables: list[tuple[int, int]], combine: pb.Combine = pb.MULT) -> pb.Field:
    return plan.build_field(name, n, tables, scheme=pb.MIXED_RADIX, combine=combine, dim=4, allow_collisions=True)


def expect_exact_rows(fields: Sequence[pb.Field], drawn: Sequence[int]) -> None:
    ids = np.array([[each % one.cardinality for one in fields] for each in drawn], np.int64)
    classes = {name: array for one in fields for name, array in runs.classes_of(one).items()}
    expected = [[oracle.rows(one, each, classes) for each in ids[:, f].tolist()] for f, one in enumerate(fields)]
    assert rows_in_graph(fields, classes, ids) == expected


@pytest.mark.parametrize("n", [2**24 + 2, 2**31 + 2, 2**33 + 2, 2**62 + 1, 2**63 - 1])
@pytest.mark.parametrize("combine", [pb.MULT, pb.ADD, pb.CONCAT])
def test_rows_are_exact_at_the_landmarks(n: int, combine: pb.Combine) -> None:
    root = int(n**0.5) + 1
    fields = [
        field("qr", n, partitions.quotient_remainder(n, root), combine),
        field("few_quotients", n, partitions.quotient_remainder(n, -(-n // 3)), combine),
        field("radix", n, [(1, 2**21), (2**21, 2**21), (2**42, -(-n // 2**42))] if n > 2**42 else [(1, n)], combine),
        field("remainders", n, [(1, 2**20), (1, 2**20 - 1), (1, 2**20 - 3)], combine),
        field("hash", n, partitions.hashed(n, 1000)),
        field("nearly_full", n, partitions.hashed(n, n - 1)),
        field("full", n, partitions.full(n)),
    ]
    drawn = [each for landmark in [*LANDMARKS, n - 1] for each in (landmark - 1, landmark, landmark + 1)]
    for one in fields:
        expect_exact_rows([one], drawn)
    expect_exact_rows(packing.pack(fields), drawn)


ARITHMETIC = ("full", "hash", "qr", "mixed_radix", "chinese_remainder")
GIVEN = ("semantic", "completed", "colliding", "classes")  # by a class for every id, so of few ids


@st.composite
def plans(draw: st.DrawFn) -> list[pb.Field]:
    """Any schemes and sizes side by side, radices and moduli of any number of tables among them."""
    fields = list[pb.Field]()
    for k in range(draw(st.integers(1, 5))):
        few = draw(st.booleans())
        n = draw(st.integers(1, 200) if few else st.integers(2**24, 2**63 - 2))
        combine, feature = draw(st.sampled_from([pb.MULT, pb.ADD, pb.CONCAT])), runs.categorical(f"f{k}", "hash", n)
        shape = draw(st.sampled_from(["any", *ARITHMETIC, *(GIVEN if few else ())]))
        if shape == "any" or n == 1:
            rows = draw(st.lists(st.integers(1, n), min_size=1, max_size=4))
            divides = [1] * len(rows)
            if few:
                divides = [draw(st.integers(1, 2**62)) for _ in rows]
            elif draw(st.booleans()):
                divides = [math.prod(rows[:j]) for j in range(len(rows)) if math.prod(rows[:j]) < 2**63]
            fields.append(field(feature.name, n, list(zip(divides, rows, strict=False)), combine))
        else:
            fields.append(runs.field(feature, shape, combine, 6, draw(st.integers(1, min(n, 2**32)))))
    return packing.pack(fields)


@settings(max_examples=100, deadline=None)
@given(plans(), st.lists(st.integers(0, 2**63 - 1) | st.sampled_from(LANDMARKS), min_size=1, max_size=8))
def test_rows_of_any_plan_are_the_oracles(fields: list[pb.Field], drawn: list[int]) -> None:
    expect_exact_rows(fields, drawn)


@pytest.mark.parametrize("n", [2, 3, 99, 100, 101, 105, 110, 111])
def test_every_id_of_small_fields_finds_its_rows(n: int) -> None:
    ten = min(n, 10)
    shapes = {
        "radix": [(1, ten), (ten, ten), (ten * ten, -(-n // ten**2))],
        "qr": partitions.quotient_remainder(n, ten),
        "remainders": [(1, ten), (1, min(n, 11)), (1, min(n, 7))],
        "hash": partitions.hashed(n, ten),
        "full": partitions.full(n),
    }
    fields = [field(name, n, tables) for name, tables in shapes.items()]
    fields += [runs.field(runs.categorical(name, "hash", n), name, pb.MULT, 4) for name in GIVEN]
    for one in fields:
        expect_exact_rows([one], range(n))
    expect_exact_rows(packing.pack(fields), range(n))


def test_classes_are_found_at_ids_that_no_float_holds() -> None:
    """Two fields of 2^24 + 2 ids, the second one's classes after the first one's: places up to 2^25."""
    n = 2**24 + 2
    fields = [
        pb.Field(
            feature=name, cardinality=n, scheme=pb.SEMANTIC, dim=4, tables=[pb.Table(divide=1, rows=n, classes=True)]
        )
        for name in "ab"
    ]
    ids = np.array([[0, n - 1], [2**24 - 1, 2**24], [2**24, 2**24 + 1], [2**24 + 1, 2**24 - 1]])
    classes = {f"classes.{name}.0": np.arange(n, dtype=np.int32)[::-1] for name in "ab"}
    assert run(rows_graph(fields, classes), {"ids": ids})["rows.0.0"].tolist() == (n - 1 - ids).tolist()


def ids_in_graph(directory: Path, manifest: pb.Manifest, weights: dict[str, runs.Array], rows: int) -> None:
    """Compare the ids of a schema's features, as the graph finds them, with the oracle's."""
    ids, dense = runs.rows(manifest, weights, np.random.default_rng(1), rows)
    dense[:3] = np.array([np.inf, -np.inf, -0.0], np.float32)[:, None]
    directory.mkdir(exist_ok=True)
    save_file(weights, directory / "weights.safetensors")
    graph, places = Graph(), schema.layout(manifest.schema)
    found = encode(graph, manifest.schema, manifest.plan.fields, weights.__getitem__)
    inputs = {"ids": ids, "dense": dense}
    inputs = {name: array for name, array in inputs.items() if array.shape[1]}
    shapes = [value_info(name, array.dtype.name, array.shape[1]) for name, array in inputs.items()]
    model = graph.model(shapes, [value_info(found.tensor, "int64", found.width)])
    with open_tensors(directory / "weights.safetensors") as tensors:
        write(directory / "tables.bin", graph.packed, tensors)
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    result = run(directory / "model.onnx", inputs)[found.tensor]
    for name, expected in oracle.ids(manifest, weights, ids, dense).items():
        first, count = found.columns[name]
        assert count == (places.slots[name][1] if name in places.slots else 1)
        assert result[:, first : first + count].tolist() == expected, name


def encoded(features: list[pb.Feature]) -> pb.Manifest:
    fields = [runs.field(feature, "hash", pb.ALONE, 2, 3) for feature in features]
    return runs.model(features, fields, "wide")


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 2**31, 2**62, 2**63 - 2])
def test_id_ranges(tmp_path: Path, size: int) -> None:
    features = [runs.categorical("a", "id", size), runs.categorical("b", "id", 5), runs.categorical("c", "id", size)]
    ids_in_graph(tmp_path, encoded(features), {"x": np.zeros(1)}, 200)


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
@pytest.mark.parametrize("buckets", [1, 1000, 2**62, 2**63 - 1])
def test_hashes(tmp_path: Path, buckets: int, seed: int) -> None:
    features = [runs.categorical("a", "hash", buckets, seed=seed), runs.categorical("b", "hash", 77)]
    ids_in_graph(tmp_path, encoded(features), {"x": np.zeros(1)}, 200)


@pytest.mark.parametrize("sizes", [[0], [1], [2], [0, 3, 0], [1, 64, 2, 33], [1000, 63]])
def test_vocabularies(tmp_path: Path, sizes: list[int]) -> None:
    features = [runs.categorical(f"v{k}", "vocabulary", size) for k, size in enumerate(sizes)]
    manifest = encoded(features)
    ids_in_graph(tmp_path, manifest, runs.weights(manifest, np.random.default_rng(0)), 300)


def test_every_value_of_a_vocabulary_is_found_and_no_other(tmp_path: Path) -> None:
    feature = runs.categorical("v", "vocabulary", len(runs.EXTREMES))
    manifest = encoded([feature])
    weights = runs.weights(manifest, np.random.default_rng(0))
    weights["vocabulary.v.values"] = runs.EXTREMES  # the least and the greatest int64 are values like any other
    ids_in_graph(tmp_path, manifest, weights, 300)


@pytest.mark.parametrize("sizes", [[0], [1], [1, 9, 4]])
def test_buckets(tmp_path: Path, sizes: list[int]) -> None:
    features = [runs.categorical(f"b{k}", "bucket", size) for k, size in enumerate(sizes)]
    features[-1].bucket.boundaries.append(np.inf)
    ids_in_graph(tmp_path, encoded(features), {"x": np.zeros(1)}, 200)


def test_all_encodings_side_by_side(tmp_path: Path) -> None:
    features = [
        runs.categorical("h", "hash", 50),
        runs.categorical("bucket", "bucket", 4),
        runs.categorical("bag", "vocabulary", 20, bag=5),
        runs.categorical("id", "id", 9, bag=2, mean=True),
        runs.number("x"),
        runs.categorical("v", "vocabulary", 30),
        runs.categorical("h2", "hash", 60, bag=3, seed=9),
    ]
    fields = [runs.field(one, "hash", pb.ALONE, 1 + k % 3, 3) for k, one in enumerate(features) if one.name != "x"]
    manifest = runs.model(features, fields, "wide")
    ids_in_graph(tmp_path, manifest, runs.weights(manifest, np.random.default_rng(0)), 100)
