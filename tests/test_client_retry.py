"""What a client tries again, and what it does not: real servers of which the first answers fail."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from quorem.protos import errors
from quorem.protos import scoring_pb2 as pb
from quorem.protos.encode import Column
from quorem.serve.async_client import AsyncClient
from quorem.serve.channel import Retry
from quorem.serve.client import Client
from quorem.serve.exchange import Scores
from quorem.serve.statuses import RETRY_AFTER

CODE = grpc.StatusCode
METADATA = tuple[tuple[str, str], ...]
QUICK = Retry(attempts=3, first_s=0.04, most_s=0.06)
COLUMNS = {"item": Column(integers=np.array([1, 2]))}


class Failing:
    """A Scorer that fails as it is told to, and then answers."""

    def __init__(
        self, *failures: tuple[grpc.StatusCode, METADATA], details: str = "told to", slow_s: float = 0
    ) -> None:
        self.failures, self.details, self.slow_s = list(failures), details, slow_s
        self.at = list[float]()
        self.peers = list[str]()

    def score(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.at.append(time.monotonic())
        self.peers.append(context.peer())
        time.sleep(self.slow_s)
        if self.failures:
            code, trailing = self.failures.pop(0)
            context.set_trailing_metadata(trailing)
            context.abort(code, self.details)
        rows = pb.ScoreRequest.FromString(request).rows
        return pb.ScoreResponse(model="m", version=7, scores=np.full(rows, 0.5, "<f4").tobytes()).SerializeToString()

    @contextmanager
    def running(self, address: str = "127.0.0.1:0") -> Iterator[str]:
        server = grpc.server(futures.ThreadPoolExecutor(4))
        method = grpc.unary_unary_rpc_method_handler(self.score)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("quorem.v1.Scorer", {"Score": method}),))
        port = server.add_insecure_port(address)
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


Call = Callable[..., Scores]


def sync_call(address: str, retry: Retry | bool = QUICK, timeout_s: float = 10, connections: int = 1) -> Scores:
    with Client(address, retry=retry, timeout_s=timeout_s, connections=connections) as client:
        return client.score("m", COLUMNS, 2)


def async_call(address: str, retry: Retry | bool = QUICK, timeout_s: float = 10, connections: int = 1) -> Scores:
    async def call() -> Scores:
        async with AsyncClient(address, retry=retry, timeout_s=timeout_s, connections=connections) as client:
            return await client.score("m", COLUMNS, 2)

    return asyncio.run(call())


@pytest.fixture(params=[sync_call, async_call], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    return request.param


def test_what_is_unavailable_is_asked_again_later_and_later(call: Call):
    failing = Failing((CODE.UNAVAILABLE, ()), (CODE.UNAVAILABLE, ()))
    with failing.running() as address:
        assert call(address).version == 7
    first, second = np.diff(failing.at)
    assert first >= 0.5 * QUICK.first_s
    assert second >= 0.5 * QUICK.most_s


def test_attempts_are_bounded(call: Call):
    failing = Failing(*[(CODE.UNAVAILABLE, ())] * 9)
    with failing.running() as address:
        with pytest.raises(errors.Unavailable, match=f"{address}: .*UNAVAILABLE: told to"):
            call(address)
        assert len(failing.at) == 3
        with pytest.raises(errors.Unavailable):
            call(address, retry=False)
        assert len(failing.at) == 4


FINAL = {
    CODE.INVALID_ARGUMENT: errors.InputError,
    CODE.NOT_FOUND: errors.NotFound,
    CODE.FAILED_PRECONDITION: errors.WrongSchema,
    CODE.UNIMPLEMENTED: errors.Unimplemented,
    CODE.UNAUTHENTICATED: errors.Unauthenticated,
    CODE.PERMISSION_DENIED: errors.Forbidden,
    CODE.DEADLINE_EXCEEDED: errors.TooLate,
    CODE.CANCELLED: errors.Gone,
    CODE.RESOURCE_EXHAUSTED: errors.Overloaded,
    CODE.INTERNAL: errors.QuoremError,
    CODE.ABORTED: errors.QuoremError,
    CODE.UNKNOWN: errors.QuoremError,
    CODE.DATA_LOSS: errors.QuoremError,
}


@pytest.mark.parametrize("code", FINAL, ids=lambda code: code.name)
def test_everything_else_is_final_and_quorems_own(call: Call, code: grpc.StatusCode):
    failing = Failing((code, ()))
    with failing.running() as address, pytest.raises(errors.QuoremError, match="told to") as caught:
        call(address)
    assert type(caught.value) is FINAL[code]
    assert caught.value.where == address
    assert len(failing.at) == 1


def test_a_busy_server_is_asked_again_when_it_says(call: Call):
    failing = Failing((CODE.RESOURCE_EXHAUSTED, ((RETRY_AFTER, "150"),)))
    with failing.running() as address:
        assert call(address).version == 7
    assert failing.at[1] - failing.at[0] >= 0.15


@pytest.mark.parametrize(("hint", "retry_s"), [("60000", 60.0), ("soon", 0.0), ("-5", 0.0), ("", 0.0)])
def test_a_busy_server_is_left_alone_where_the_time_is_too_short_or_it_says_nothing(
    call: Call, hint: str, retry_s: float
):
    failing = Failing((CODE.RESOURCE_EXHAUSTED, ((RETRY_AFTER, hint),)))
    with failing.running() as address, pytest.raises(errors.Overloaded) as caught:
        call(address)
    assert caught.value.retry_s == retry_s
    assert len(failing.at) == 1


def test_a_message_too_long_is_not_a_busy_server(call: Call):
    failing = Failing((CODE.RESOURCE_EXHAUSTED, ()), details="SERVER: Received message larger than max (9 vs. 4)")
    with failing.running() as address, pytest.raises(errors.TooLarge, match="Send fewer rows per call"):
        call(address)


def test_all_attempts_share_the_time_of_the_call(call: Call):
    failing = Failing(*[(CODE.UNAVAILABLE, ())] * 1000)
    with failing.running() as address, pytest.raises((errors.Unavailable, errors.TooLate)):  # the last may be cut off
        call(address, retry=Retry(attempts=1000, first_s=0.01, most_s=0.02), timeout_s=2)
    assert 3 <= len(failing.at) < 500
    assert failing.at[-1] - failing.at[0] < 3


def test_an_answer_after_the_time_is_too_late(call: Call):
    failing = Failing(slow_s=3)
    with failing.running() as address, pytest.raises(errors.TooLate, match="Allow more time"):
        call(address, timeout_s=1)
    assert len(failing.at) == 1


def test_a_server_that_comes_back_is_reached(call: Call):
    failing = Failing()
    with failing.running() as address:
        pass
    back = threading.Timer(0.3, serve_for_a_while, (failing, address, done := threading.Event()))
    back.start()
    try:
        assert call(address, retry=Retry(attempts=200, first_s=0.05, most_s=0.1)).version == 7
    finally:
        done.set()
        back.join()
    assert len(failing.at) == 1


def serve_for_a_while(failing: Failing, address: str, done: threading.Event) -> None:
    with failing.running(address):
        done.wait(10)


def test_the_next_attempt_takes_the_next_connection(call: Call):
    failing = Failing((CODE.UNAVAILABLE, ()))
    with failing.running() as address:
        call(address, connections=2)
    assert len(set(failing.peers)) == 2
