"""Streams over each transport: answered as requests come, bounded, refused by a drain, cancelled, told once."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import grpc
import pytest
from quorem.protos import errors
from quorem.serve.call import Call
from quorem.serve.grpc_transport import THREADS, GrpcServer
from quorem.serve.settings import Limits
from quorem.serve.statuses import Status
from served import eventually
from transports import FLOW, Begin, Up, echo

OVER = ("nghttp2", "grpcio")


def numbered(requests: Iterator[bytes], call: Call) -> Iterator[bytes]:
    for number, request in enumerate(requests):
        if request == b"bad":
            raise errors.InputError("no bad requests", found="one")
        call.rows += 1
        yield b"%d:%s" % (number, request)


def test_a_stream_answers_each_request_as_it_comes_and_is_told_once(up: Begin):
    with up({"Score": echo}, numbered) as server:
        flow = server.flow(iter([b"a", b"b", b"c"]))
        assert list(flow) == [b"0:a", b"1:b", b"2:c"]
        eventually(lambda: server.told)
        ((path, call, status, _),) = server.told
        assert (path, call.rows, status) == (FLOW, 3, Status.OK)


def test_an_error_ends_a_stream_after_the_answers_before_it(up: Begin):
    with up({"Score": echo}, numbered) as server:
        flow = server.flow(iter([b"a", b"bad", b"c"]))
        assert next(flow) == b"0:a"
        with pytest.raises(grpc.RpcError) as refused:
            next(flow)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        eventually(lambda: server.statuses() == {"INVALID_ARGUMENT": 1})


@contextmanager
def idle_streams(server: Up, count: int) -> Iterator[list[grpc.Call]]:
    """Streams that have had one answer and send nothing more until the end."""
    end = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"a"
        end.wait(20)

    flows = [server.flow(requests()) for _ in range(count)]
    assert [next(each) for each in flows] == [b"0:a"] * count
    yield flows
    end.set()


def test_idle_streams_hold_neither_scores_nor_a_drain_up(up: Begin):
    with up({"Score": echo}, numbered) as server, idle_streams(server, 3 * THREADS):
        assert server.call(b"s") == b"s"
        begun = time.monotonic()
        server.server.drain(20)
        assert time.monotonic() - begun < 5
        assert server.refused().code() == grpc.StatusCode.UNAVAILABLE


def test_a_stream_that_sends_on_while_the_server_stops_is_refused(up: Begin):
    gate = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"a"
        gate.wait(20)
        yield b"b"

    with up({"Score": echo}, numbered) as server:
        flow = server.flow(requests())
        assert next(flow) == b"0:a"
        server.server.drain(5)
        gate.set()
        with pytest.raises(grpc.RpcError) as refused:
            next(flow)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("leave", [lambda flow: flow.cancel(), lambda flow: None])
def test_streams_are_bounded_and_one_that_ends_makes_room(up: Begin, leave: Callable[[grpc.Call], None]):
    with up({"Score": echo}, numbered, Limits(max_streams=2)) as server:
        with idle_streams(server, 2) as flows:
            with pytest.raises(grpc.RpcError) as refused:
                next(server.flow(iter([b"a"])))
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "--max-streams" in refused.value.details()
            for each in flows:
                leave(each)
        eventually(lambda: sum(server.statuses().values()) == 3)
        eventually(lambda: answers(server, [b"x"]))
        for _ in range(5):  # and never more than there was
            eventually(lambda: answers(server, [b"y"]))  # grpcio frees room when the caller has seen the end


def answers(server: Up, requests: Sequence[bytes]) -> bool:
    try:
        return len(list(server.flow(iter(requests)))) == len(requests)
    except grpc.RpcError:
        return False


def test_a_stream_of_which_somebody_tires_is_told_as_cancelled(up: Begin):
    calls, gate = list[Call](), threading.Event()

    def at_work(requests: Iterator[bytes], call: Call) -> Iterator[bytes]:
        for request in requests:
            calls.append(call)
            gate.wait(20)
            yield request

    with up({"Score": echo}, at_work) as server:
        flow = server.flow(iter([b"a", b"b"]))
        eventually(lambda: calls)
        flow.cancel()
        eventually(lambda: not calls[0].is_wanted())
        gate.set()
        eventually(lambda: server.statuses() == {"CANCELLED": 1})


def test_an_idle_stream_of_which_somebody_tires_ends(up: Begin):
    with up({"Score": echo}, numbered) as server, idle_streams(server, 1) as (flow,):
        flow.cancel()
        eventually(lambda: server.told)
        # It has had its answers; that there are no more requests is what grpcio hears first, now and then.
        ends = ({"CANCELLED": 1}, {"OK": 1}) if isinstance(server.server, GrpcServer) else ({"CANCELLED": 1},)
        assert server.statuses() in ends
