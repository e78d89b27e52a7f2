"""The Open Inference Protocol over a real channel, by hand and by Triton's own client."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import quorem
from quorem.protos import open_inference_pb2 as pb
from quorem.protos.ids import MISSING
from quorem.protos.schema import fingerprint
from quorem.serve.client import Client
from served import ROWS, Rows, Served, alive

OVER = ("nghttp2", "grpcio")
MAX_ROWS = 128
Tensor = pb.ModelInferRequest.InferInputTensor
Output = pb.ModelInferRequest.InferRequestedOutputTensor


@pytest.fixture(scope="module")
def channel(server: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def ask(channel: grpc.Channel, method: str, request: object, reply: type) -> object:
    data = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(request.SerializeToString(), timeout=20)
    return reply.FromString(data)


def infer(channel: grpc.Channel, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    reply = ask(channel, "ModelInfer", request, pb.ModelInferResponse)
    assert isinstance(reply, pb.ModelInferResponse)
    return reply


def request_of(golden: Rows, rows: int) -> pb.ModelInferRequest:
    """The first golden rows, raw."""
    request = pb.ModelInferRequest(model_name="ctr", id="i-1")
    for name, datatype, array in (("ids", "INT64", golden.encoded.ids), ("dense", "FP32", golden.encoded.dense)):
        request.inputs.append(Tensor(name=name, datatype=datatype, shape=array[:rows].shape))
        request.raw_input_contents.append(array[:rows].tobytes())
    return request


def typed(golden: Rows, rows: int) -> pb.ModelInferRequest:
    """The same in typed lists."""
    request = request_of(golden, rows)
    request.ClearField("raw_input_contents")
    request.inputs[0].contents.int64_contents.extend(golden.encoded.ids[:rows].ravel().tolist())
    request.inputs[1].contents.fp32_contents.extend(golden.encoded.dense[:rows].ravel().tolist())
    return request


@pytest.mark.parametrize("build", [request_of, typed])
def test_inference_gives_the_golden_logits(
    channel: grpc.Channel, golden: Rows, build: Callable[[Rows, int], pb.ModelInferRequest]
):
    reply = infer(channel, build(golden, ROWS))
    assert (reply.model_name, reply.model_version, reply.id) == ("ctr", "1", "i-1")
    assert [(each.name, each.datatype, list(each.shape)) for each in reply.outputs] == [
        ("logit", "FP32", [ROWS]),
        ("ctr", "FP32", [ROWS]),
    ]
    logit, ctr = (np.frombuffer(raw, "<f4") for raw in reply.raw_output_contents)
    assert np.all(np.abs(logit - golden.logits) <= 1e-5 * np.maximum(1, np.abs(golden.logits)))
    np.testing.assert_allclose(ctr, golden.scores, rtol=1e-5)


def test_score_and_inference_agree_to_the_bit(channel: grpc.Channel, server: Served, golden: Rows):
    with Client(server.address) as client:
        scores = client.score("ctr", golden.columns, ROWS).scores
    assert infer(channel, request_of(golden, ROWS)).raw_output_contents[1] == scores.tobytes()


def test_only_the_outputs_that_are_asked_for_come(channel: grpc.Channel, golden: Rows):
    request = request_of(golden, 3)
    request.outputs.append(Output(name="ctr"))
    reply = infer(channel, request)
    assert [each.name for each in reply.outputs] == ["ctr"]
    assert len(reply.raw_output_contents) == 1


def test_a_missing_id_is_no_id_out_of_range(channel: grpc.Channel, golden: Rows):
    request = request_of(golden, 1)
    ids = golden.encoded.ids[:1].copy()
    ids[0, 0] = MISSING
    request.raw_input_contents[0] = ids.tobytes()
    assert len(infer(channel, request).raw_output_contents[0]) == 4


def change_input(position: int, **values: object) -> Callable[[pb.ModelInferRequest], object]:
    def change(request: pb.ModelInferRequest) -> None:
        tensor = request.inputs[position]
        for name, value in values.items():
            if name == "shape":
                del tensor.shape[:]
                tensor.shape.extend(value)
            else:
                setattr(tensor, name, value)

    return change


def raw(position: int, edit: Callable[[bytes], bytes]) -> Callable[[pb.ModelInferRequest], object]:
    def change(request: pb.ModelInferRequest) -> None:
        request.raw_input_contents[position] = edit(request.raw_input_contents[position])

    return change


def id_at(slot: int, value: int) -> Callable[[pb.ModelInferRequest], object]:
    def edit(data: bytes) -> bytes:
        ids = np.frombuffer(data, "<i8").copy()
        ids[slot] = value
        return ids.tobytes()

    return raw(0, edit)


def whole(**values: object) -> Callable[[pb.ModelInferRequest], object]:
    return lambda request: request.MergeFrom(pb.ModelInferRequest(**values))


def drop_input(request: pb.ModelInferRequest) -> None:
    del request.inputs[0], request.raw_input_contents[0]


def parameter(request: pb.ModelInferRequest) -> None:
    request.inputs[0].parameters["shared_memory_region"].string_param = "mine"


def other_batch(request: pb.ModelInferRequest) -> None:
    request.inputs[1].shape[0] = 1
    request.raw_input_contents[1] = request.raw_input_contents[1][: len(request.raw_input_contents[1]) // 2]


def doubled(request: pb.ModelInferRequest) -> None:
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])


SLOTS = 10
EXTENSIONS = ["model_repository", "model_configuration", "statistics"]
INVALID, MISSING_MODEL, LACKING = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
)
RAW = {
    "a wrong name": (change_input(0, name="id"), INVALID, "inputs are"),
    "an input twice": (doubled, INVALID, "each sent once"),
    "an input left out": (drop_input, INVALID, "no input 'ids'"),
    "a wrong datatype": (change_input(0, datatype="INT32"), INVALID, "'ids' has datatype INT64.*'INT32'"),
    "a wrong width": (change_input(0, shape=[2, SLOTS + 1]), INVALID, rf"\[rows, {SLOTS}\]"),
    "a wrong rank": (change_input(0, shape=[2 * SLOTS]), INVALID, rf"\[rows, {SLOTS}\]"),
    "no shape": (change_input(0, shape=[]), INVALID, rf"\[rows, {SLOTS}\]"),
    "a negative shape": (change_input(0, shape=[-2, SLOTS]), INVALID, "at least one row"),
    "no rows": (change_input(0, shape=[0, SLOTS]), INVALID, "at least one row"),
    "too many rows": (change_input(0, shape=[MAX_ROWS + 1, SLOTS]), INVALID, f"at most {MAX_ROWS} rows"),
    "rows beyond counting": (change_input(0, shape=[2**62, SLOTS]), INVALID, f"at most {MAX_ROWS} rows"),
    "two batches": (other_batch, INVALID, "same number of rows"),
    "bytes cut short": (raw(0, lambda data: data[:-1]), INVALID, "20 values of 8 bytes.*159 bytes"),
    "bytes too many": (raw(1, lambda data: data + b"\0" * 4), INVALID, "6 values of 4 bytes.*28 bytes"),
    "raw contents left out": (lambda request: request.raw_input_contents.pop(), INVALID, "1 entries for 2 inputs"),
    "an id out of range": (id_at(0, 1000), INVALID, r"row 0, slot 0: .*'user' lies in \[0, 1000\)"),
    "a negative id": (id_at(SLOTS, -1), INVALID, "row 1, slot 0"),
    "infinity": (raw(1, lambda _: np.full(6, np.inf, "<f4").tobytes()), INVALID, "row 0, column 0: .*finite"),
    "an output that there is not": (whole(outputs=[Output(name="score")]), INVALID, "'logit' and 'ctr'"),
    "an output twice": (whole(outputs=[Output(name="ctr"), Output(name="ctr")]), INVALID, "asked for once"),
    "shared memory": (parameter, LACKING, "extensions"),
    "another model": (whole(model_name="other"), MISSING_MODEL, "'other'"),
    "another version": (whole(model_version="2"), MISSING_MODEL, "version 2"),
    "a version in words": (whole(model_version="latest"), INVALID, "decimal number"),
}
TYPED = {
    "values too few": (lambda request: request.inputs[0].contents.int64_contents.pop(), INVALID, "20 values"),
    "values too many": (lambda request: request.inputs[1].contents.fp32_contents.append(1), INVALID, "6 values"),
    "no values": (lambda request: request.inputs[0].ClearField("contents"), INVALID, "20 values"),
    "another list": (lambda request: request.inputs[0].contents.int_contents.append(1), INVALID, "int64_contents"),
    "both": (lambda request: request.raw_input_contents.extend([b"", b""]), INVALID, "beside raw"),
}


@pytest.mark.parametrize(
    ("build", "case"), [(build, case) for build, cases in ((request_of, RAW), (typed, TYPED)) for case in cases]
)
def test_a_bad_tensor_is_refused_and_says_why(
    channel: grpc.Channel,
    server: Served,
    golden: Rows,
    build: Callable[[Rows, int], pb.ModelInferRequest],
    case: str,
):
    change, status, reason = (RAW | TYPED)[case]
    request = build(golden, 2)
    infer(channel, request)
    change(request)
    with pytest.raises(grpc.RpcError, match=reason) as refused:
        infer(channel, request)
    assert refused.value.code() == status
    assert alive(server.worker_pids)


@pytest.mark.parametrize(
    "method", ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"]
)
def test_bytes_that_are_no_request_are_refused(channel: grpc.Channel, method: str):
    with pytest.raises(grpc.RpcError, match=f"serialized inference.{method}Request") as refused:
        channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"\xff", timeout=20)
    assert refused.value.code() == INVALID


def test_the_server_says_what_it_is(channel: grpc.Channel):
    assert ask(channel, "ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
    assert ask(channel, "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    found = ask(channel, "ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    assert found == pb.ServerMetadataResponse(name="quorem", version=quorem.__version__, extensions=EXTENSIONS)


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        ("ctr", "", True),
        ("ctr", "1", True),
        ("", "", True),
        ("ctr", "2", False),
        ("ctr", "x", False),
        ("no", "", False),
    ],
)
def test_a_model_is_ready_if_it_is_served(channel: grpc.Channel, name: str, version: str, ready: bool):
    reply = ask(channel, "ModelReady", pb.ModelReadyRequest(name=name, version=version), pb.ModelReadyResponse)
    assert reply == pb.ModelReadyResponse(ready=ready)


def test_metadata_says_what_every_slot_means(channel: grpc.Channel, golden: Rows):
    found = ask(channel, "ModelMetadata", pb.ModelMetadataRequest(name="ctr"), pb.ModelMetadataResponse)
    assert isinstance(found, pb.ModelMetadataResponse)
    tensors = [(each.name, each.datatype, list(each.shape)) for each in (*found.inputs, *found.outputs)]
    assert tensors == [
        ("ids", "INT64", [-1, SLOTS]),
        ("dense", "FP32", [-1, 3]),
        ("logit", "FP32", [-1]),
        ("ctr", "FP32", [-1]),
    ]
    assert (found.name, list(found.versions), found.platform) == ("ctr", ["1"], "onnxruntime_onnx")
    assert found.properties["schema_fingerprint"] == fingerprint(golden.schema)
    assert json.loads(found.properties["slots"]) == {
        "ids": {"user": [0, 1], "item": [1, 1], "city": [2, 1], "tags": [3, 4], "seen": [7, 3]},
        "dense": {"age": 0, "price": 1, "rank": 2},
    }
    with pytest.raises(grpc.RpcError, match="'no'") as refused:
        ask(channel, "ModelMetadata", pb.ModelMetadataRequest(name="no"), pb.ModelMetadataResponse)
    assert refused.value.code() == MISSING_MODEL


# Its messages have the names of ours, so it must not meet them in one process.
TRITON = """
import sys
import numpy as np
import tritonclient.grpc as triton

