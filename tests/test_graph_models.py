"""Whole graphs: ONNX Runtime gives the oracle's logits for every model, scheme, combine and encoding."""

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import oracle
import pytest
import runs
from quorem.export.bundle import export
from quorem.export.graph import Graph, Value, value_info
from quorem.export.layers import build
from quorem.protos import manifest_pb2 as pb
from quorem.protos import nets

NUMBERS = [runs.number("n"), runs.number("log", pb.LOG1P), runs.number("std", pb.STANDARD, 1.5, 0.5)]
COMBINES = {
    "mult": (pb.MULT, 0),
    "add": (pb.ADD, 0),
    "concat": (pb.CONCAT, 0),
    "path": (pb.PATH, 0),
    "path of 3": (pb.PATH, 3),
    "feature": (pb.FEATURE, 0),
}
SCHEMES = ("qr", "mixed_radix", "chinese_remainder", "semantic", "completed", "colliding")
ENCODINGS = ("id", "hash", "vocabulary", "bucket")
# One table has nothing to combine; classes that collide are one table of them.
KINDS = [*product(SCHEMES, COMBINES), ("full", "mult"), ("hash", "mult"), ("classes", "mult")]


def field(feature: pb.Feature, scheme: str, combine: str, dim: int, rows: int = 0) -> pb.Field:
    join, hidden = COMBINES[combine]
    return runs.field(feature, scheme, join, dim, rows, hidden=hidden)


def proved(directory: Path, manifest: pb.Manifest, count: int = 48) -> onnx.GraphProto:
    """Export a run of the manifest, which compares every row with the oracle's logits; returns the graph."""
    runs.make_run(directory / "run", manifest, np.random.default_rng(7), count)
    bundle = export(directory / "run", directory / "model")
    return onnx.load(str(bundle / "model.onnx"), load_external_data=False).graph


