"""Triton's methods as functions from bytes to bytes: what they answer, and what they refuse and why."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bare import OneProcess
from quorem.protos import open_inference_pb2 as pb
from quorem.protos.errors import (
    Forbidden,
    Gone,
    InputError,
    NotFound,
    QuoremError,
    TooLate,
    Unavailable,
    Unimplemented,
    WrongType,
)
from quorem.serve.call import Call
from quorem.serve.services import INFERENCE
from quorem.serve.statuses import Status
from quorem.serve.stream_methods import model_stream_infer, score_stream
from served import ROWS, Rows

NEW = ("ModelConfig", "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")


@pytest.fixture(scope="module")
def control(served_root: Path, golden: Rows) -> OneProcess:
    assert len(golden.logits) == ROWS
    return OneProcess(served_root / "models", "ctr")


def ask(control: OneProcess, method: str, allowed: bool = True, **request: Any) -> Any:
    """The reply to one request."""
    message = getattr(pb, f"{method}Request")(**request)
    data = control.methods(allowed=allowed)[INFERENCE][method](message.SerializeToString(), Call())
    return getattr(pb, f"{method}Response").FromString(data)


@pytest.mark.parametrize("method", NEW)
@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x7f", b"\x0a\x02\xff\xfe"], ids=["rubbish", "cut short", "no UTF-8"])
def test_bytes_that_are_no_request_are_refused(control: OneProcess, method: str, data: bytes):
    with pytest.raises(InputError, match=f"serialized inference.{method}Request"):
        control.methods()[INFERENCE][method](data, Call())


TENSOR = pb.ModelRepositoryParameter(bytes_param=b"onnx")
CASES = {
    "config, another model": ("ModelConfig", {"name": "other"}, NotFound, "'other'"),
    "config, another version": ("ModelConfig", {"name": "ctr", "version": "2"}, NotFound, "version 2"),
    "config, a version in words": ("ModelConfig", {"name": "ctr", "version": "-1"}, WrongType, "decimal"),
    "config, a path": ("ModelConfig", {"name": "../ctr"}, NotFound, r"'\.\./ctr'"),
    "statistics, another model": ("ModelStatistics", {"name": "other"}, NotFound, "'other'"),
    "statistics, another version": ("ModelStatistics", {"name": "ctr", "version": "2"}, NotFound, "version 2"),
    "statistics, a version too long": ("ModelStatistics", {"version": "1" * 30}, WrongType, "decimal"),
    "index, a repository": ("RepositoryIndex", {"repository_name": "r"}, Unimplemented, "'r'"),
    "load, no name": ("RepositoryModelLoad", {}, NotFound, "no name"),
    "load, another model": ("RepositoryModelLoad", {"model_name": "other"}, NotFound, "'other'"),
    "load, a path": ("RepositoryModelLoad", {"model_name": "../ctr"}, NotFound, "with RepositoryIndex"),
    "load, an absolute path": ("RepositoryModelLoad", {"model_name": "/etc"}, NotFound, "with RepositoryIndex"),
    "load, a hidden directory": ("RepositoryModelLoad", {"model_name": ".ctr"}, NotFound, "with RepositoryIndex"),
    "load, a zero": ("RepositoryModelLoad", {"model_name": "ctr\0"}, NotFound, "with RepositoryIndex"),
    "load, a repository": (
        "RepositoryModelLoad",
        {"model_name": "ctr", "repository_name": "r"},
        Unimplemented,
        "one repository",
    ),
    "load, a file": (
        "RepositoryModelLoad",
        {"model_name": "ctr", "parameters": {"file:1/model.onnx": TENSOR}},
        Unimplemented,
        "file:1/model.onnx",
    ),
    "unload, another model": ("RepositoryModelUnload", {"model_name": "other"}, NotFound, "'other'"),
    "unload, a path": ("RepositoryModelUnload", {"model_name": "ctr/1"}, NotFound, "with RepositoryIndex"),
    "unload, a parameter": (
        "RepositoryModelUnload",
        {"model_name": "ctr", "parameters": {"config": TENSOR}},
        Unimplemented,
        "config",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_question_is_refused_and_says_why(control: OneProcess, case: str):
    method, request, error, reason = CASES[case]
    with pytest.raises(error, match=reason):
        ask(control, method, **request)
    assert control.repository.names == ["ctr"]


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_control_that_is_not_allowed_changes_nothing(control: OneProcess, method: str):
    loads = control.loads
    for name in ("ctr", "other", ""):
        with pytest.raises(Forbidden, match="--allow-control"):
            ask(control, method, allowed=False, model_name=name)
    assert (control.repository.names, control.loads) == (["ctr"], loads)


def test_the_index_tells_why_a_version_is_not_ready_only_to_who_may_control(control: OneProcess):
    found = ask(control, "RepositoryIndex").models
    assert [(each.name, each.version, each.state) for each in found] == [
        ("ctr", "1", "READY"),
        ("ctr", "2", "UNAVAILABLE"),
    ]
    assert "digest" in found[1].reason
    assert [each.reason for each in ask(control, "RepositoryIndex", allowed=False).models] == ["", ""]
    assert [each.version for each in ask(control, "RepositoryIndex", ready=True).models] == ["1"]


def test_a_model_is_unloaded_and_loaded(control: OneProcess):
    loads = control.loads
    harmless = {"unload_dependents": pb.ModelRepositoryParameter(bool_param=True)}
    ask(control, "RepositoryModelUnload", model_name="ctr", parameters=harmless)
    assert control.repository.names == []
    assert list(ask(control, "ModelStatistics").model_stats) == []
    with pytest.raises(NotFound):
        ask(control, "ModelConfig", name="ctr")
    ask(control, "RepositoryModelLoad", model_name="ctr")
    assert (control.repository.names, control.loads) == (["ctr"], loads + 1)


def test_a_version_without_calls_has_statistics_of_zeros(served_root: Path, golden: Rows):
    assert len(golden.logits) == ROWS
    fresh = OneProcess(served_root / "models", "ctr")
    for request in ({}, {"name": "ctr"}, {"name": "ctr", "version": "1"}):
        (found,) = ask(fresh, "ModelStatistics", **request).model_stats
        assert (found.name, found.version, found.inference_count) == ("ctr", "1", 0)
        assert found.inference_stats.HasField("success")


def test_statistics_count_what_failed_apart(served_root: Path, golden: Rows):
    assert len(golden.logits) == ROWS
    fresh = OneProcess(served_root / "models", "ctr")
    call = Call(model="ctr", version=1, rows=5)
    fresh.repository.statistics.record(call, "Score", Status.OK, 1, 2, 3, 10)
    fresh.repository.statistics.record(call, "ModelInfer", Status.OK, 10, 20, 30, 100)
    fresh.repository.statistics.record(call, "Score", Status.INVALID_ARGUMENT, total_ns=7)
    fresh.repository.statistics.record(Call(), "Score", Status.NOT_FOUND, total_ns=9)
    (found,) = ask(fresh, "ModelStatistics").model_stats
    assert (found.inference_count, found.execution_count) == (10, 2)
    times = found.inference_stats
    duration = pb.StatisticDuration
    assert times.success == duration(count=2, ns=110)
    assert times.fail == duration(count=1, ns=7)
    assert times.queue == duration(count=2, ns=11)
    assert times.compute_input == duration(count=2, ns=22)
    assert times.compute_infer == duration(count=2, ns=33)
    assert times.compute_output == duration(count=2, ns=44)
    (batch,) = found.batch_stats
    assert (batch.batch_size, batch.compute_output) == (8, duration(count=2, ns=44))


def answer(request: bytes, call: Call) -> bytes:
    """Echo a request's id; refuse the model that a request names as an error."""
    asked = pb.ModelInferRequest.FromString(request)
    call.model, call.rows = "ctr", 1
    for error in (NotFound, InputError, Gone, TooLate, Unavailable, QuoremError):
        if asked.model_name == error.__name__:
            raise error("a rule", found=asked.id)
    return pb.ModelInferResponse(model_name="ctr", id=asked.id).SerializeToString()


