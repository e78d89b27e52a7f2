"""Nodes of the graphs: as many as a model needs, and in a ranking graph the context's run once a request."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import runs
from graphs import NUMBERS, field, proved
from quorem.export.codes import FLOATS
from quorem.export.graph import BATCH, MICROSOFT
from quorem.export.int8 import FLOAT_LAYERS, LEAST_INPUTS, LEAST_OUTPUTS, Calibrated, layers_in_int8
from quorem.export.model import Blueprint, Model
from quorem.export.side import CONTEXT
from quorem.export.values import Range
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from quorem.protos import nets

# Fields as many and as large as Criteo's.
SIZES = [1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194]
SIZES += [27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572]
MLPS = {
    "fm": {},
    "wide_deep": {"mlp": [400, 400]},
    "deepfm": {"mlp": [400, 400, 400]},
    "nfm": {"mlp": [400, 400]},
    "ipnn": {"mlp": [400, 400]},
    "dnn": {"mlp": [400, 400]},
    "dlrm": {"bottom": [512, 256], "top": [512, 256]},
    "dcn": {"cross": 3, "mlp": [400, 400]},
    "dcnv2": {"cross": 3, "mlp": [400, 400]},
    "dcnv2_low": {"cross": 3, "rank": 64, "mlp": [400, 400]},
}


def criteo(name: str) -> pb.Manifest:
    """A model of 26 fields, 16 of them context, and 13 numbers, 6 of them context."""
    features = [runs.categorical(f"c{k}", "id", size) for k, size in enumerate(SIZES)]
    numbers = [runs.number(f"n{k}", pb.LOG1P) for k in range(13)]
    for k, each in enumerate([*features, *numbers]):
        each.side = pb.CONTEXT if k < 16 or 26 <= k < 32 else pb.CANDIDATE
    fields = [runs.field(one, "qr" if one.id.size > 200 else "full", pb.MULT, 16) for one in features]
    return runs.model([*features, *numbers], fields, name, **MLPS[name])


def built(manifest: pb.Manifest, *, int8: bool = False) -> Model:
    """A model's graphs, of layers of any weights."""
    shapes, rng = manifests.tensor_shapes(manifest), np.random.default_rng(0)

    def read(name: str) -> runs.Array:
        return rng.uniform(0.5, 1, shapes[name][1]).astype(np.float32)

    calibrated = FLOAT_LAYERS
    if int8:
        widths = nets.widths(manifest.net, nets.input_widths(manifest.plan, 13))
        ranges = {name: Range(np.zeros(width), np.ones(width)) for name, width in widths.items()}
        calibrated = Calibrated(frozenset(layers_in_int8(manifest.net)), ranges)
    return Blueprint(manifest, read).build(FLOATS, calibrated)


@pytest.mark.parametrize(
    ("name", "nodes", "ranking"),
    [("deepfm", 43, 72), ("dlrm", 41, 71), ("dcnv2", 36, 67), ("dcn", 37, 59), ("fm", 35, 62)],
)
def test_graphs_have_at_most_so_many_nodes(name: str, nodes: int, ranking: int) -> None:
    """More nodes are more time at batch 1."""
    model = built(criteo(name))
    assert model.ranking
    assert len(model.row_wise.graph.node) <= nodes
    assert len(model.ranking.graph.node) <= ranking


def test_the_number_of_nodes_does_not_grow_with_that_of_the_fields(tmp_path: Path) -> None:
    counts = set[int]()
    for count in (5, 26):
        features = [*(runs.categorical(f"c{k}", "hash", 300 + k) for k in range(count)), *NUMBERS]
        fields = [runs.field(one, "qr" if k % 3 else "full", pb.MULT, 4) for k, one in enumerate(features[:count])]
        graph = proved(tmp_path / f"{count}", runs.model(features, fields, "dlrm"), 8)
        kinds = [node.op_type for node in graph.node]
        assert kinds.count("Gather") == 3, "slots in the order of the lookups, remainders, quotients"
        assert sum("quotient" in node.name for node in graph.node) == 1
        assert kinds.count("Mod") == 1, "that of the hash: remainders are products and differences"
        assert "Split" not in kinds
        counts.add(len(kinds))
    assert len(counts) == 1


# ---------------------------------------------------------------- ranking graphs


def reached(graph: onnx.GraphProto, inputs: Sequence[str]) -> set[str]:
    """Names of the nodes that depend on some of the graph's inputs."""
    tensors, found = set(inputs), set[str]()
    for node in graph.node:
        if tensors & set(node.input):
            tensors.update(node.output)
            found.add(node.name)
    return found


