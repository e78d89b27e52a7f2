"""Triton's configuration: what Triton's own parser reads in it, and that it describes the exported graph.

The rules are those of https://github.com/triton-inference-server/server: model_repository.md for the layout,
model_configuration.md for config.pbtxt, and of its ONNX Runtime backend for names, shapes and files.
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import runs
from quorem.export import triton
from quorem.export.bundle import export
from quorem.export.precision import parse
from quorem.protos import manifest_pb2 as pb
from quorem.protos import schema

pytestmark = pytest.mark.skipif(
    find_spec("tritonclient") is None, reason="Triton's client holds the message that config.pbtxt is a text of"
)

# In a process of its own: the client's messages and quorem's Open Inference messages bear the same names.
READ = """
import sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
config = text_format.Parse(sys.stdin.read(), model_config_pb2.ModelConfig())
print(json_format.MessageToJson(config, preserving_proto_field_name=True))
"""


def read(text: str) -> dict[str, object]:
    found = subprocess.run([sys.executable, "-c", READ], input=text, capture_output=True, text=True, check=True)
    return json.loads(found.stdout)


def test_triton_reads_the_configuration() -> None:
    features = [
        runs.categorical('a "quoted\\ name', "hash", 9),
        runs.categorical("bücket", "bucket", 3),
        runs.categorical("bag", "id", 5, bag=4),
        runs.number("n"),
    ]
    described = pb.Schema(features=features)
    config = read(triton.text(described))
    assert config["backend"] == "onnxruntime"
    assert config["max_batch_size"] == 4096
    assert config["input"] == [
        {"name": "ids", "data_type": "TYPE_INT64", "dims": ["5"]},
        {"name": "dense", "data_type": "TYPE_FP32", "dims": ["2"]},
    ]
    output = {"data_type": "TYPE_FP32", "dims": ["1"], "reshape": {}}  # a reshape to no dimension: [B]
    assert config["output"] == [{"name": "logit", **output}, {"name": "ctr", **output}]
    assert config["dynamic_batching"] == {"preferred_batch_size": [32, 128]}
    parameters = config["parameters"]
    assert isinstance(parameters, dict)
    assert parameters["schema_fingerprint"]["string_value"] == schema.fingerprint(described)
    assert json.loads(parameters["slots"]["string_value"]) == {
        "ids": {'a "quoted\\ name': [0, 1], "bag": [1, 4]},
        "dense": {"bücket": 0, "n": 1},
    }


@pytest.mark.parametrize(("encoding", "inputs"), [("hash", ["ids"]), ("bucket", ["dense"])])
def test_inputs_that_the_graph_lacks_are_left_out(encoding: str, inputs: list[str]) -> None:
    config = read(triton.text(pb.Schema(features=[runs.categorical("a", encoding, 5)])))
    found = config["input"]
    assert isinstance(found, list)
    assert [each["name"] for each in found] == inputs


def test_a_written_configuration_is_accepted_for_its_schema_again(tmp_path: Path) -> None:
    described = pb.Schema(features=[runs.categorical("a", "hash", 5)])
    triton.check(tmp_path, described)
    triton.write(tmp_path, described)
    triton.check(tmp_path, described)


# ---------------------------------------------------------------- the exported repository

KINDS = {"TYPE_INT64": onnx.TensorProto.INT64, "TYPE_FP32": onnx.TensorProto.FLOAT}
ENCODINGS = {
    "ids and numbers": ("hash", "vocabulary", "number"),
    "ids": ("hash", "id"),
    "numbers": ("bucket", "number"),
}


def repository(root: Path, encodings: tuple[str, ...], precision: str) -> Path:
    """A model of two versions; the first feature is the context's, the others the candidates'."""
    features = [
        runs.number(f"f{k}") if encoding == "number" else runs.categorical(f"f{k}", encoding, 40)
        for k, encoding in enumerate(encodings)
    ]
    for k, feature in enumerate(features):
        feature.side = pb.CANDIDATE if k else pb.CONTEXT
    fields = [runs.field(each, "qr", pb.MULT, 4) for each in features if each.WhichOneof("encoding") != "dense"]
    runs.make_run(root / "run", runs.model(features, fields, "dnn", mlp=[64, 16, 8]), np.random.default_rng(0))
    for _ in range(2):
        export(root / "run", root / "models" / "ctr", precision=parse(precision))
    return root / "models"


def flow(values: object) -> dict[str, tuple[int, list[int]]]:
    """Name -> element type and dims of a graph's inputs or outputs; sizes that vary are -1."""
    found = dict[str, tuple[int, list[int]]]()
    for each in values:  # pyright: ignore[reportGeneralTypeIssues]  # a repeated field
        kind = each.type.tensor_type
        found[each.name] = (kind.elem_type, [-1 if size.dim_param else size.dim_value for size in kind.shape.dim])
    return found


@pytest.mark.parametrize("precision", ["fp32", "int8+int8"])
@pytest.mark.parametrize("encodings", ENCODINGS)
def test_the_repository_is_one_that_triton_loads(tmp_path: Path, encodings: str, precision: str) -> None:
    models = repository(tmp_path, ENCODINGS[encodings], precision)
    assert [path.name for path in models.iterdir()] == ["ctr"], "a directory for each model, and nothing else"
    model = models / "ctr"
    assert sorted(path.name for path in model.iterdir()) == ["1", "2", "config.pbtxt"]
    config = read((model / "config.pbtxt").read_text())
    # No name: it is the directory's. No default_model_filename: it is model.onnx. No version policy: the latest one.
    assert config.keys() <= {*("backend", "max_batch_size", "input", "output", "dynamic_batching", "parameters")}
    assert config["backend"] == "onnxruntime"
    batching = config["dynamic_batching"]
    assert isinstance(batching, dict)
    preferred = batching["preferred_batch_size"]
    assert all(1 <= size <= config["max_batch_size"] for size in preferred)
    for version in (model / "1", model / "2"):
        graph = onnx.load(version / "model.onnx", load_external_data=False).graph
        for told, given in ((config["input"], flow(graph.input)), (config["output"], flow(graph.output))):
            assert isinstance(told, list)
            assert [each["name"] for each in told] == list(given)
            for each in told:
                kind, dims = given[each["name"]]
                # Behind the batch, which is not told, stand the dims; a reshape says what the backend gives instead.
                shape = each["reshape"].get("shape", []) if "reshape" in each else each["dims"]
                assert (KINDS[each["data_type"]], [-1, *map(int, shape)]) == (kind, dims)
                assert all(int(size) > 0 for size in each["dims"])


@pytest.mark.parametrize("precision", ["fp32", "int8+int8"])
def test_both_graphs_are_valid_and_their_constants_stand_beside_them(tmp_path: Path, precision: str) -> None:
    version = repository(tmp_path, ENCODINGS["ids and numbers"], precision) / "ctr" / "1"
    for name in ("model.onnx", "rank.onnx"):
        onnx.checker.check_model(str(version / name), full_check=True)
        graph = onnx.load(version / name, load_external_data=False).graph
        outside = [each for each in graph.initializer if each.data_location == onnx.TensorProto.EXTERNAL]
        places = [{entry.key: entry.value for entry in each.external_data} for each in outside]
        assert {place["location"] for place in places} == {"tables.bin"}
        size = (version / "tables.bin").stat().st_size
        assert all(int(place["offset"]) + int(place["length"]) <= size for place in places)
        onnx.load(version / name)  # the checker asks for the file, this reads it
