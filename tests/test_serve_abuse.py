"""What one caller asks for too much, or breaks: others are served, and a server keeps nothing of it."""

import gzip
import logging
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest
from frames import Connection, Flag, Kind, Reply, asking, block, frame, framed
from quorem.serve.call import Call, Method, Stream
from quorem.serve.settings import Limits
from quorem.serve.statuses import Status
from served import eventually, without
from transports import DESCRIBE, FLOW, SCORE, SERVICE, Server, echo, listening, make

if why := without("nghttp2"):
    pytest.skip(why, allow_module_level=True)

from quorem.serve.nghttp2 import library, route  # where the library is
from quorem.serve.nghttp2 import server as servers
from quorem.serve.nghttp2.bounds import Bounds
from quorem.serve.nghttp2.connection import Connection as Served

MEBIBYTE = 1 << 20
GZIP = ("grpc-encoding", "gzip")
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def repeat(requests: Iterator[bytes], _call: Call) -> Iterator[bytes]:
    yield from requests


def lengths(requests: Iterator[bytes], _call: Call) -> Iterator[bytes]:
    for request in requests:
        yield b"%d" % len(request)


def serving(
    methods: Mapping[str, Method] | None = None, stream: Stream = repeat, limits: Limits | None = None, **bounds: Any
) -> AbstractContextManager[Server]:
    found = {SERVICE: methods or {"Score": echo, "Describe": echo}}
    return listening(make("nghttp2", found, {SERVICE: {"ScoreStream": stream}}, limits, bounds=Bounds(**bounds)))


def healthy(server: Server) -> bool:
    with Connection(server.address) as connection:
        return connection.call(framed(b"")).status == Status.OK


def sent_apart(stream: int, data: bytes) -> bytes:
    """Frames of data, without a look at windows."""
    return b"".join(frame(Kind.DATA, 0, stream, data[at : at + 16384]) for at in range(0, len(data), 16384))


def test_a_message_that_was_refused_is_not_opened_again():
    opened = framed(gzip.compress(bytes(17 * MEBIBYTE), 9), compressed=1)
    with serving() as server, Connection(server.address) as connection:
        stream = connection.begin(asking(FLOW, GZIP))
        assert healthy(server)  # it is open
        connection.send(sent_apart(stream, opened) + frame(Kind.DATA, 0, stream, b"x") * 1000)
        began = time.monotonic()
        assert healthy(server)
        assert connection.reply(stream).status == Status.RESOURCE_EXHAUSTED
        assert time.monotonic() - began < 10, "a thousand times would take a minute"


def test_messages_that_wait_in_a_stream_are_as_small_as_they_came():
    taken, gate = list[int](), threading.Event()

    def slow(requests: Iterator[bytes], _call: Call) -> Iterator[bytes]:
        for request in requests:
            taken.append(len(request))
            gate.wait(20)
            yield b""

    message = framed(gzip.compress(bytes(MEBIBYTE), 9), compressed=1)
    with serving(stream=slow) as server, Connection(server.address) as connection:
        stream = connection.begin(asking(FLOW, GZIP))
        connection.data(stream, message * 10, end=False)
        eventually(lambda: taken)
        (served,) = server._connections
        flow = served.exchanges[stream].flow
        eventually(lambda: flow._ahead == 10)
        assert len(flow._queue.get()[1]) < len(message)
        gate.set()
        connection.hear(lambda: len(taken) == 9)
        assert taken == [MEBIBYTE] * 9


def test_streams_that_end_within_a_message_are_told_so():
    with serving() as server, Connection(server.address) as connection:
        at_once = connection.begin(asking(FLOW))
        connection.data(at_once, framed(b"abc") + framed(b"abc", length=50))
        assert connection.reply(at_once).status == Status.INTERNAL
        later = connection.begin(asking(FLOW))
        assert healthy(server)
        connection.data(later, framed(b"abc") + b"\0\0")
        found = connection.reply(later)
        assert (found.status, found.data) == (Status.INTERNAL, framed(b"abc"))


def test_a_stream_whose_next_message_stays_half_is_ended():
    with serving(request_s=1) as server, Connection(server.address) as connection:
        idle, half = connection.begin(asking(FLOW)), connection.begin(asking(FLOW))
        connection.data(idle, framed(b"whole"), end=False)
        connection.data(half, framed(b"half")[:-1], end=False)
        assert connection.reply(half).status == Status.DEADLINE_EXCEEDED
        connection.data(idle, framed(b"one more"))
        assert connection.reply(idle).status == Status.OK


