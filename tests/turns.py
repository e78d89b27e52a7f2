"""Turns: requests of both protocols for the model of `served`, and what becomes of them alone and in one turn."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from google.protobuf.message import Message
from quorem.protos import open_inference_pb2 as oip
from quorem.protos import scoring_pb2 as pb
from quorem.protos.encode import Column
from quorem.serve.call import Call
from quorem.serve.exchange import request_of
from quorem.serve.infer_method import prepare_infer
from quorem.serve.repository import Repository
from quorem.serve.score_method import prepare_score
from quorem.serve.turn import Turn
from quorem.serve.work import Prepare, answer
from served import CONTEXT, head

Tensor = oip.ModelInferRequest.InferInputTensor
Outcome = bytes | tuple[type[Exception], str]


def infer(ids: np.ndarray, dense: np.ndarray, outputs: Sequence[str] = (), **said: Any) -> oip.ModelInferRequest:
    """A request of raw rows."""
    request = oip.ModelInferRequest(**{"model_name": "ctr"} | said)
    for name, datatype, array in (("ids", "INT64", ids), ("dense", "FP32", dense)):
        if array.shape[1]:
            request.inputs.append(Tensor(name=name, datatype=datatype, shape=array.shape))
            request.raw_input_contents.append(array.tobytes())
    request.outputs.extend(oip.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs)
    return request


def typed(request: oip.ModelInferRequest) -> oip.ModelInferRequest:
    """The same with typed numbers."""
    found = oip.ModelInferRequest.FromString(request.SerializeToString())
    for tensor, raw in zip(found.inputs, request.raw_input_contents, strict=True):
        if tensor.datatype == "INT64":
            tensor.contents.int64_contents.extend(np.frombuffer(raw, "<i8").tolist())
        else:
            tensor.contents.fp32_contents.extend(np.frombuffer(raw, "<f4").tolist())
    found.ClearField("raw_input_contents")
    return found


def swapped(request: oip.ModelInferRequest) -> oip.ModelInferRequest:
    """The same with its inputs in the other order."""
    found = oip.ModelInferRequest.FromString(request.SerializeToString())
    inputs, raw = [*request.inputs][::-1], request.raw_input_contents[::-1]
    del found.inputs[:], found.raw_input_contents[:]
    found.inputs.extend(inputs)
    found.raw_input_contents.extend(raw)
    return found


def score(columns: dict[str, Column], rows: int, context: Sequence[str] = CONTEXT, **said: Any) -> pb.ScoreRequest:
    """A request of the first rows of columns, of which some are the context's."""
    own = {name: head(column, rows) for name, column in columns.items() if name not in context}
    request = request_of(own, rows, {name: head(columns[name], 1) for name in context})
    request.MergeFrom(pb.ScoreRequest(**said))
    return request


def prepare(repository: Repository, request: Any) -> Prepare:
    """What reads a request of this kind."""
    return partial(prepare_score if isinstance(request, pb.ScoreRequest) else prepare_infer, repository)


def alone(repository: Repository, request: Any, data: bytes | None = None) -> Outcome:
    """What becomes of a request by itself; of other bytes in its place, if they are given."""
    data = request.SerializeToString() if data is None else data
    try:
        return timeless(answer(repository, prepare(repository, request), data, Call()), request)
    except Exception as error:
        return type(error), str(error)


def together(repository: Repository, requests: Sequence[Any], calls: Sequence[Call] = ()) -> list[Outcome]:
    """What becomes of requests that wait together, told in their order."""
    turn, told = Turn(repository), dict[int, Outcome]()

    def done(place: int, reply: bytes | Exception) -> None:
        assert place not in told
        told[place] = timeless(reply, requests[place]) if isinstance(reply, bytes) else (type(reply), str(reply))

    for place, request in enumerate(requests):
        call = calls[place] if calls else Call()
        turn.put(prepare(repository, request), request.SerializeToString(), call, partial(done, place))
    assert not told
    assert turn.waiting == len(requests)
    while turn.step():
        pass
    assert turn.waiting == 0
    return [told[place] for place in range(len(requests))]


def timeless(reply: bytes, request: Any) -> bytes:
    """A reply without its times."""
    if not isinstance(request, pb.ScoreRequest):
        return reply
    found = pb.ScoreResponse.FromString(reply)
    assert found.timings.total_ns >= found.timings.compute_ns > 0
    found.ClearField("timings")
    return found.SerializeToString()


def scores(request: Any, reply: Outcome) -> np.ndarray:
    """All numbers of a request's reply, one output after the other."""
    return _parted(request, reply)[0]


def same(request: Any, found: Outcome, expected: Outcome, bound: float) -> bool:
    """Whether two outcomes of a request are equal, but for that much of each score, of itself where it is above 1."""
    if not isinstance(found, bytes) or not isinstance(expected, bytes):
        return found == expected
    (one, rest), (other, other_rest) = _parted(request, found), _parted(request, expected)
    close = one.shape == other.shape and bool(np.all(np.abs(one - other) <= bound * np.maximum(1, np.abs(other))))
    return close and rest == other_rest


def _parted(request: Any, reply: Outcome) -> tuple[np.ndarray, Message]:
    """The numbers of a reply, and all else that it says."""
    assert isinstance(reply, bytes), reply
    if isinstance(request, pb.ScoreRequest):
        ranked = pb.ScoreResponse.FromString(reply)
        numbers, ranked.scores = ranked.scores, b""
        return np.frombuffer(numbers, "<f4"), ranked
    inferred = oip.ModelInferResponse.FromString(reply)
    numbers = b"".join(inferred.raw_output_contents)
    inferred.ClearField("raw_output_contents")
    return np.frombuffer(numbers, "<f4"), inferred