def ranking_of(manifest: pb.Manifest, *, int8: bool = False) -> onnx.ModelProto:
    model = built(manifest, int8=int8)
    assert model.ranking, model.no_ranking
    return model.ranking


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("name", MLPS)
def test_what_the_candidates_do_not_change_runs_once(name: str, int8: bool) -> None:
    """Nodes named `context.` are those that no candidate reaches: a request computes them for one row."""
    graph = ranking_of(criteo(name), int8=int8).graph
    names = [each.name for each in graph.input]
    of_each = reached(graph, [name for name in names if name.startswith("candidate")])
    of_all = reached(graph, [name for name in names if name.startswith("context")])
    assert {node.name for node in graph.node if node.name.startswith(CONTEXT)} == of_all - of_each
    assert {"logit", "ctr"} <= of_all & of_each


@pytest.mark.parametrize("name", MLPS)
def test_nodes_that_run_once_have_no_rows_but_one(name: str) -> None:
    inferred = onnx.shape_inference.infer_shapes(ranking_of(criteo(name)), strict_mode=True, data_prop=True).graph
    shapes = {each.name: each.type.tensor_type.shape.dim for each in inferred.value_info}
    rows = {node.name: shapes[node.output[0]] for node in inferred.node if node.output[0] in shapes}
    assert len(rows) == len(inferred.node) - 2, "all but the outputs"
    once = [name for name in rows if name.startswith(CONTEXT)]
    assert len(once) > 10
    for each in once:
        assert all(dim.HasField("dim_value") for dim in rows[each]), each
        if "dot." not in each:
            assert rows[each][0].dim_value == 1, each
    candidates = [node.output[0] for node in inferred.node if node.name.startswith("embedding")]
    assert {shapes[each][0].dim_param for each in candidates} == {BATCH}


@pytest.mark.parametrize("name", MLPS)
def test_no_vector_of_the_context_is_repeated_but_in_a_cross(name: str) -> None:
    graph = ranking_of(criteo(name)).graph
    constants = {each.name for each in graph.initializer}
    expanded = [node for node in graph.node if node.op_type in ("Expand", "Tile") and node.input[0] not in constants]
    assert len(expanded) == (1 if name.startswith("dcnv2") else 0)
    for node in expanded:
        assert [each.name for each in graph.node if each.input[0] == node.name] == ["cross.whole/everything"]


@pytest.mark.parametrize("name", [name for name in MLPS if name != "fm"])
def test_no_wide_layer_is_multiplied_in_float_for_every_row(name: str) -> None:
    manifest = criteo(name)
    graph = ranking_of(manifest, int8=True).graph
    sizes = {each.name: list(each.dims) for each in graph.initializer}
    floats = (CONTEXT, "pairs.", *(("low", "factor") if name == "dcnv2_low" else ()))
    for node in graph.node:
        if node.op_type in ("Gemm", "MatMul") and not node.name.startswith(floats):
            outputs, inputs = next((sizes[each] for each in node.input if len(sizes.get(each, [])) == 2), [0, 0])
            assert inputs < LEAST_INPUTS or outputs < LEAST_OUTPUTS, node.name
    layers = layers_in_int8(manifest.net)
    quantised = [node for node in graph.node if node.domain == MICROSOFT]
    assert {node.op_type for node in quantised} == {"QGemm"}
    assert len(quantised) == len(layers) > 0
    for node in quantised:
        assert sizes[node.input[3]][1] >= LEAST_OUTPUTS
        assert sizes[node.input[1]] == sizes[node.input[2]] == [], (
            "one scale of the inputs: rows do not differ by theirs"
        )


# ---------------------------------------------------------------- lookups and layers, node by node


def operators(graph: onnx.GraphProto, *prefixes: str) -> list[str]:
    return [node.op_type for node in graph.node if node.name.startswith(prefixes)]


def looked_up(tmp_path: Path, scheme: str, combine: str) -> list[str]:
    """Operators of the lookup of two fields: from their ids to what the net reads of them."""
    features = [runs.categorical(name, "hash", 300) for name in "ab"]
    fields = [field(one, scheme, combine, 4) for one in features]
    graph = proved(tmp_path / f"{scheme}.{combine}", runs.model(features, fields, "dnn"), 8)
    return sorted(operators(graph, "embedding."))


def test_schemes_and_combines_cost_what_they_must(tmp_path: Path) -> None:
    """Rows of two partitions, their vectors, the join; a class costs a lookup, a function three nodes more."""
    rows = ["Add", "Add", "Div", "Mul", "Sub"]
    assert looked_up(tmp_path, "qr", "mult") == sorted([*rows, "Gather", "Gather", "Mul"])
    assert looked_up(tmp_path, "qr", "feature") == sorted([*rows, "Gather", "Gather", "Concat"])
    path = [*rows, *["Gather"] * 3, "MatMul", "Add", "Squeeze"]
    assert looked_up(tmp_path, "qr", "path") == sorted(path)
    assert looked_up(tmp_path, "qr", "path of 3") == sorted([*path, "Gather", "Gather", "Relu", "MatMul", "Add"])
    assert looked_up(tmp_path, "chinese_remainder", "add").count("Mod") == 3
    assert looked_up(tmp_path, "semantic", "mult") == sorted([*["Add", "Gather", "Add", "Gather"] * 2, "Mul"])


