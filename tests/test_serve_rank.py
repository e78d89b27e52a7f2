"""Two graphs of one version: the server picks by N, both give the trained scores, and neither is trusted unproved."""

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import runs
from onnx import TensorProto, helper, numpy_helper
from quorem.export.bundle import export
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2
from quorem.protos import scoring_pb2 as pb
from quorem.protos.encode import Column, Encoded
from quorem.protos.errors import Malformed, NotFound, ParityError, WrongShape
from quorem.protos.schema import layout
from quorem.serve import golden, tuning, work
from quorem.serve.call import Call
from quorem.serve.client import Client, request_of
from quorem.serve.graph import CTR, LOGIT
from quorem.serve.model import CANDIDATE_DENSE, CANDIDATE_IDS, CONTEXT_DENSE, CONTEXT_IDS, Model
from quorem.serve.repository import Repository
from quorem.serve.score_method import prepare_score
from quorem.serve.settings import Limits, Version
from quorem.serve.sides import Apart
from quorem.serve.survey import survey
from served import head, make_columns, make_repository, serving

ROWS, RANK_FROM = 64, 24
CONTEXT = ("user", "age", "price", "rank")  # of served.features(): ids and numbers on both sides
SPLITS = ("ni", "ii", "nin", "iin")  # ids or numbers: the first feature is the context


def with_rank(bundle: Path) -> Path:
    """The bundle with a rank.onnx: its own, or the row-wise graph behind nodes that repeat the context."""
    manifest = manifests.read(bundle)
    if any(graph.file == "rank.onnx" for graph in manifest.export.graphs):
        return bundle
    places, graph = layout(manifest.schema), onnx.load(bundle / "model.onnx", load_external_data=False)
    sides = {feature.name: feature.side for feature in manifest.schema.features}
    owners = {
        "ids": [sides[name] for name, (_, length) in places.slots.items() for _ in range(length)],
        "dense": [sides[name] for name in places.dense],
    }
    nodes, inputs, counted = list[onnx.NodeProto](), list[onnx.ValueInfoProto](), ""
    kinds = {"ids": TensorProto.INT64, "dense": TensorProto.FLOAT}
    for whole, side in (("ids", "candidate"), ("dense", "candidate"), ("ids", "context"), ("dense", "context")):
        width = owners[whole].count(manifest_pb2.CONTEXT if side == "context" else manifest_pb2.CANDIDATE)
        if not width:
            continue
        name, rows = f"{side}_{whole}", 1 if side == "context" else "N"
        inputs.append(helper.make_tensor_value_info(name, kinds[whole], [rows, width]))
        counted = counted or name
        repeated = name
        if side == "context":
            repeated = f"repeat/{name}"
            nodes.append(helper.make_node("Tile", [name, "repeat/times"], [repeated], name=repeated))
        nodes.append(helper.make_node("Identity", [repeated], [f"part/{name}"], name=f"part/{name}"))
    count = [
        helper.make_node("Shape", [counted], ["repeat/rows"], "repeat/rows", start=0, end=1),
        helper.make_node("Concat", ["repeat/rows", "repeat/one"], ["repeat/times"], "repeat/times", axis=0),
    ]
    constants = [numpy_helper.from_array(np.array([1]), "repeat/one")]
    for whole, owner in owners.items():
        if not owner:
            continue
        parts = [f"part/{each}_{whole}" for each in ("context", "candidate") if f"{each}_{whole}" in names(inputs)]
        order = np.argsort(np.argsort([each != manifest_pb2.CONTEXT for each in owner], kind="stable"))
        constants.append(numpy_helper.from_array(order, f"order/{whole}"))
        nodes.append(helper.make_node("Concat", parts, [f"joined/{whole}"], f"joined/{whole}", axis=1))
        nodes.append(helper.make_node("Gather", [f"joined/{whole}", f"order/{whole}"], [whole], f"in/{whole}", axis=1))
    whole_nodes = [*count, *nodes, *graph.graph.node]
    del graph.graph.input[:], graph.graph.node[:]
    graph.graph.input.extend(inputs)
    graph.graph.node.extend(whole_nodes)
    graph.graph.initializer.extend(constants)
    (bundle / "rank.onnx").write_bytes(graph.SerializeToString())
    del manifest.export.graphs[:]
    manifest.export.graphs.extend(manifest_pb2.GraphFacts(file=name) for name in ("model.onnx", "rank.onnx"))
    return signed(bundle, manifest)


def names(values: Sequence[onnx.ValueInfoProto]) -> list[str]:
    return [each.name for each in values]