address, path = sys.argv[1:]
rows = dict(np.load(path))
client = triton.InferenceServerClient(address)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("ctr")
assert not client.is_model_ready("other")
assert client.get_server_metadata().name == "quorem"
assert client.get_model_metadata("ctr", as_json=True)["inputs"][0]["name"] == "ids"
inputs = [triton.InferInput("ids", rows["ids"].shape, "INT64"), triton.InferInput("dense", rows["dense"].shape, "FP32")]
for tensor in inputs:
    tensor.set_data_from_numpy(rows[tensor.name()])
result = client.infer("ctr", inputs, outputs=[triton.InferRequestedOutput("ctr")], request_id="t-1")
assert result.get_response().id == "t-1"
try:
    client.infer("other", inputs)
except triton.InferenceServerException as error:
    assert error.status() == "StatusCode.NOT_FOUND", error
else:
    raise SystemExit("no error for a model that is not served")
np.save(path + ".ctr.npy", result.as_numpy("ctr"))
"""


def test_tritons_client_gets_the_scores_of_score(server: Served, golden: Rows, tmp_path: Path):
    path = tmp_path / "rows.npz"
    np.savez(path, ids=golden.encoded.ids, dense=golden.encoded.dense)
    script = [sys.executable, "-c", TRITON, server.address, str(path)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(f"{path}.ctr.npy")
    np.testing.assert_allclose(found, golden.scores, rtol=1e-5)
    with Client(server.address) as client:
        np.testing.assert_array_equal(found, client.score("ctr", golden.columns, ROWS).scores)