@pytest.mark.parametrize(
    ("scheme", "combine", "encoding", "model", "bag"),
    [
        # Every kind of table with every encoding, each with another model: all pairs of parameters, not all cells.
        (*kind, encoding, list(runs.MODELS)[(k + k // len(runs.MODELS) + e) % len(runs.MODELS)], 3 * (e % 2))
        for k, kind in enumerate(KINDS)
        for e, encoding in enumerate(ENCODINGS[k % 4 :] + ENCODINGS[: k % 4])
    ],
)
def test_scheme_combine_encoding_model(
    tmp_path: Path, scheme: str, combine: str, encoding: str, model: str, bag: int
) -> None:
    bag = 0 if encoding == "bucket" else bag  # a number is no bag
    features = [
        runs.categorical("a", encoding, 23),
        NUMBERS[0],
        runs.categorical("b", encoding, 7, bag=bag, mean=True),
        NUMBERS[1],
        NUMBERS[2],
        runs.categorical("c", encoding, 41, bag=bag and 1),
    ]
    proved(tmp_path, runs.model(features, [field(features[k], scheme, combine, 6) for k in (0, 2, 5)], model))


@pytest.mark.parametrize("combine", COMBINES)
def test_fields_of_one_table_join_the_group_of_the_others(tmp_path: Path, combine: str) -> None:
    features = [runs.categorical(f"c{k}", "hash", 20 + k, bag=3 * (k == 2)) for k in range(7)]
    schemes = ["full", "qr", "hash", "mixed_radix", "full", "semantic", "classes"]
    fields = [field(*each, combine, 4) for each in zip(features, schemes, strict=True)]
    for model in ("deepfm", "dcn"):
        proved(tmp_path / model, runs.model([*features, *NUMBERS], fields, model))


def test_dims_and_joins_of_every_kind_in_one_model(tmp_path: Path) -> None:
    features = [
        runs.categorical(f"{scheme}/{combine}/{k}", ENCODINGS[k % 3], 30 + k, bag=4 * (k % 5 == 1), mean=k % 2 == 0)
        for k, (scheme, combine) in enumerate(KINDS)
    ]
    fields = [
        field(feature, *feature.name.split("/")[:2], 3 + k % 3)  # pyright: ignore[reportArgumentType]  # two strings
        for k, feature in enumerate(features)
    ]
    graph = proved(tmp_path, runs.model([*features, *NUMBERS], fields, "wide"))
    classes = [each for each in graph.initializer if each.data_type == onnx.TensorProto.INT32 and "class" in each.name]
    ids = sum(each.cardinality for each in fields for table in each.tables if table.classes)
    assert [list(each.dims) for each in classes] == [[ids]], "first-order tables share the classes"


@pytest.mark.parametrize("model", [*runs.MODELS, "wide"])
def test_models_of_bags_alone(tmp_path: Path, model: str) -> None:
    features = [runs.categorical(f"c{k}", "vocabulary", 20, bag=k + 1, mean=k == 1) for k in range(3)]
    fields = [runs.field(feature, "qr", pb.ADD, 4) for feature in features]
    proved(tmp_path, runs.model(features, fields, model))


@pytest.mark.parametrize("model", [*runs.MODELS, "wide"])
def test_models_without_dense_features(tmp_path: Path, model: str) -> None:
    features = [runs.categorical(f"c{k}", "id", 20) for k in range(3)]
    graph = proved(tmp_path, runs.model(features, [runs.field(one, "qr", pb.MULT, 4) for one in features], model))
    assert [each.name for each in graph.input] == ["ids"]


@pytest.mark.parametrize("model", ["deepfm", "dlrm", "wide"])
def test_models_of_buckets_alone_take_no_ids(tmp_path: Path, model: str) -> None:
    features = [runs.categorical(f"c{k}", "bucket", 6 + k) for k in range(3)]
    graph = proved(tmp_path, runs.model(features, [runs.field(one, "qr", pb.MULT, 4) for one in features], model))
    assert [each.name for each in graph.input] == ["dense"]


@pytest.mark.parametrize("model", ["deepfm", "wide"])
def test_one_feature_of_one_vector(tmp_path: Path, model: str) -> None:
    feature = runs.categorical("a/b.c d\"e'", "id", 3)
    proved(tmp_path, runs.model([feature], [runs.field(feature, "full", pb.ALONE, 1)], model))


@pytest.mark.parametrize(
    ("encoding", "size", "scheme", "combine", "rows"),
    [
        ("id", 2**24, "full", "mult", 0),
        ("hash", 2**62, "hash", "mult", 1000),
        ("id", 2**33, "qr", "mult", 2**17),
        ("id", 2**33, "qr", "path", 2**17),
        *(("id", 2**62 + 2, "mixed_radix", combine, 0) for combine in COMBINES),
        ("id", 2**63 - 2, "chinese_remainder", "mult", 0),
        ("id", 2**62 + 2, "chinese_remainder", "path of 3", 0),
    ],
)
def test_whole_models_are_exact_at_the_limits(
    tmp_path: Path, encoding: str, size: int, scheme: str, combine: str, rows: int
) -> None:
    big, small = runs.categorical("big", encoding, size), runs.categorical("small", "id", 3)
    dim = 6 if combine == "concat" else 1
    manifest = runs.model([big, small], [field(big, scheme, combine, dim, rows), field(small, "full", "add", 1)], "dnn")
    rng = np.random.default_rng(3)
    weights = runs.weights(manifest, rng)
    landmarks = [2**24 - 1, 2**24, 2**24 + 1, 2**31, 2**33 - 1, 2**33, 2**33 + 1, 2**62, 2**62 + 1, -1, -(2**63)]
    ids = np.array([[each, each & 3] for each in landmarks], np.int64)
    logits = oracle.logits(manifest, weights, ids, np.zeros((len(ids), 0), np.float32)).astype(np.float32)
    reference = {"ids": ids, "logit": logits, "label": np.zeros(len(ids), np.float32)}
    runs.write(tmp_path / "run", manifest, weights, reference)
    export(tmp_path / "run", tmp_path / "model")


def test_a_request_of_no_rows_has_no_scores(tmp_path: Path) -> None:
    features = [runs.categorical("a", "vocabulary", 20, bag=2), runs.categorical("b", "hash", 9), *NUMBERS]
    fields = [field(features[0], "completed", "path of 3", 4), field(features[1], "qr", "mult", 4)]
    for model in ("deepfm", "dlrm", "dcn", "dcnv2"):
        runs.make_run(tmp_path / model, runs.model(features, fields, model), np.random.default_rng(0))
        path = export(tmp_path / model, tmp_path / "models" / model) / "model.onnx"
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        empty = {"ids": np.zeros((0, 3), np.int64), "dense": np.zeros((0, 3), np.float32)}
        assert [np.shape(each) for each in session.run(["logit", "ctr"], empty)] == [(0,), (0,)]


def test_lookups_of_a_group_are_one_gather_a_partition(tmp_path: Path) -> None:
    features = [*(runs.categorical(f"c{k}", "hash", 300 + k) for k in range(26)), *NUMBERS]
    fields = [runs.field(one, "qr" if k % 3 else "full", pb.MULT, 4) for k, one in enumerate(features[:26])]
    graph = proved(tmp_path, runs.model(features, fields, "dlrm"), 8)
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("Gather") == 3, "slots in the plan's order, remainders, quotients"
    assert sum("quotient" in node.name for node in graph.node) == 1
    assert kinds.count("Mod") == 1, "that of the hash: remainders are products and differences"
    assert "Split" not in kinds
    assert len(kinds) < 50, "the number of nodes does not grow with that of the features"


def nodes_between(tmp_path: Path, scheme: str, combine: str) -> list[str]:
    """Operators of the lookup of two fields: from their ids to what the net reads of them."""
    features = [runs.categorical(name, "hash", 300) for name in "ab"]
    fields = [field(one, scheme, combine, 4) for one in features]
    graph = proved(tmp_path / f"{scheme}.{combine}", runs.model(features, fields, "dnn"), 8)
    return sorted(node.op_type for node in graph.node if node.name.startswith("embedding."))


def test_schemes_and_combines_cost_what_they_must(tmp_path: Path) -> None:
    """Rows of two partitions, their vectors, the join; a class costs two lookups, a function three nodes more."""
    rows = ["Add", "Add", "Div", "Mul", "Sub"]
    assert nodes_between(tmp_path, "qr", "mult") == sorted([*rows, "Gather", "Gather", "Mul"])
    assert nodes_between(tmp_path, "qr", "feature") == sorted([*rows, "Gather", "Gather", "Concat"])
    path = [*rows, *["Gather"] * 3, "MatMul", "Add", "Squeeze"]
    assert nodes_between(tmp_path, "qr", "path") == sorted(path)
    assert nodes_between(tmp_path, "qr", "path of 3") == sorted([*path, "Gather", "Gather", "Relu", "MatMul", "Add"])
    assert nodes_between(tmp_path, "chinese_remainder", "add").count("Mod") == 3
    semantic = ["Add", "Gather", "Cast", "Add", "Gather"] * 2
    assert nodes_between(tmp_path, "semantic", "mult") == sorted([*semantic, "Mul"])


def test_a_cross_is_three_nodes_and_a_low_rank_one_more(tmp_path: Path) -> None:
    feature = runs.categorical("a", "hash", 30)
    for model, cross, operators in (
        ("dcn", 4, ["MatMul", "Mul", "Sum"]),
        ("dcnv2", 2, ["Gemm", "Mul", "Add"]),
        ("dcnv2_low", 2, ["MatMul", "Gemm", "Mul", "Add"]),
    ):
        described = runs.model([feature, *NUMBERS], [field(feature, "qr", "mult", 4)], model, cross=cross)
        graph = proved(tmp_path / model, described, 8)
        kinds = [node.op_type for node in graph.node if "/cross." in node.name]
        assert kinds == operators * cross


def layers_in_graph(
    net: pb.Net, inputs: dict[str, runs.Array], weights: dict[str, runs.Array]
) -> tuple[list[str], float]:
    """Operators of a net alone, and how far its result is from the oracle's."""
    graph = Graph()
    values = {name: Value(name, (array.shape[1],)) for name, array in inputs.items()}
    last = build(graph, net, values, weights.__getitem__)
    model = graph.model(
        [value_info(name, "float32", array.shape[1]) for name, array in inputs.items()],
        [value_info(last.tensor, "float32", 1)],
    )
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = np.asarray(session.run(None, inputs)[0])
    expected: dict[str, runs.Array] = dict(inputs)
    for layer in net.layers:
        sources = [expected[name].astype(np.float64) for name in layer.inputs]
        expected[layer.name] = oracle.LAYERS[str(layer.WhichOneof("kind"))](layer, weights, sources)
    return [node.op_type for node in graph.nodes], float(np.abs(found - expected[net.layers[-1].name]).max())


@pytest.mark.parametrize("also_read", [False, True])
def test_a_batchnorm_is_folded_where_it_alone_reads_a_linear_layer(also_read: bool) -> None:
    net = pb.Net(
        layers=[
            pb.Layer(name="linear", inputs=["dense"], linear=pb.Linear(inputs=5, outputs=3)),
            pb.Layer(name="norm", inputs=["linear"], batchnorm=pb.BatchNorm(width=3, epsilon=1e-3)),
            pb.Layer(name="both", inputs=["norm", "linear" if also_read else "norm"], sum=pb.Sum()),
            pb.Layer(name="out", inputs=["both"], row_sum=pb.RowSum()),
        ]
    )
    rng = np.random.default_rng(0)
    weights = {name: rng.uniform(0.5, 2, shape).astype(np.float32) for name, shape in nets.weight_shapes(net).items()}
    inputs = {"dense": rng.normal(size=(9, 5)).astype(np.float32)}
    operators, distance = layers_in_graph(net, inputs, weights)
    assert distance < 1e-5
    assert ("Mul" in operators) == also_read


def test_layers_read_any_value_in_any_shape() -> None:
    def layer(name: str, *inputs: str, **kind: object) -> pb.Layer:
        return pb.Layer(name=name, inputs=inputs, **kind)

    net = pb.Net(
        layers=[
            layer("norm", "dense", batchnorm=pb.BatchNorm(width=6, epsilon=1e-5)),
            layer("drop", "norm", dropout=pb.Dropout(probability=0.5)),
            layer("sigmoid", "drop", activation=pb.Activation(function=pb.SIGMOID)),
            layer("fm", "sigmoid", fm=pb.FactorizationMachine(vectors=2, dim=3)),
            layer("odd", "embeddings", "dense", "sigmoid", dot=pb.Dot(vectors=4, dim=4)),
            layer("even", "dense", "sigmoid", dot=pb.Dot(vectors=4, dim=3)),
            layer("crossed", "dense", "sigmoid", cross=pb.Cross(width=6)),
            layer("whole", "crossed", "dense", cross_matrix=pb.CrossMatrix(width=6)),
            layer("low", "whole", "dense", cross_matrix=pb.CrossMatrix(width=6, rank=2)),
            layer("c", "low", row_sum=pb.RowSum()),
            layer("one", "odd", sum=pb.Sum()),
            layer("alone", "one", concat=pb.Concat()),
            layer("a", "alone", row_sum=pb.RowSum()),
            layer("b", "even", row_sum=pb.RowSum()),
            layer("logit", "a", "b", "c", "fm", "fm", sum=pb.Sum()),
        ]
    )
    rng = np.random.default_rng(0)
    weights = {name: rng.uniform(0.1, 0.5, shape).astype(np.float32) for name, shape in nets.weight_shapes(net).items()}
    inputs = {
        "dense": rng.normal(size=(9, 6)).astype(np.float32),
        "embeddings": rng.normal(size=(9, 4)).astype(np.float32),
    }
    _, distance = layers_in_graph(net, inputs, weights)
    assert distance < 1e-4