def asked(*models: str) -> Iterator[bytes]:
    """Requests for these models, numbered."""
    return (
        pb.ModelInferRequest(model_name=model, id=str(number)).SerializeToString()
        for number, model in enumerate(models)
    )


def test_an_error_of_one_request_travels_in_the_stream():
    call = Call(token="t")
    found = [
        pb.ModelStreamInferResponse.FromString(each)
        for each in model_stream_infer(answer, asked("ctr", "NotFound", "InputError", "ctr"), call)
    ]
    assert [each.infer_response.id for each in found] == ["0", "1", "2", "3"]
    assert [each.error_message for each in found] == ["", "a rule. Found: 1.", "a rule. Found: 2.", ""]
    assert all(each.infer_response.parameters["triton_final_response"].bool_param for each in found)
    assert (call.model, call.rows) == ("", 0), "each request has a call of its own"


@pytest.mark.parametrize("error", [Gone, TooLate, Unavailable, QuoremError])
def test_an_error_of_the_server_ends_the_stream(error: type[QuoremError]):
    stream = model_stream_infer(answer, asked("ctr", error.__name__, "ctr"), Call())
    assert next(stream)
    with pytest.raises(error):
        next(stream)


def test_rubbish_in_a_stream_is_answered_without_an_id(control: OneProcess):
    infer = control.methods()[INFERENCE]["ModelInfer"]
    (found,) = model_stream_infer(infer, iter([b"\xff"]), Call())
    reply = pb.ModelStreamInferResponse.FromString(found)
    assert "serialized inference.ModelInferRequest" in reply.error_message
    assert reply.infer_response.id == ""


def test_a_stream_asks_for_the_next_request_only_when_it_is_wanted():
    taken = list[int]()

    def requests() -> Iterator[bytes]:
        for number, request in enumerate(asked("ctr", "ctr", "ctr")):
            taken.append(number)
            yield request

    for stream in (score_stream, model_stream_infer):
        taken.clear()
        next(stream(answer, requests(), Call()))
        assert taken == [0]
