"""Ids and rows in the graph: integers, exact wherever they stand in int64."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import onnx
import oracle
import pytest
import runs
from graphs import opened
from hypothesis import given, settings
from hypothesis import strategies as st
from quorem.export.graph import Graph, value_info
from quorem.export.ids import encode
from quorem.export.parity import inputs_of
from quorem.export.rows import CLASSES, Looked, classes_of, dtype_of, rows_of_groups
from quorem.export.side import Side, context_and_candidates, whole_rows
from quorem.export.tables import write
from quorem.export.tensors import open_tensors
from quorem.export.vocabulary import vocabularies
from quorem.protos import manifest_pb2 as pb
from quorem.protos import packing, partitions, plan, schema
from safetensors.numpy import save_file

LANDMARKS = [2**24 - 1, 2**24, 2**24 + 1, 2**31 - 1, 2**31, 2**31 + 1, 2**33 - 1, 2**33, 2**33 + 1, 2**62 - 1, 2**62]


def run(model: onnx.ModelProto | Path, inputs: Mapping[str, runs.Array]) -> dict[str, runs.Array]:
    session = opened(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def rows_in_graph(fields: Sequence[pb.Field], given: dict[str, runs.Array], ids: runs.Array) -> list[list[list[int]]]:
    """Rows of each field's tables, as the lookups find them in the packed ones: field -> id -> table."""
    graph, classes = Graph(), classes_of(fields)
    dtype = dtype_of(fields, classes)
    if classes.size:
        graph.constant(CLASSES, np.concatenate([given[name] for name in classes.names]))
    groups = [[(k, fields[k]) for k in group.fields] for group in packing.groups(fields)]
    wanted = [
        Looked(f"embedding.{g}", [each for _, each in members], [(k, 1) for k, _ in members], classes)
        for g, members in enumerate(groups)
    ]
    ids_of_dtype = graph.node("ids/cast", "Cast", "ids", to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    places, outputs = list[tuple[Looked, int]](), list[onnx.ValueInfoProto]()
    for group, rows in rows_of_groups(graph, "embedding", ids_of_dtype, len(fields), wanted, dtype):
        for j, row in enumerate(rows):
            places.append((group, j))
            outputs.append(value_info(f"{group.label}.{j}", dtype, len(group.columns)))
            graph.nodes.append(onnx.helper.make_node("Identity", [row], [outputs[-1].name], name=outputs[-1].name))
    results = run(graph.model([value_info("ids", "int64", len(fields))], outputs), {"ids": ids})
    found = {each.feature: [list[int]() for _ in ids] for each in fields}
    for group, j in places:
        packed, tables = results[f"{group.label}.{j}"], group.parts[j].tables
        starts = dict(zip([name for name, _ in tables], accumulate([0, *(rows for _, rows in tables)]), strict=False))
        for column, each in enumerate(group.columns):
            rows = packed[:, column].astype(np.int64)
            if j < len(each.tables):
                for several, row in zip(found[each.feature], (rows - starts[each.feature]).tolist(), strict=True):
                    several.append(row)
            else:
                assert set(rows.tolist()) == {sum(count for _, count in tables)}, "without a table: the neutral row"
    return [found[each.feature] for each in fields]


def field(name: str, n: int, tables: list[tuple[int, int]], combine: pb.Combine = pb.MULT) -> pb.Field:
    return plan.build_field(name, n, tables, scheme=pb.MIXED_RADIX, combine=combine, dim=4, allow_collisions=True)


def expect_exact_rows(fields: Sequence[pb.Field], drawn: Sequence[int]) -> None:
    ids = np.array([[each % one.cardinality for one in fields] for each in drawn], np.int64)
    classes = {name: array for one in fields for name, array in runs.classes_of(one).items()}
    expected = [[oracle.rows(one, each, classes) for each in ids[:, f].tolist()] for f, one in enumerate(fields)]
    assert rows_in_graph(fields, classes, ids) == expected


@pytest.mark.parametrize("n", [2**24 + 2, 2**31 - 1, 2**31 + 2, 2**33 + 2, 2**62 + 1, 2**63 - 1])
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
    expect_exact_rows(packing.pack([one for one in fields if n < 2**62 or one.tables[0].rows < n // 2]), drawn)


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
    while max(sum(one.tables[j].rows for one in fields if len(one.tables) > j) for j in range(6)) >= 2**63 - 1:
        fields.pop()  # rows of packed tables are numbered in int64
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
    found = rows_in_graph(fields, classes, ids)
    assert found == (n - 1 - ids).T[:, :, None].tolist()


def ids_in_graph(directory: Path, manifest: pb.Manifest, weights: dict[str, runs.Array], rows: int) -> None:
    """Compare the ids of a schema's features, as graphs of all rows and of each side find them, with the oracle's."""
    ids, dense = runs.rows(manifest, weights, np.random.default_rng(1), rows)
    dense[:3] = np.array([np.inf, -np.inf, -0.0], np.float32)[:, None]
    expected = oracle.ids(manifest, weights, ids, dense)
    directory.mkdir(exist_ok=True)
    save_file(weights, directory / "weights.safetensors")
    for sides in (whole_rows(manifest.schema), context_and_candidates(manifest.schema)):
        found = dict[str, list[list[int]]]()
        for side in sides:
            for stretch in [slice(row, row + 1) for row in range(5)] if side.once else [slice(rows)]:
                each = ids_of_side(directory, manifest, weights, side, ids[stretch], dense[stretch])
                for name, numbers in each.items():
                    found[name] = [*found.get(name, []), *numbers]
        assert found.keys() == expected.keys()
        for name, numbers in found.items():
            assert numbers == expected[name][: len(numbers)], name


def ids_of_side(
    directory: Path,
    manifest: pb.Manifest,
    weights: dict[str, runs.Array],
    side: Side,
    ids: runs.Array,
    dense: runs.Array,
) -> dict[str, list[list[int]]]:
    """The ids of a side's features, in a graph that has no other side; of row-wise inputs."""
    graph, places = Graph(), schema.layout(manifest.schema)
    fields, known = manifest.plan.fields, vocabularies(manifest.schema, weights.__getitem__)
    dtype = dtype_of(fields, classes_of(fields))
    found = encode(graph, side, fields, known, dtype)
    if not found.columns:
        assert not graph.nodes, "a side of numbers alone has no ids"
        return {}
    inputs = inputs_of(side, manifest.schema, {"ids": ids, "dense": dense})
    model = graph.model(side.inputs, [value_info(found.tensor, dtype, found.width, once=side.once)])
    with open_tensors(directory / "weights.safetensors") as tensors:
        write(directory / "tables.bin", list(graph.store.packed.values()), tensors)
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    result = run(directory / "model.onnx", inputs)[found.tensor]
    for name, (_, count) in found.columns.items():
        assert count == (places.slots[name][1] if name in places.slots else 1)
    return {name: result[:, first : first + count].tolist() for name, (first, count) in found.columns.items()}


def encoded(features: list[pb.Feature]) -> pb.Manifest:
    fields = [runs.field(feature, "hash", pb.ALONE, 2, 3) for feature in features]
    return runs.model(features, fields, "wide")


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 2**31, 2**62, 2**63 - 2])
def test_id_ranges(tmp_path: Path, size: int) -> None:
    features = [runs.categorical("a", "id", size), runs.categorical("b", "id", 5), runs.categorical("c", "id", size)]
    ids_in_graph(tmp_path, encoded(features), {"x": np.zeros(1)}, 200)


@pytest.mark.parametrize(
    ("first", "size"),
    [(957, 4082), (-3, 7), (2**63 - 5, 5), (1 - 2**63, 7), (1 - 2**63, 2**63 - 2), (2, 2**63 - 2), (2**62, 2**62)],
)
def test_id_ranges_that_begin_elsewhere(tmp_path: Path, first: int, size: int) -> None:
    features = [runs.categorical("a", "id", size, first=first), runs.categorical("b", "id", 5)]
    features.append(runs.categorical("bag", "id", 9, bag=2, first=-2))
    ids_in_graph(tmp_path, encoded(features), {"x": np.zeros(1)}, 300)


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