def signed(bundle: Path, manifest: manifest_pb2.Manifest) -> Path:
    """Write the manifest, and the digests of the files as they are now."""
    files = dict.fromkeys([*(file.name for file in manifest.files), "rank.onnx"])
    del manifest.files[:]
    manifest.files.extend(manifests.describe_files(bundle, [name for name in files if (bundle / name).exists()]))
    manifests.write(bundle, manifest)
    return bundle


def unread(bundle: Path) -> manifest_pb2.Manifest:
    """The manifest, whatever became of its files."""
    return manifests.parse((bundle / "manifest.json").read_bytes(), "here")


def opened(bundle: Path) -> Model:
    return Model(Version("ctr", 1, bundle), "cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose only version has both graphs."""
    root = tmp_path_factory.mktemp("ranked")
    make_repository(root)
    with_rank(root / "models" / "ctr" / "1")
    return root / "models"


@pytest.fixture(scope="module")
def model(models: Path) -> Model:
    found = opened(models / "ctr" / "1")
    found.warm()
    return found


@pytest.fixture
def bundle(models: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(models, tmp_path / "models") / "ctr" / "1")


def request(
    count: int, context: Sequence[str] = CONTEXT, **asked: object
) -> tuple[pb.ScoreRequest, pb.ScoreRequest, dict[str, Column]]:
    """A request with the context apart, the same as rows, and its columns."""
    columns = make_columns(np.arange(30), count, seed=9)
    shared = {name: head(columns.pop(name), 1) for name in context}
    rows = columns | {name: repeated(column, count) for name, column in shared.items()}
    requests = request_of(columns, count, shared), request_of(rows, count)
    for each in requests:
        each.MergeFrom(pb.ScoreRequest(**asked))
    return *requests, columns


def repeated(column: Column, count: int) -> Column:
    """One row's column, for `count` rows."""
    arrays = {name: getattr(column, name) for name in ("integers", "floats", "missing")}
    return Column(**{name: None if array is None else np.repeat(array, count) for name, array in arrays.items()})


def answer(model: Model, call: pb.ScoreRequest) -> pb.ScoreResponse:
    repository = Repository([model], Limits())
    return pb.ScoreResponse.FromString(
        work.answer(repository, partial(prepare_score, repository), call.SerializeToString(), Call())
    )


def graph_of(model: Model, call: pb.ScoreRequest) -> str:
    """Which graph scores a request, told by its inputs."""
    _, inputs = model.pick(model.sides.encode(call.context, call.candidates, call.rows))
    return "rank.onnx" if CONTEXT_IDS in inputs else "model.onnx"


def close(found: bytes, expected: bytes, bound: float) -> bool:
    one, other = np.frombuffer(found, "<f4"), np.frombuffer(expected, "<f4")
    return one.shape == other.shape and bool(np.all(np.abs(one - other) <= 2 * bound * np.maximum(1, np.abs(other))))


@pytest.mark.parametrize("count", [1, 2, RANK_FROM - 1, RANK_FROM, 300])
def test_the_server_picks_by_the_number_of_candidates_and_both_graphs_agree(model: Model, count: int):
    apart, rows, _ = request(count, output=pb.LOGIT)
    assert graph_of(model, apart) == ("rank.onnx" if count >= RANK_FROM else "model.onnx")
    assert graph_of(model, rows) == "model.onnx"
    assert close(answer(model, apart).scores, answer(model, rows).scores, model.manifest.export.parity_bound)


@pytest.mark.parametrize("context", [("user",), (*CONTEXT, "city"), ("user", "age", "price", "item"), ()])
def test_a_context_other_than_the_schemas_is_scored_by_rows(model: Model, context: Sequence[str]):
    columns = make_columns(np.arange(30), 40, seed=9)
    shared = {name: head(columns.pop(name), 1) for name in context}
    call = request_of(columns, 40, shared)
    assert graph_of(model, call) == "model.onnx"
    assert len(answer(model, call).scores) == 4 * 40


@pytest.mark.parametrize("output", [pb.LOGIT, pb.PROBABILITY])
def test_the_best_candidates_are_the_same_ones(model: Model, output: int):
    whole, _, _ = request(200, output=output)
    best, _, _ = request(200, output=output, top_k=7)
    best.candidate_ids.int64s = np.arange(1000, 1200).tobytes()
    scores, found = np.frombuffer(answer(model, whole).scores, "<f4"), answer(model, best)
    logits = np.frombuffer(answer(model, request(200, output=pb.LOGIT)[0]).scores, "<f4")
    order = np.argsort(-logits, kind="stable")[:7]
    np.testing.assert_array_equal(np.frombuffer(found.indices, "<u4"), order)
    np.testing.assert_array_equal(np.frombuffer(found.scores, "<f4"), scores[order])
    np.testing.assert_array_equal(np.frombuffer(found.candidate_ids.int64s, "<i8"), 1000 + order)


def test_the_same_request_gives_the_same_bytes(model: Model):
    call, _, _ = request(100)
    first, second = (answer(model, call) for _ in range(2))
    for reply in (first, second):
        reply.ClearField("timings")
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_sides_apart_are_the_rows_without_their_repetition(model: Model):
    apart, rows, _ = request(30)
    found = model.sides.encode(apart.context, apart.candidates, 30)
    whole = model.sides.encode(rows.context, rows.candidates, 30)
    assert isinstance(found, Apart)
    assert isinstance(whole, Encoded)
    assert len(found.context.ids) == len(found.context.dense) == 1
    for joined in (found.whole(), model.sides.apart(whole, whole).whole()):
        np.testing.assert_array_equal(joined.ids, whole.ids)
        np.testing.assert_array_equal(joined.dense, whole.dense)


def test_refusals_are_the_same_for_many_candidates(model: Model):
    call, _, columns = request(50)
    shared = {name: head(column, 1) for name, column in make_columns(np.arange(30), 2).items() if name in CONTEXT}
    with pytest.raises(Exception, match="at most 4096 rows"):
        answer(model, request(5000)[0])
    short = request_of(columns | {"item": head(columns["item"], 49)}, 50, shared)
    with pytest.raises(Exception, match="49 values for 50 rows"):
        answer(model, short)
    for column in call.context:
        if column.name == "price":
            column.float32s = np.array([np.inf], np.float32).tobytes()
    with pytest.raises(Exception, match="'price', row 0: a number is finite"):
        answer(model, call)


@pytest.mark.parametrize("kinds", SPLITS)
def test_inputs_without_a_width_are_left_out(tmp_path: Path, kinds: str):
    features = [
        runs.number(f"f{j}") if kind == "n" else runs.categorical(f"f{j}", "hash", 40, seed=j)
        for j, kind in enumerate(kinds)
    ]
    features[0].side = manifest_pb2.CONTEXT
    for feature in features[1:]:
        feature.side = manifest_pb2.CANDIDATE
    fields = [
        runs.field(each, "qr", manifest_pb2.MULT, 4) for each in features if each.WhichOneof("encoding") == "hash"
    ]
    runs.make_run(tmp_path / "run", runs.model(features, fields, "dnn"), np.random.default_rng(0))
    found = opened(with_rank(export(tmp_path / "run", tmp_path / "models" / "ctr")))
    found.warm()
    inputs = onnx.load(found.version.directory / "rank.onnx", load_external_data=False).graph.input
    expected = {CONTEXT_DENSE} if kinds[0] == "n" else {CONTEXT_IDS}
    expected |= {CANDIDATE_IDS} if "i" in kinds[1:] else set()
    expected |= {CANDIDATE_DENSE} if "n" in kinds[1:] else set()
    assert set(names(inputs)) == expected
    rows = golden.read(found.version.directory, found.layout).take(slice(0, 40))
    apart = found.sides.apart(Encoded(rows.ids[:1], rows.dense[:1]), rows)
    graph, arrays = found.pick(apart)
    assert CONTEXT_IDS in arrays
    for one, other in zip(graph.run(arrays, [LOGIT, CTR]), found.run(apart.whole(), [LOGIT, CTR]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("written", "rank_from"), [({}, 24), ({"rank_from": 1}, 1), ({"rank_from": None}, None)])
def test_a_tuning_moves_the_choice(bundle: Path, written: dict[str, object], rank_from: int | None):
    whole = {"format_version": 1, "preferred_batch_sizes": [32, 128], "machine": "here"} | written
    (bundle / "tuning.json").write_text(json.dumps(whole))
    assert tuning.read(bundle) == tuning.Tuning(rank_from)
    found = opened(bundle)
    found.warm()
    for count in (1, 23, 24):
        ranked = rank_from is not None and count >= rank_from
        assert graph_of(found, request(count)[0]) == ("rank.onnx" if ranked else "model.onnx")


def edited(bundle: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """The bundle with another rank.onnx, as if export had written it so."""
    graph = onnx.load(bundle / "rank.onnx", load_external_data=False)
    change(graph)
    (bundle / "rank.onnx").write_bytes(graph.SerializeToString())
    return signed(bundle, unread(bundle))


def behind(node: onnx.NodeProto, *constants: onnx.TensorProto) -> Callable[[onnx.ModelProto], None]:
    """A change that puts a node between the logit as it was, `before`, and the output `logit`."""

    def change(model: onnx.ModelProto) -> None:
        for each in model.graph.node:
            each.input[:] = ["before" if name == LOGIT else name for name in each.input]
            each.output[:] = ["before" if name == LOGIT else name for name in each.output]
        model.graph.node.append(node)
        model.graph.initializer.extend(constants)

    return change


def constant(name: str, value: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value), name)


SHIFT = helper.make_node("Add", ["before", "shift"], [LOGIT])
REVERSE = helper.make_node("Slice", ["before", "last", "first", "axis", "step"], [LOGIT])
BACKWARDS = [constant("last", [-1]), constant("first", [-(2**31)]), constant("axis", [0]), constant("step", [-1])]
OF_THE_FIRST = helper.make_node("Slice", ["before", "first", "last"], [LOGIT])


@pytest.mark.parametrize(
    "change",
    [
        behind(SHIFT, constant("shift", np.float32(1e-3))),
        behind(REVERSE, *BACKWARDS),
        behind(OF_THE_FIRST, constant("first", [0]), constant("last", [1])),
    ],
    ids=["shifted", "in another order", "of the first candidate only"],
)
def test_a_ranking_graph_that_gives_other_scores_is_refused(bundle: Path, change: Callable[[onnx.ModelProto], None]):
    found = opened(edited(bundle, change))
    with pytest.raises(ParityError, match="golden logits"):
        found.warm()


def renamed(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        if value.name == CONTEXT_IDS:
            value.name = "user_ids"
    for node in model.graph.node:
        node.input[:] = ["user_ids" if name == CONTEXT_IDS else name for name in node.input]


def many_contexts(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        if value.name == CONTEXT_IDS:
            value.type.tensor_type.shape.dim[0].dim_param = "N"


@pytest.mark.parametrize("change", [renamed, many_contexts])
def test_a_ranking_graph_of_other_inputs_is_refused(bundle: Path, change: Callable[[onnx.ModelProto], None]):
    with pytest.raises(WrongShape, match="the graph of this schema has inputs") as refused:
        opened(edited(bundle, change))
    assert refused.value.where == str(bundle / "rank.onnx")


def test_a_ranking_graph_that_does_not_open_is_refused(bundle: Path):
    (bundle / "rank.onnx").write_bytes(b"not a graph")
    signed(bundle, unread(bundle))
    with pytest.raises(Malformed, match="ONNX Runtime opens a bundle's graph"):
        opened(bundle)


def test_a_ranking_graph_without_a_digest_is_not_served(bundle: Path):
    manifest = unread(bundle)
    kept = [file for file in manifest.files if file.name != "rank.onnx"]
    del manifest.files[:]
    manifest.files.extend(kept)
    manifests.write(bundle, manifest)
    with pytest.raises(NotFound, match=r"holds the digest of rank\.onnx"):
        survey(bundle.parents[1])


def test_a_bundle_without_a_ranking_graph_is_served_by_rows(bundle: Path):
    manifest = unread(bundle)
    kept = [file for file in manifest.files if file.name != "rank.onnx"]
    del manifest.files[:], manifest.export.graphs[1:]
    manifest.files.extend(kept)
    manifests.write(bundle, manifest)
    (bundle / "rank.onnx").unlink()
    found = opened(bundle)
    found.warm()
    apart, rows, _ = request(50)
    assert graph_of(found, apart) == "model.onnx"
    assert answer(found, apart).scores == answer(found, rows).scores


@pytest.mark.parametrize("side", [manifest_pb2.CONTEXT, manifest_pb2.CANDIDATE])
def test_a_schema_of_one_side_has_nothing_to_rank(tmp_path: Path, side: manifest_pb2.Side.ValueType):
    features = [runs.categorical("user", "hash", 40)]
    features[0].side = side
    fields = [runs.field(features[0], "qr", manifest_pb2.MULT, 4)]
    runs.make_run(tmp_path / "run", runs.model(features, fields, "dnn"), np.random.default_rng(0))
    bundle = export(tmp_path / "run", tmp_path / "models" / "ctr")
    shutil.copy(bundle / "model.onnx", bundle / "rank.onnx")
    manifest = unread(bundle)
    del manifest.export.graphs[:]
    manifest.export.graphs.extend(manifest_pb2.GraphFacts(file=name) for name in ("model.onnx", "rank.onnx"))
    found = opened(signed(bundle, manifest))
    found.warm()
    column = Column(integers=np.array([7]))
    call = request_of({}, 30, {"user": column})
    assert graph_of(found, call) == "model.onnx"
    assert len(answer(found, call).scores) == 4 * 30


def test_a_server_ranks_over_the_wire(models: Path, model: Model, tmp_path: Path):
    columns = make_columns(np.arange(30), 80, seed=9)
    context = {name: head(columns.pop(name), 1) for name in CONTEXT}
    with serving(models, tmp_path / "log", "--workers", "1") as server, Client(server.address) as client:
        found = client.score("ctr", columns, 80, context=context, logit=True)
        assert found.scores.tobytes() == answer(model, request(80, output=pb.LOGIT)[0]).scores
        assert server.stop() == 0
