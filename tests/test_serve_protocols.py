"""Triton's part of the Open Inference Protocol, and reflection, from outside: by clients that are not ours."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from quorem.protos import open_inference_pb2 as pb
from quorem.protos import scoring_pb2 as scoring
from quorem.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from quorem.protos.schema import fingerprint
from quorem.protos.scoring_pb2_grpc import ScorerStub
from quorem.serve.columns import encode as column_of
from served import ROWS, Rows, Served, make_repository, serving

OVER = ("nghttp2", "grpcio")
TOKEN = "0123456789abcdef0123"

# Triton's messages have the names of ours, so its client must not meet them in one process.
FILES = """
from tritonclient.grpc import model_config_pb2, service_pb2

print(service_pb2.DESCRIPTOR.serialized_pb.hex(), model_config_pb2.DESCRIPTOR.serialized_pb.hex())
"""

START = """
import asyncio, json, sys
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as aio

address, path, token = sys.argv[1:]
headers = {"authorization": "Bearer " + token}
rows = dict(np.load(path))
inputs = [triton.InferInput("ids", rows["ids"].shape, "INT64"), triton.InferInput("dense", rows["dense"].shape, "FP32")]
for tensor in inputs:
    tensor.set_data_from_numpy(rows[tensor.name()])
"""

SYNC = (
    START
    + """
client = triton.InferenceServerClient(address)

