"""Connections of the nghttp2 transport: they end in two steps, in time, and when a bound is met; no call is lost."""

import struct
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from frames import Connection, Kind, asking, frame, framed
from quorem.serve.call import Call, Method
from served import eventually, without
from transports import Server, listening, make

if why := without("nghttp2"):
    pytest.skip(why, allow_module_level=True)

from quorem.serve.nghttp2 import server as servers  # where the library is
from quorem.serve.nghttp2.bounds import Bounds

ECHO = "/test.Echo/Echo"
LAST = 2**31 - 1  # the stream that the first of two GOAWAYs names: none is refused yet
NO_ERROR, CALM = 0, 11


def serving(method: Method = lambda request, _call: request, **bounds: Any) -> AbstractContextManager[Server]:
    return listening(make("nghttp2", {"test.Echo": {"Echo": method, "Score": method}}, bounds=Bounds(**bounds)))


def ends(connection: Connection) -> bool:
    """Whether the other side ends the connection."""
    connection.hear(lambda: connection.closed)
    return connection.closed


def test_calls_that_began_before_a_drain_or_between_its_goaways_are_answered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(servers, "NOTICE_S", 3.0)
    release, held = threading.Event(), threading.Event()

    def method(request: bytes, _call: Call) -> bytes:
        held.set()
        release.wait(20)
        return request

    with serving(method) as server, Connection(server.address) as connection:
        first = connection.begin(asking("/test.Echo/Score"))
        connection.data(first, framed(b"first"))
        assert held.wait(20)
        drain = threading.Thread(target=server.drain, args=(20,))
        drain.start()
        connection.hear(lambda: connection.goaways)
        assert connection.goaways == [(LAST, NO_ERROR)]
        second = connection.begin(asking("/test.Echo/Score"))
        connection.data(second, framed(b"second"))
        connection.hear(lambda: len(connection.goaways) == 2)
        assert connection.goaways[1] == (second, NO_ERROR)
        assert drain.is_alive()
        release.set()
        assert [connection.reply(each).message for each in (first, second)] == [b"first", b"second"]
        assert ends(connection)
        drain.join(20)
        with Connection(server.address) as late:
            reply = late.call(framed(b"late"), asking(ECHO))
            assert reply.status == 14 or late.closed


def test_a_connection_ends_when_it_is_old_and_its_calls_do_not():
    with serving(age_s=0.3) as server, Connection(server.address) as connection:
        open_ = connection.begin(asking(ECHO))
        connection.hear(lambda: len(connection.goaways) == 2)
        assert [code for _, code in connection.goaways] == [NO_ERROR, NO_ERROR]
        connection.data(open_, framed(b"x"))
        assert connection.reply(open_).message == b"x"
        assert ends(connection)
        assert server.counts["age"] == 1


def test_a_silent_caller_is_asked_whether_it_lives():
    with serving(keepalive_s=0.2, keepalive_timeout_s=0.6) as server:
        with Connection(server.address) as here, Connection(server.address, polite=False) as gone:
            pings = lambda: sum(each.kind == Kind.PING for each in here.frames)  # noqa: E731  # asked again and again
            here.hear(lambda: pings() >= 3)
            assert pings() >= 3
            assert here.call(framed(b"x"), asking(ECHO)).message == b"x"
            assert ends(gone)
        assert server.counts["keepalive"] == 1


BOUNDS: dict[str, tuple[dict[str, Any], Callable[[Connection], object]]] = {
    "handshake": ({"handshake_s": 0.3}, lambda _connection: None),
    "idle": ({"idle_s": 0.3}, lambda connection: connection.call(framed(b"x"), asking(ECHO))),
    "slow_request": ({"request_s": 0.3}, lambda connection: connection.begin(asking(ECHO))),
    "flood": ({}, lambda connection: connection.send(frame(Kind.SETTINGS) * 500)),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_that_is_met_is_counted(name: str):
    bounds, meet = BOUNDS[name]
    with serving(**bounds) as server:
        connection = Connection(server.address)
        if name == "handshake":
            connection.socket.close()
            connection = Connection(server.address, preface=b"")
        with connection:
            meet(connection)
            eventually(lambda: server.counts[name] == 1)
            if name == "slow_request":
                assert connection.reply(1).status == 4
            else:
                assert ends(connection)
            if name == "flood":
                assert connection.goaways[-1][1] == CALM


def test_a_caller_that_takes_nothing_is_cut_off_and_its_replies_are_forgotten():
    with serving(lambda _request, _call: bytes(1 << 20), stuck_s=0.5) as server:
        with Connection(server.address, polite=False) as slow:
            slow.send(frame(Kind.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20)))
            for _ in range(20):
                slow.data(slow.begin(asking(ECHO)), framed(b"x"))
            eventually(lambda: server.counts["slow_reader"] == 1)
        with Connection(server.address) as other:
            assert len(other.call(framed(b"x"), asking(ECHO)).message) == 1 << 20


def test_one_connection_more_than_there_may_be_is_refused_until_another_ends():
    with serving(connections=2) as server:
        first, second = Connection(server.address), Connection(server.address)
        for each in (first, second):
            assert each.call(framed(b"x"), asking(ECHO)).message == b"x"
        with Connection(server.address) as third:
            assert ends(third)
        first.socket.close()
        eventually(lambda: len(server._connections) == 1)
        with Connection(server.address) as fourth, second:
            assert fourth.call(framed(b"x"), asking(ECHO)).message == b"x"


def test_long_messages_wait_for_room_and_all_are_answered():
    with serving(connection_bytes=3 << 20) as server, Connection(server.address) as connection:
        message = bytes(2 << 20)
        streams = [connection.begin(asking(ECHO)) for _ in range(4)]
        for each in streams:
            connection.data(each, framed(message))
        assert [connection.reply(each).message == message for each in streams] == [True] * 4