def test_crosses_of_dcn_compute_no_vector(tmp_path: Path) -> None:
    """x . w of all layers is one product, and each further layer a number's product and sum."""
    feature = runs.categorical("a", "hash", 30)
    manifest = runs.model([feature, *NUMBERS], [field(feature, "qr", "mult", 4)], "dcn", cross=4)
    graph = proved(tmp_path, manifest, 8)
    assert operators(graph, "cross.") == ["Gemm", "Split", *["Mul", "Add"] * 3]
    # W [x; h] of the last layer is W_h h + (W_x x0) alpha, with the constant in the bias.
    assert operators(graph, "layer.0", "layer.plus") == ["Gemm", "Transpose", "Mul", "Add"]


def test_a_cross_of_a_matrix_is_three_nodes_and_one_of_a_low_rank_one_more(tmp_path: Path) -> None:
    """The sum of the first one is in its bias."""
    feature = runs.categorical("a", "hash", 30)
    for model, products in (("dcnv2", ["Gemm"]), ("dcnv2_low", ["Gemm", "Gemm"])):
        described = runs.model([feature, *NUMBERS], [field(feature, "qr", "mult", 4)], model, cross=3)
        graph = proved(tmp_path / model, described, 8)
        kinds = [node.op_type for node in graph.node if node.name.endswith(tuple(f"/cross.{k}" for k in range(3)))]
        assert kinds == [*products, "Mul", *[*products, "Mul", "Add"] * 2]


def test_unified_vectors_are_read_group_by_group(tmp_path: Path) -> None:
    """A product and a sum, or a Pad, for each dim of a group; nothing is split, and all is joined once."""
    features = [runs.categorical(f"c{k}", "hash", 300 + k) for k in range(9)]
    fields = [field(one, "qr", "mult", (2, 4, 8)[k % 3]) for k, one in enumerate(features)]
    for pad, expected in ((False, ["MatMul", "Add"] * 3), (True, ["Pad"] * 2)):
        graph = proved(tmp_path / f"{pad}", runs.model(features, fields, "fm", pad=pad), 8)
        assert operators(graph, "unify.") == expected
        kinds = [node.op_type for node in graph.node if not node.name.startswith(("embedding", "first_order"))]
        assert [kinds.count(kind) for kind in ("Flatten", "Reshape", "Concat", "Split")] == [3, 0, 1, 0]


def test_a_further_dim_costs_its_gathers_alone(tmp_path: Path) -> None:
    """The arithmetic of three groups of two partitions is done together."""
    features = [runs.categorical(f"c{k}", "hash", 300 + k) for k in range(9)]
    found = dict[int, list[str]]()
    for groups in (1, 3):
        fields = [field(one, "qr", "mult", (2, 4, 8)[k % groups]) for k, one in enumerate(features)]
        found[groups] = operators(proved(tmp_path / f"{groups}", runs.model(features, fields, "dnn"), 8), "embedding")
    assert sorted(found[3]) == sorted([*found[1], "Split", "Split", *["Gather", "Gather", "Mul"] * 2])


def test_dims_of_several_groups_are_one_product_and_what_mlps_read_is_joined_once(tmp_path: Path) -> None:
    """Dim 4 comes of a group of products and one of tables side by side, dim 3 as two vectors of a field of feature."""
    features = [runs.categorical(name, "hash", 300) for name in "abc"]
    fields = [field(features[0], "qr", "mult", 4), field(features[1], "qr", "concat", 4)]
    manifest = runs.model([*features, *NUMBERS], [*fields, field(features[2], "qr", "feature", 3)], "deepfm")
    graph = proved(tmp_path, manifest, 8)
    assert sorted(operators(graph, "unify.", "cube.")) == sorted(["Concat", "Reshape", *["MatMul", "Add"] * 2])
    (joined,) = (node for node in graph.node if node.name == "joined/layer/mlp.0")
    assert len(joined.input) == 4, "three groups and the numbers"


def test_pairs_and_attention_cost_what_they_must(tmp_path: Path) -> None:
    features = [runs.categorical(name, "hash", 300) for name in "ab"]
    fields = [field(one, "full", "add", 4) for one in features]
    pairs = ["Gemm", "Mul", "Gemm", "Mul", "Sub"]

    def of(model: str, *prefixes: str) -> list[str]:
        return operators(proved(tmp_path / model, runs.model(features, fields, model), 8), *prefixes)

    assert of("fm", "pairs", "layer/fm") == [*pairs, "ReduceSum", "Mul", "Add"]
    assert of("nfm", "pairs", "layer/pairs") == [*pairs, "Mul"], "the batchnorm behind it is in the linear layer"
    head = ["Transpose", "MatMul", "Softmax", "MatMul"]
    both = ["MatMul", "Split", *head, *head, "Concat", "Add", "Relu"]
    assert of("autoint", "attention.", "layer/attention.0", "layer/attention.1") == [*both, *both]
