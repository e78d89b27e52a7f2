"""Triton's configuration: what Triton's own parser reads in it."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import runs
from quorem.export import triton
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
