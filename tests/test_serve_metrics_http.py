"""Metrics over HTTP: two paths are answered, whatever else is sent is refused, and the listener lives."""

import http.client
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from exposition import parse
from quorem.protos.errors import Unavailable
from quorem.serve import metrics_http
from quorem.serve.catalogue import Catalogue
from quorem.serve.metrics import Server, render
from quorem.serve.metrics_http import CONNECTIONS, HEAD_BYTES, MetricsServer
from quorem.serve.transport import Transport


@pytest.fixture(scope="module")
def listener() -> Iterator[MetricsServer]:
    known = Server(Catalogue(), "cpu", Transport("grpcio", "as asked for"), {}, ready=0, restarts=0)
    server = MetricsServer("127.0.0.1", 0, lambda: render({"models": {}}, known))
    server.start()
    yield server
    server.close()


def ask(server: MetricsServer, method: str, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read().decode()
    finally:
        connection.close()


def raw(server: MetricsServer, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        reply = b""
        try:
            while got := connection.recv(65536):
                reply += got
        except ConnectionResetError:
            pass
        return reply


def test_get_metrics_and_healthz_are_answered(listener: MetricsServer):
    status, headers, text = ask(listener, "GET", "/metrics?format=any")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert headers["Server"].strip() == "quorem"
    parse(text)
    assert ask(listener, "GET", "/healthz")[::2] == (200, "ok\n")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics/../etc/passwd", "/../../etc/passwd", "/Metrics", "//x"])
def test_there_is_nothing_else(listener: MetricsServer, path: str):
    status, _, text = ask(listener, "GET", path)
    assert status == 404
    assert path not in text.replace("/metrics and /healthz", "")
    assert "passwd" not in text


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "<script>"])
def test_only_get_is_answered(listener: MetricsServer, method: str):
    reply = raw(listener, f"{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert reply.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: GET\r\n" in reply
    assert b"script" not in reply


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /metrics\x00 WHAT/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/9.1\r\n\r\n", 505),
        (b"\xff\xfe\x00\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 150 + b"\r\n", 431),
        (b"GET /" + b"a" * (HEAD_BYTES + 1), 431),
    ],
)
def test_what_is_no_request_is_refused_and_the_listener_lives(
    listener: MetricsServer, request_bytes: bytes, status: int
):
    reply = raw(listener, request_bytes)
    assert reply.split(b" ")[1] == str(status).encode(), reply
    assert b"Traceback" not in reply
    assert ask(listener, "GET", "/healthz")[0] == 200


def test_a_caller_that_sends_slowly_is_cut_off(listener: MetricsServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics_http, "HEAD_S", 0.3)
    with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as connection:
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            drip(connection, 5)
        assert time.monotonic() - began < 3


def drip(connection: socket.socket, seconds: float) -> None:
    """Send a request that never ends, byte by byte."""
    for _ in range(int(seconds / 0.05)):
        connection.sendall(b"G")
        time.sleep(0.05)


def test_only_so_many_are_answered_at_once(listener: MetricsServer):
    held = [socket.create_connection(("127.0.0.1", listener.port), timeout=10) for _ in range(CONNECTIONS)]
    try:
        time.sleep(0.2)
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            ask(listener, "GET", "/healthz")
    finally:
        for each in held:
            each.close()
    deadline = time.monotonic() + 5
    while True:
        try:
            assert ask(listener, "GET", "/healthz")[0] == 200
            break
        except (http.client.HTTPException, ConnectionError):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_metrics_are_collected_by_one_at_a_time():
    inside, most = [0], [0]

    def collect() -> str:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        inside[0] -= 1
        return ""

    server = MetricsServer("127.0.0.1", 0, collect)
    server.start()
    try:
        with ThreadPoolExecutor(8) as threads:
            assert {each[0] for each in threads.map(lambda _: ask(server, "GET", "/metrics"), range(8))} == {200}
        assert most == [1]
    finally:
        server.close()


def test_what_cannot_be_collected_is_told_without_its_inside(caplog: pytest.LogCaptureFixture):
    def collect() -> str:
        raise next(errors)

    errors = iter([Unavailable("workers answer", found="silence"), ValueError("a secret")])
    server = MetricsServer("127.0.0.1", 0, collect)
    server.start()
    try:
        assert ask(server, "GET", "/metrics")[::2] == (503, "workers answer. Found: silence.\n")
        status, _, text = ask(server, "GET", "/metrics")
        assert status == 500
        assert "secret" not in text
        assert "a secret" in caplog.text
    finally:
        server.close()


def test_a_port_that_is_taken_is_refused_with_its_remedy(listener: MetricsServer):
    with pytest.raises(Unavailable, match="--metrics-port") as refused:
        MetricsServer("127.0.0.1", listener.port, str)
    assert str(listener.port) in refused.value.where
    with pytest.raises(Unavailable):
        MetricsServer("no.such.host.invalid", 0, str)
