"""Replies that callers take slowly, late or not at all, and what is counted of them: none is lost, none twice."""

import asyncio
import socket
import ssl
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from frames import PREFACE, Connection, Flag, Kind, asking, block, frame, framed
from quorem.serve.call import Call, Method
from quorem.serve.certificates import Certificates
from quorem.serve.model import Model
from quorem.serve.repository import Repository
from quorem.serve.settings import Limits, Version
from served import Rows, eventually, without
from transports import DESCRIBE, SERVICE, Server, echo, listening, make
from turns import infer, together

if why := without("nghttp2"):
    pytest.skip(why, allow_module_level=True)

from quorem.serve.nghttp2 import connection as connections  # where the library is
from quorem.serve.nghttp2 import server as servers
from quorem.serve.nghttp2.bounds import Bounds
from quorem.serve.nghttp2.server import Http2Server

LARGE = 8 << 20
INITIAL_WINDOW, WIDEST = 4, 2**31 - 1
SMALL_BUFFER = 16_384


def serving(
    methods: Mapping[str, Method], certificates: Certificates | None = None, **bounds: Any
) -> AbstractContextManager[Server]:
    return listening(make("nghttp2", {SERVICE: methods}, certificates=certificates, bounds=Bounds(**bounds)))


def test_who_reads_slowly_and_steadily_is_not_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(servers, "SWEEP_S", 0.05)

    def large(_request: bytes, _call: Call) -> bytes:
        return bytes(LARGE)

    with (
        serving({"Describe": large}, stuck_s=2.5) as server,
        Connection(server.address, settings={INITIAL_WINDOW: WIDEST}) as slow,
    ):
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        slow.send(frame(Kind.WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**30)))
        slow.send(
            frame(Kind.HEADERS, Flag.END_HEADERS, 1, block(asking(DESCRIBE)))
            + frame(Kind.DATA, Flag.END_STREAM, 1, framed(b"x"))
        )
        until = time.monotonic() + 4
        while time.monotonic() < until:
            assert slow.socket.recv(4096)
            time.sleep(0.02)
        assert server.counts["slow_reader"] == 0


class Full(asyncio.Transport):
    """A transport that has taken what was written, and given none of it away."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.kept += len(data)

    def get_write_buffer_size(self) -> int:
        return self.kept

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None: ...


def test_a_drain_waits_for_what_a_transport_has_not_given_away():
    server, transport = make("nghttp2", {SERVICE: {"Describe": echo}}), Full()
    assert isinstance(server, Http2Server)
    connection = connections.Connection(server)
    connection.connection_made(transport)
    head = PREFACE + frame(Kind.SETTINGS) + frame(Kind.HEADERS, Flag.END_HEADERS, 1, block(asking(DESCRIBE)))
    connection.data_received(head + frame(Kind.DATA, Flag.END_STREAM, 1, framed(b"x")))
    while server._scheduled:
        server._turn()
    assert transport.kept
    assert not server.live
    drain = threading.Thread(target=server.drain, args=(20,))
    drain.start()
    time.sleep(1.5)
    waited, transport.kept = drain.is_alive(), 0
    drain.join()
    server.close()
    assert waited


def test_a_silent_caller_of_tls_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(servers, "SWEEP_S", 0.05)
    ours = Authority(tmp_path / "ours")
    certificates = Certificates(tmp_path / "server.pem", tmp_path / "server.key")
    ours.issue("first").put(certificates.cert, certificates.key)
    context = ssl.create_default_context(cafile=ours.own.cert)
    context.set_alpn_protocols(["h2"])
    with (
        serving({"Describe": echo}, certificates, handshake_s=2) as server,
        Connection(server.address, context, preface=b""),
    ):
        eventually(lambda: server.counts["handshake"])
        time.sleep(0.3)
        assert server.counts["handshake"] == 1
        eventually(lambda: not server._connections)


def test_calls_are_answered_though_they_cannot_be_counted(
    served_root: Path, golden: Rows, monkeypatch: pytest.MonkeyPatch
):
    repository = Repository([Model(Version("ctr", 1, served_root / "models" / "ctr" / "1"), "cpu")], Limits())
    requests = [infer(golden.encoded.ids[row : row + 1], golden.encoded.dense[row : row + 1]) for row in range(4)]
    expected = together(repository, requests)
    assert all(isinstance(each, bytes) for each in expected)

    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("statistics")

    monkeypatch.setattr(repository.statistics, "observe", fail)
    assert together(repository, requests) == expected
