"""The transport itself, on real connections: statuses, deadlines, tokens, bounded queues, streams, who is told."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2
from quorem.protos import errors
from quorem.protos.errors import Overloaded, QuoremError
from quorem.serve.call import Call, Method
from quorem.serve.grpc_transport import THREADS, GrpcServer
from quorem.serve.port import reserve
from quorem.serve.refusals import MOST_WAITING
from quorem.serve.settings import Limits
from served import eventually
from transports import DESCRIBE, SCORE, SERVICE, Begin, Up, echo, make, threads

OVER = ("nghttp2", "grpcio")


def raising(error: Exception) -> Method:
    def method(_request: bytes, _call: Call) -> bytes:
        raise error

    return method


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("InputError", "INVALID_ARGUMENT"),
        ("NotFound", "NOT_FOUND"),
        ("Overloaded", "RESOURCE_EXHAUSTED"),
        ("TooLate", "DEADLINE_EXCEEDED"),
        ("Gone", "CANCELLED"),
        ("Unauthenticated", "UNAUTHENTICATED"),
        ("Forbidden", "PERMISSION_DENIED"),
    ],
)
def test_an_error_becomes_its_status_and_is_told(up: Begin, name: str, status: str):
    with up({"Score": raising(getattr(errors, name)("a rule", found="that"))}) as server:
        refused = server.refused()
        assert refused.code().name == status
        assert refused.details() == "a rule. Found: that."
        eventually(lambda: server.told)
        ((path, _, told, total_s),) = server.told
        assert (path, told.name) == (SCORE, status)
        assert 0 < total_s < 5


def parts(data: bytes) -> list[tuple[int, bytes]]:
    """The fields of a message whose fields are short bytes, messages, or numbers below 128."""
    found = list[tuple[int, bytes]]()
    while data:
        end = 2 + data[1] if data[0] & 7 == 2 else 2
        found.append((data[0] >> 3, data[2:end] if end > 2 else data[1:2]))
        data = data[end:]
    return found


def test_an_error_is_told_to_programs_as_a_rich_status(up: Begin):
    error = Overloaded("a rule")
    error.retry_s = 0.5
    with up({"Score": raising(error)}) as server:
        (packed,) = [
            each.value for each in server.refused().trailing_metadata() if each.key == "grpc-status-details-bin"
        ]
    code, message, info, retry = parts(packed)
    assert (code, message) == ((1, b"\x08"), (2, b"a rule."))
    (_, kind), (_, value) = parts(info[1])
    assert (kind, parts(value)) == (b"type.googleapis.com/google.rpc.ErrorInfo", [(1, b"Overloaded"), (2, b"quorem")])
    (_, kind), (_, value) = parts(retry[1])
    delay = Duration.FromString(parts(value)[0][1])
    assert (kind, delay.ToMilliseconds()) == (b"type.googleapis.com/google.rpc.RetryInfo", 500)


def test_an_overloaded_server_says_when_to_try_again(up: Begin):
    error = Overloaded("a rule")
    error.retry_s = 0.0123
    with up({"Score": raising(error)}) as server:
        assert ("retry-after-ms", "12") in [tuple(each) for each in server.refused().trailing_metadata()]


def test_a_method_knows_the_deadline_the_token_and_when_the_call_arrived(up: Begin):
    seen = list[Call]()

    def method(request: bytes, call: Call) -> bytes:
        seen.append(call)
        assert call.is_wanted()
        return request

    with up({"Score": method}) as server:
        begun = time.monotonic()
        server.call(timeout=3, metadata=[("authorization", "Bearer s3cret"), ("other", "x")])
        server.call(timeout=None)
        server.call(metadata=[("authorization", "Basic s3cret")])
    assert begun < seen[0].arrived < time.monotonic()
    assert seen[0].deadline == pytest.approx(begun + 3, abs=0.5)
    assert seen[1].deadline is None
    assert [each.token for each in seen] == ["s3cret", "", ""]


@contextmanager
def blocked(up: Begin, **options: object) -> Iterator[tuple[Up, threading.Event, list[bytes]]]:
    """A server whose every thread is at a call until the event is set; the requests that were begun."""
    release, begun = threading.Event(), list[bytes]()

    def slow(request: bytes, _call: Call) -> bytes:
        begun.append(request)
        release.wait(20)
        return request

    with up({"Score": slow, "Describe": echo}, **options) as server:
        held = [server.channel.unary_unary(SCORE).future(b"held", timeout=20) for _ in range(THREADS)]
        eventually(lambda: len(begun) == THREADS)
        yield server, release, begun
        release.set()
        assert [each.result() for each in held] == [b"held"] * THREADS


def test_a_call_whose_deadline_passed_while_it_waited_is_not_computed(up: Begin):
    with blocked(up) as (server, release, begun):
        late = server.channel.unary_unary(SCORE).future(b"late", timeout=0.2)
        assert late.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        time.sleep(0.5)  # it came to the server later than it was sent, and so does its deadline
        release.set()
        assert server.call(b"next") == b"next"
        assert b"late" not in begun


def test_no_more_calls_wait_than_have_room_and_questions_are_answered_meanwhile(up: Begin):
    with blocked(up) as (server, release, begun):
        call = server.channel.unary_unary(SCORE)
        waiting = [call.future(b"w", timeout=20) for _ in range(MOST_WAITING)]
        eventually(lambda: threads(server.server).waiting == MOST_WAITING)  # all have arrived
        refused = [call.future(b"r", timeout=20) for _ in range(40)]
        assert {each.code().name for each in refused} == {"RESOURCE_EXHAUSTED"}
        assert all(dict(each.trailing_metadata())["retry-after-ms"] == "100" for each in refused)
        assert server.statuses()["RESOURCE_EXHAUSTED"] == 40
        begin = time.monotonic()
        assert server.health("ctr") == health_pb2.HealthCheckResponse.SERVING
        assert server.call(b"d", DESCRIBE) == b"d"
        assert time.monotonic() - begin < 2
        release.set()
        assert [each.result() for each in waiting] == [b"w"] * MOST_WAITING
        assert b"r" not in begun


def test_what_has_no_room_is_refused_before_its_message_is_read(up: Begin):
    asked = list[int]()

    def refusal(calls: int) -> QuoremError | None:
        asked.append(calls)
        return Overloaded("there is room") if calls >= THREADS else None

    with blocked(up, refusal=refusal) as (server, release, begun):
        big = bytes(8_000_000)
        for _ in range(5):
            assert server.refused(big).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert asked[-5:] == [THREADS] * 5
        assert server.call(b"d", DESCRIBE) == b"d"  # questions need no room
        release.set()
        eventually(lambda: server.server.unfinished() == 0)
        assert server.call(b"again") == b"again"
        assert len(begun) == THREADS + 1


def test_a_message_beyond_the_limit_is_refused_by_grpc_and_the_connection_lives(up: Begin):
    with up({"Score": echo}, limits=Limits(max_request_bytes=1000)) as server:
        assert server.refused(bytes(2000)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert server.call(bytes(500)) == bytes(500)


def test_an_unknown_method_is_unimplemented(up: Begin):
    with up({"Score": echo}) as server:
        assert server.refused(path=f"/{SERVICE}/Other").code() == grpc.StatusCode.UNIMPLEMENTED


def test_health_of_a_name_changes_while_the_server_runs(up: Begin):
    with up({"Score": echo}) as server:
        kinds = health_pb2.HealthCheckResponse
        assert server.health("ctr") == kinds.SERVING
        server.server.set_health("ctr", serving=False)
        server.server.set_health("other", serving=True)
        assert (server.health("ctr"), server.health("other")) == (kinds.NOT_SERVING, kinds.SERVING)


def test_an_observer_that_fails_fails_no_call(transport: str, caplog: pytest.LogCaptureFixture):
    port = reserve("127.0.0.1", 0)

    def observe(*_ended: object) -> None:
        raise OSError("the disk is full")

    server = make(transport, {SERVICE: {"Score": echo}}, observe=observe)
    server.start("127.0.0.1", port.number)
    with port.holder, grpc.insecure_channel(port.address) as channel:
        assert channel.unary_unary(SCORE)(b"x", timeout=20) == b"x"
    server.close()
    assert "the disk is full" in caplog.text


def test_callers_whose_messages_never_come_hold_nobody_up(up: Begin):
    with up({"Score": echo}) as server, ThreadPoolExecutor(3 * THREADS) as pool:
        stop = threading.Event()

        def nothing() -> Iterator[bytes]:
            stop.wait(60)
            yield from ()

        without = server.channel.stream_unary(SCORE)
        held = [pool.submit(without, nothing(), 60) for _ in range(3 * THREADS)]
        if isinstance(server.server, GrpcServer):  # the other one begins no call before its message is there
            eventually(lambda: server.server.unfinished() == 3 * THREADS)
        try:
            answered = [server.call(b"%d" % number) for number in range(5)]
        finally:
            stop.set()
        assert answered == [b"0", b"1", b"2", b"3", b"4"]
        assert all(isinstance(each.exception(), grpc.RpcError) for each in held)
        eventually(lambda: server.server.unfinished() == 0)
        assert [server.call() for _ in range(3 * THREADS)] == [b"x"] * 3 * THREADS
