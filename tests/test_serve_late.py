"""What comes in large parts while much is read waits for its turn, whole and in order; silent callers cost nothing."""

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from authority import Authority
from frames import PREFACE, Connection, Kind, asking, block, frame, framed
from quorem.serve.certificates import Certificates
from quorem.serve.grpc_transport import GrpcServer
from quorem.serve.port import reserve
from served import eventually, without
from transports import Server, make

if why := without("nghttp2"):
    pytest.skip(why, allow_module_level=True)

from quorem.serve.nghttp2 import connection as connections  # where the library is
from quorem.serve.nghttp2.connection import MUCH
from quorem.serve.nghttp2.server import Http2Server

ECHO = "/test.Echo/Echo"
PARTS = 5


@pytest.fixture(params=["plain", "tls"])
def served(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Server, ssl.SSLContext | None]]:
    """A server that has always read enough in this turn, and what its callers need."""
    monkeypatch.setattr(connections, "READ_S", -1.0)
    port, certificates, context = reserve("127.0.0.1", 0), None, None
    if request.param == "tls":
        ours = Authority(tmp_path / "ours")
        certificates = Certificates(tmp_path / "server.pem", tmp_path / "server.key")
        ours.issue("first").put(certificates.cert, certificates.key)
        context = ssl.create_default_context(cafile=ours.own.cert)
        context.set_alpn_protocols(["h2"])
    echo = {"test.Echo": {"Echo": lambda message, _call: message}}
    server = make("nghttp2", echo, certificates=certificates)
    server.start("127.0.0.1", port.number)
    server.address = port.address
    with port.holder:
        try:
            yield server, context
        finally:
            server.close()


def test_large_and_small_calls_of_many_callers_are_answered_with_their_own(
    served: tuple[Server, ssl.SSLContext | None],
):
    server, context = served
    wrong = list[str]()

    def ask(number: int) -> None:
        with Connection(server.address, context) as connection:
            for place, size in enumerate((10, MUCH, 3, 200_000, 50_000)):
                message = bytes([number, place]) * size
                if connection.call(framed(message), asking(ECHO)).message != message:
                    wrong.append(f"caller {number}, call {place}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert not wrong


def test_the_parts_of_a_request_keep_their_order(served: tuple[Server, ssl.SSLContext | None]):
    server, context = served
    with Connection(server.address, context) as connection:
        message = b"".join(bytes([part]) * 3 * MUCH for part in range(PARTS))
        stream, body = connection.begin(asking(ECHO)), framed(message)
        cuts = range(0, len(body), 3 * MUCH)
        for place in cuts:  # some large, some small, each by itself
            part = body[place : place + 3 * MUCH]
            connection.data(stream, part[:100], end=False)
            connection.data(stream, part[100:], end=place == cuts[-1])
            time.sleep(0.002)
        assert connection.reply(stream).message == message


class Sent(asyncio.Transport):
    """What a connection writes, without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.data, self.reading = b"", True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@pytest.fixture
def unwired() -> Iterator[tuple[Http2Server, connections.Connection, Sent]]:
    """A server without a port, and a connection that has just been made."""
    server = make("nghttp2", {"test.Echo": {"Describe": lambda message, _call: message}})
    assert not isinstance(server, GrpcServer)
    connection, sent = connections.Connection(server), Sent()
    connection.connection_made(sent)
    yield server, connection, sent
    server.close()


HEAD = PREFACE + frame(Kind.SETTINGS) + frame(Kind.HEADERS, 4, 1, block(asking("/test.Echo/Describe")))


def test_what_comes_behind_a_part_that_waits_waits_too(
    unwired: tuple[Http2Server, connections.Connection, Sent], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "READ_S", -1.0)
    server, connection, sent = unwired
    message = bytes(range(256)) * 32
    first, last = framed(message)[:MUCH], framed(message)[MUCH:]
    connection.data_received(HEAD + frame(Kind.DATA, 0, 1, first))
    assert not sent.reading
    for place in range(0, len(last), 100):
        connection.data_received(frame(Kind.DATA, place + 100 >= len(last), 1, last[place : place + 100]))
    connection.resume_writing()
    assert not sent.reading
    assert not connection.exchanges
    for _ in range(3):
        server._turn()
    assert sent.reading
    assert message in sent.data


def test_first_words_that_cross_a_drain_are_served(unwired: tuple[Http2Server, connections.Connection, Sent]):
    server, connection, sent = unwired
    connection.announce()
    connection.data_received(HEAD + frame(Kind.DATA, 1, 1, framed(b"was on its way")))
    for _ in range(3):
        server._turn()
    assert b"was on its way" in sent.data


def test_who_has_gone_before_his_words_were_looked_at_is_forgotten(served: tuple[Server, ssl.SSLContext | None]):
    server, context = served
    for _ in range(20):
        with Connection(server.address, context) as connection:
            connection.send(frame(Kind.HEADERS, 4, 1, b"\x83") * 1000)
    with Connection(server.address, context) as other:
        assert other.call(framed(b"x"), asking(ECHO)).message == b"x"  # all before him have been accepted
        eventually(lambda: (len(server._connections), server._held) == (1, 0))


def test_a_drain_ends_with_who_never_said_a_word(served: tuple[Server, ssl.SSLContext | None]):
    server, context = served
    with Connection(server.address, context, preface=b"") as silent:
        eventually(lambda: len(server._connections) == 1)
        began = time.monotonic()
        server.drain(20)
        assert time.monotonic() - began < 5
        silent.hear(lambda: silent.closed)
        assert silent.closed