def test_open_reflection_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(route, "MOST_REFLECTIONS", 2)
    with serving() as server, Connection(server.address) as connection:
        first, _ = (connection.begin(asking(REFLECTION)) for _ in range(2))
        eventually(lambda: sum(len(each.exchanges) for each in server._connections) == 2)
        refused = connection.begin(asking(REFLECTION))
        assert connection.reply(refused).status == Status.RESOURCE_EXHAUSTED
        connection.data(first, b"")
        assert connection.reply(first).status == Status.OK
        eventually(lambda: connection.call(b"", asking(REFLECTION)).status == Status.OK)


def test_a_stream_whose_thread_does_not_start_is_refused_and_leaves_its_room(monkeypatch: pytest.MonkeyPatch):
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name.startswith("stream"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with serving(limits=Limits(max_streams=2)) as server, Connection(server.address) as connection:
        monkeypatch.setattr(threading.Thread, "start", fail)
        for _ in range(3):
            stream = connection.begin(asking(FLOW))
            connection.data(stream, framed(b"x"), end=False)
            assert connection.reply(stream).status == Status.RESOURCE_EXHAUSTED
        monkeypatch.undo()
        assert connection.call(framed(b"x"), asking(FLOW)).message == b"x"


@pytest.mark.parametrize(("most", "beside"), [(16, 100_000), (32, 60_000)])
def test_a_stream_that_was_granted_a_long_message_is_granted_a_longer_one(most: int, beside: int):
    with (
        serving(stream=lengths, limits=Limits(max_request_bytes=most * MEBIBYTE)) as server,
        Connection(server.address) as connection,
    ):
        stream = connection.begin(asking(FLOW))
        connection.data(stream, framed(bytes(70_000)), end=False)
        connection.hear(lambda: connection.replies.get(stream, Reply()).data)
        connection.data(stream, framed(bytes(most * MEBIBYTE)), end=False)
        connection.data(stream, framed(bytes(70_000)), end=False)
        long = connection.begin(asking(SCORE))
        connection.data(long, framed(bytes(beside)))
        assert connection.reply(long).status == Status.OK
        connection.data(stream, b"")
        assert connection.reply(stream).data == b"".join(framed(b"%d" % each) for each in (70_000, most << 20, 70_000))
        (served,) = server._connections
        assert (server._granted, served._asking, served._grants) == (0, {}, {})


def test_a_flood_of_one_connection_holds_neither_questions_nor_deadlines_up():
    release, over = threading.Event(), threading.Event()

    def slow(request: bytes, _call: Call) -> bytes:
        release.wait(20)
        return request

    def flood(address: str) -> None:
        head = block(asking("/x/y"))
        while not over.is_set():
            with Connection(address) as connection:
                for first in range(1, 4000, 400):
                    several = range(first, first + 400, 2)
                    connection.send(b"".join(frame(Kind.HEADERS, 5, stream, head) for stream in several))

    with serving({"Score": slow, "Describe": echo}) as server:
        flooding = threading.Thread(target=flood, args=(server.address,))
        flooding.start()
        try:
            with Connection(server.address) as connection:
                waits = connection.begin(asking(SCORE, ("grpc-timeout", "1S")))
                connection.data(waits, framed(b"x"))
                assert connection.call(framed(b"q"), asking(DESCRIBE)).message == b"q"
                assert connection.reply(waits).status == Status.DEADLINE_EXCEEDED
        finally:
            release.set()
            over.set()
            flooding.join()


@pytest.mark.parametrize("where", ["flush", "sweep"])
def test_what_fails_in_a_turn_ends_its_connection_alone(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    does, victims = getattr(Served, where), list[Served]()

    def fail(connection: Served, *arguments: object) -> None:
        if connection in victims:
            raise MemoryError
        does(connection, *arguments)

    with serving() as server, Connection(server.address) as connection:
        assert connection.call(framed(b"x"), asking(SCORE)).message == b"x"
        monkeypatch.setattr(Served, where, fail)
        victims.extend(server._connections)
        connection.data(connection.begin(asking(DESCRIBE)), framed(b"x"))
        with caplog.at_level(logging.CRITICAL, "quorem"):
            connection.hear(lambda: connection.closed)
        assert connection.closed
        assert healthy(server)


def test_the_greatest_message_that_a_prefix_can_announce_is_no_error():
    with (
        serving(limits=Limits(max_request_bytes=2**31 - 1)) as server,
        Connection(server.address) as one,
        Connection(server.address) as other,
    ):
        for connection in (one, other):
            stream = connection.begin(asking(FLOW))
            connection.data(stream, struct.pack(">BI", 0, 2**31 - 1), end=False)
        eventually(lambda: len(server._connections) == 2)
        time.sleep(2 * servers.SWEEP_S)
        assert healthy(server)
        assert len(server._connections) >= 2


@pytest.fixture(params=["_compiled", "_interpreted"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of that kind."""
    try:
        session = getattr(library, request.param)()
    except Exception as error:
        pytest.skip(str(error))
    monkeypatch.setattr(library, "load", lambda: library.Library(request.param, session))


@pytest.mark.usefixtures("kind")
def test_what_a_stream_has_sent_is_not_kept_while_there_is_more():
    size = 65_536

    def large(requests: Iterator[bytes], _call: Call) -> Iterator[bytes]:
        for _ in requests:
            yield bytes(size)

    with serving(stream=large) as server, Connection(server.address) as connection:
        stream = connection.begin(asking(FLOW))
        connection.data(stream, framed(b"x") * 6, end=False)
        eventually(lambda: server._connections)
        (served,) = server._connections
        for number in range(100):
            connection.hear(lambda most=number: len(connection.replies.get(stream, Reply()).data) > most * size)
            connection.data(stream, framed(b"x"), end=False)
        assert served.holds < 30 * size


@pytest.mark.usefixtures("kind")
def test_streams_whose_heads_are_refused_are_forgotten():
    head = block([(":method", "POST"), ("UPPER", "x")])
    with serving() as server, Connection(server.address) as connection:
        connection.send(b"".join(frame(Kind.HEADERS, 5, connection.stream(), head) for _ in range(50)))
        assert healthy(server)
        for each in server._connections:
            assert not getattr(each._session, "_fresh", ())


def test_bytes_of_requests_that_were_refused_are_not_counted_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(servers, "SWEEP_S", 0.05)
    part = framed(bytes(50_000), length=60_000)[:50_000]
    with serving(all_bytes=120_000, request_s=2) as server, Connection(server.address) as connection:
        streams = [connection.begin(asking(SCORE)) for _ in range(3)]
        for each in streams:
            connection.send(sent_apart(each, part))
        found = {connection.reply(each).status for each in streams}
        assert found <= {Status.RESOURCE_EXHAUSTED, Status.DEADLINE_EXCEEDED}
        assert Status.RESOURCE_EXHAUSTED in found
        eventually(lambda: server._held == 0)


def test_a_drain_waits_for_what_the_system_has_not_taken():
    size = 24 * MEBIBYTE
    with (
        serving({"Describe": lambda _request, _call: bytes(size)}) as server,
        Connection(server.address, settings={4: 2**31 - 1}) as connection,
    ):
        connection.send(frame(Kind.WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**30)))
        stream = connection.begin(asking(DESCRIBE))
        connection.data(stream, framed(b"x"))
        eventually(lambda: any(each._buffered for each in server._connections))
        drain = threading.Thread(target=server.drain, args=(20,))
        drain.start()
        time.sleep(1)
        assert drain.is_alive()
        assert len(connection.reply(stream).message) == size
        drain.join()


def test_a_drain_with_time_waits_for_a_call_of_a_connection_that_is_to_end():
    began, release = threading.Event(), threading.Event()

    def slow(request: bytes, _call: Call) -> bytes:
        began.set()
        release.wait(20)
        return request

    with serving({"Score": slow}, leave_s=1) as server, Connection(server.address) as connection:
        stream = connection.begin(asking(SCORE))
        connection.data(stream, framed(b"x"))
        assert began.wait(20)
        drain = threading.Thread(target=server.drain, args=(20,))
        drain.start()
        time.sleep(2.5)
        release.set()
        assert connection.reply(stream).message == b"x"
        drain.join()


def test_who_is_evicted_and_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(servers, "EVICT_S", 0.1)
    replies = {"Describe": lambda _request, _call: bytes(6 * MEBIBYTE)}
    with (
        serving(replies, connections=1) as server,
        Connection(server.address, settings={4: 2**31 - 1}, polite=False) as deaf,
    ):
        deaf.send(frame(Kind.WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**30)))
        stream = deaf.begin(asking(DESCRIBE))
        deaf.send(frame(Kind.DATA, Flag.END_STREAM, stream, framed(b"x")))
        eventually(lambda: server._connections)
        (served,) = server._connections
        eventually(lambda: served._buffered and not served.exchanges)
        time.sleep(0.5)
        assert healthy(server)
        assert server.counts["evicted"] == 1
        eventually(lambda: not served._open)


def test_who_does_not_close_an_idle_connection_is_cut_off_in_a_while(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(servers, "SWEEP_S", 0.05)
    with serving(idle_s=0.2, leave_s=1) as server, Connection(server.address) as connection:
        assert connection.call(framed(b"x"), asking(SCORE)).message == b"x"
        connection.hear(lambda: connection.closed)
        assert connection.closed
        eventually(lambda: not server._connections)
        assert server.counts == {"accepted": 1, "idle": 1}