def refused(status, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except triton.InferenceServerException as error:
        assert error.status() == f"StatusCode.{status}", error
    else:
        raise SystemExit(f"no error of {call}")

assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("ctr")
assert "statistics" in client.get_server_metadata().extensions
assert client.get_model_metadata("ctr").platform == "onnxruntime_onnx"
config = client.get_model_config("ctr", as_json=True)["config"]
client.infer("ctr", inputs)
for _ in range(2):
    refused("NOT_FOUND", client.infer, "other", inputs)
index = client.get_model_repository_index(headers=headers, as_json=True)["models"]
statistics = client.get_inference_statistics("ctr", as_json=True)["model_stats"]
client.unload_model("ctr", headers=headers)
assert not client.is_model_ready("ctr")
refused("NOT_FOUND", client.infer, "ctr", inputs)
states = [each["state"] for each in client.get_model_repository_index(headers=headers, as_json=True)["models"]]
assert "READY" not in states
client.load_model("ctr", headers=headers)
assert client.is_model_ready("ctr")
refused("NOT_FOUND", client.load_model, "other", headers=headers)
refused("UNAUTHENTICATED", client.load_model, "ctr")
refused("NOT_FOUND", client.unload_model, "../ctr", headers=headers)
refused("UNIMPLEMENTED", client.load_model, "ctr", config="{}", headers=headers)
refused("NOT_FOUND", client.get_inference_statistics, "other")
refused("NOT_FOUND", client.get_model_config, "ctr", "7")
print(json.dumps([config, index, statistics]))
"""
)

STREAM = (
    START
    + """
import queue

client, replies = triton.InferenceServerClient(address), queue.Queue()
client.start_stream(callback=lambda result, error: replies.put((result, error)))
for number in range(5):
    model = "other" if number == 2 else "ctr"
    client.async_stream_infer(model, inputs, request_id=str(number), enable_empty_final_response=True)
found = [replies.get(timeout=20) for _ in range(5)]
client.stop_stream()
for number, (result, error) in enumerate(found):
    if number == 2:
        assert result is None and "'other'" in str(error), error
        continue
    assert error is None, error
    assert result.get_response().id == str(number)
    assert result.get_response().parameters["triton_final_response"].bool_param
    scores = result.as_numpy("ctr")
np.save(path + ".ctr.npy", scores)
"""
)

ASYNC = (
    START
    + """
async def main():
    async with aio.InferenceServerClient(address) as client:
        assert await client.is_server_live() and await client.is_server_ready() and await client.is_model_ready("ctr")
        assert (await client.get_server_metadata()).name == "quorem"
        assert (await client.get_model_metadata("ctr")).name == "ctr"
        assert (await client.get_model_config("ctr")).config.backend == "onnxruntime"
        assert len((await client.get_model_repository_index(headers=headers)).models) == 2
        await client.unload_model("ctr", headers=headers)
        assert not await client.is_model_ready("ctr")
        await client.load_model("ctr", headers=headers)
        result = await client.infer("ctr", inputs, request_id="a")
        assert (await client.get_inference_statistics("ctr")).model_stats[0].inference_count >= len(rows["ids"])

        async def asked():
            for number in range(3):
                model = "other" if number == 1 else "ctr"
                yield {"model_name": model, "inputs": inputs, "request_id": str(number)}

        answers = [each async for each in client.stream_infer(asked())]
        assert [error is None for _, error in answers] == [True, False, True], answers
        assert answers[2][0].get_response().id == "2"
        np.testing.assert_array_equal(answers[2][0].as_numpy("ctr"), result.as_numpy("ctr"))
        np.save(path + ".ctr.npy", result.as_numpy("ctr"))

asyncio.run(main())
"""
)


@pytest.fixture(scope="module")
def address(golden: Rows, transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that takes control from who has the token, on a repository of a version and of a broken one."""
    root = tmp_path_factory.mktemp("controlled")
    make_repository(root)
    model = root / "models" / "ctr"
    shutil.copytree(model / "1", model / "2")
    with (model / "2" / "tables.bin").open("r+b") as tables:
        tables.write(b"spoilt")
    (root / "tokens").write_text(f"tests {TOKEN}\n")
    options = ("--workers", "2", "--max-rows", "128", "--transport", transport)
    control = ("--allow-control", "--token-file", str(root / "tokens"))
    with serving(root / "models", root / "log", *options, *control) as running:
        yield running.address


@pytest.fixture(scope="module")
def rows(golden: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.npz"
    np.savez(path, ids=golden.encoded.ids, dense=golden.encoded.dense)
    return path


def run(script: str, *arguments: str | Path) -> str:
    """What a script of another process prints; it must end well."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def described(files: list[bytes]) -> dict[str, object]:
    """The fields, enum values and methods of serialized .proto files, by name; maps are messages of fields too."""
    found = dict[str, object]()

    def walk(name: str, message: DescriptorProto) -> None:
        for field in message.field:
            found[f"{name}.{field.name}"] = (field.number, field.type, field.label, field.type_name)
        for nested in message.nested_type:
            walk(f"{name}.{nested.name}", nested)

    for file in map(FileDescriptorProto.FromString, files):
        for message in file.message_type:
            walk(message.name, message)
        for enum in file.enum_type:
            found |= {value.name: value.number for value in enum.value}
        for service in file.service:
            for each in service.method:
                streams = each.client_streaming, each.server_streaming
                found[f"{service.name}/{each.name}"] = (each.input_type, each.output_type, *streams)
    return found


def test_names_and_numbers_are_tritons():
    theirs = described([bytes.fromhex(each) for each in run(FILES).split()])
    ours = described([pb.DESCRIPTOR.serialized_pb])
    own = {name for name in ours if name.startswith(("ModelMetadataResponse.properties", "ModelMetadataResponse.P"))}
    assert len(own) == 3, "the Open Inference Protocol's, which Triton has not taken over: a map and its two fields"
    assert {name: each for name, each in ours.items() if theirs.get(name) != each} == {name: ours[name] for name in own}


def test_tritons_client_asks_and_controls(address: str, golden: Rows, rows: Path):
    config, index, statistics = json.loads(run(SYNC, address, rows, TOKEN))
    assert (config["name"], config["platform"], config["backend"]) == ("ctr", "onnxruntime_onnx", "onnxruntime")
    assert config["max_batch_size"] == 128
    assert config["version_policy"] == {"specific": {"versions": ["1"]}}
    assert [(each["name"], each["data_type"], each["dims"]) for each in config["input"]] == [
        ("ids", "TYPE_INT64", ["10"]),
        ("dense", "TYPE_FP32", ["3"]),
    ]
    assert [(each["name"], each["dims"]) for each in config["output"]] == [("logit", ["1"]), ("ctr", ["1"])]
    assert config["parameters"]["schema_fingerprint"]["string_value"] == fingerprint(golden.schema)
    assert [(each["name"], each["version"], each["state"]) for each in index] == [
        ("ctr", "1", "READY"),
        ("ctr", "2", "UNAVAILABLE"),
    ]
    assert "digest" in index[1]["reason"]
    (found,) = statistics
    assert (found["name"], found["version"]) == ("ctr", "1")
    assert int(found["inference_count"]) == ROWS * int(found["execution_count"])
    times = found["inference_stats"]
    assert times["success"]["count"] == found["execution_count"] == times["compute_infer"]["count"]
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert int(times["success"]["ns"]) == sum(int(times[each]["ns"]) for each in parts)
    assert [each["batch_size"] for each in found["batch_stats"]] == [str(ROWS)]


@pytest.mark.parametrize("script", [STREAM, ASYNC], ids=["stream", "async"])
def test_tritons_other_clients_get_the_same_scores(address: str, golden: Rows, rows: Path, script: str):
    run(script, address, rows, TOKEN)
    np.testing.assert_allclose(np.load(f"{rows}.ctr.npy"), golden.scores, rtol=1e-5)


def test_control_is_refused_where_it_is_not_allowed(server: Served):
    with grpc.insecure_channel(server.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for call, request in (
            (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="ctr")),
            (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name="ctr")),
        ):
            with pytest.raises(grpc.RpcError, match="--allow-control") as refused:
                call(request, timeout=20)
            assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
        ready = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), timeout=20).models
        assert [(each.name, each.version, each.state) for each in ready] == [("ctr", "1", "READY")]


def test_statistics_are_sums_over_the_workers(server: Served, golden: Rows):
    """Each connection reaches one worker; whichever is asked knows of all calls."""
    one = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(server.address, options=one) for _ in range(12)]
    asked, bad = score_request(golden, 3), score_request(golden, 2)
    bad.candidates[0].int64s += b"\0"

    def statistics(channel: grpc.Channel) -> pb.ModelStatistics:
        request = pb.ModelStatisticsRequest(name="ctr", version="1")
        (found,) = GRPCInferenceServiceStub(channel).ModelStatistics(request, timeout=20).model_stats
        return found

    before = statistics(channels[0])
    for channel in channels:
        ScorerStub(channel).Score(asked, timeout=20)
        with pytest.raises(grpc.RpcError, match="8 bytes each"):
            ScorerStub(channel).Score(bad, timeout=20)
    for channel in channels:
        found = statistics(channel)
        assert found.inference_count - before.inference_count == 3 * len(channels)
        assert found.inference_stats.success.count - before.inference_stats.success.count == len(channels)
        assert found.inference_stats.fail.count - before.inference_stats.fail.count == len(channels)
        channel.close()


def score_request(golden: Rows, number: int, model: str = "ctr") -> scoring.ScoreRequest:
    """The first golden rows, as many as the number says."""
    columns = [column_of(name, each) for name, each in golden.take(number).items()]
    return scoring.ScoreRequest(model=model, request_id=str(number), candidates=columns, rows=number)


def test_a_stream_of_scores_is_answered_in_order(address: str, golden: Rows):
    with grpc.insecure_channel(address) as channel:
        stub = ScorerStub(channel)
        asked = [score_request(golden, number) for number in (3, 1, 64, 2)]
        replies = list(stub.ScoreStream(iter(asked), timeout=20))
        assert [each.request_id for each in replies] == ["3", "1", "64", "2"]
        for request, reply in zip(asked, replies, strict=True):
            assert reply.scores == stub.Score(request, timeout=20).scores


def test_a_request_that_fails_ends_a_stream_of_scores(address: str, golden: Rows):
    with grpc.insecure_channel(address) as channel:
        asked = [score_request(golden, 3), score_request(golden, 2, "other"), score_request(golden, 1)]
        replies = ScorerStub(channel).ScoreStream(iter(asked), timeout=20)
        assert next(replies).request_id == "3"
        with pytest.raises(grpc.RpcError, match="'other'") as refused:
            next(replies)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services_and_describes_their_messages(address: str):
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == {
            "quorem.v1.Scorer",
            "inference.GRPCInferenceService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        pool = DescriptorPool(database)
        for service, own in (("quorem.v1.Scorer", scoring), ("inference.GRPCInferenceService", pb)):
            found = pool.FindServiceByName(service)
            assert [each.name for each in found.methods] == [
                each.name for each in own.DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods
            ]
        assert pool.FindMessageTypeByName("quorem.v1.ScoreRequest").fields_by_name["rows"].number == 8
