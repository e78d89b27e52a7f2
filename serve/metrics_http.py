"""Metrics over HTTP: a listener in the supervisor that answers GET /metrics and GET /healthz, and nothing else.

It reads no file, echoes nothing of a request, and answers one request a connection.
"""

import logging
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from socketserver import ThreadingTCPServer
from threading import BoundedSemaphore, Lock, Thread
from typing import Any

from ..protos.errors import QuoremError, Unavailable

HEAD_BYTES = 8192  # of a request, its headers included
HEAD_S = 5.0  # for all of them to arrive, and for a reply to be taken
CONNECTIONS = 16  # at once; further ones are closed unanswered
TEXT = "text/plain; charset=utf-8"
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"

log = logging.getLogger(__name__)


class MetricsServer:
    """The listener; bound when made, answering from `start` to `close`."""

    def __init__(self, host: str, port: int, collect: Callable[[], str]) -> None:
        """Bind the address.

        Args:
            host: the address to bind.
            port: 0 takes a free one; see `port`.
            collect: makes the text of /metrics; called by threads of the listener, by one at a time.

        Raises:
            Unavailable: no such host, or the port is taken or not allowed.
        """
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._server = _Server(family, address, collect)
        except (OSError, UnicodeError) as error:
            raise Unavailable(
                "metrics are told on an address of this machine that nobody else serves",
                found=str(error),
                where=f"{host}:{port}",
                remedy="Choose another --metrics-port (0 takes a free one) or --host",
            ) from None
        self.port: int = self._server.server_address[1]
        self._thread = Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close(self) -> None:
        """Answer no longer; the port is free again."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = CONNECTIONS

    def __init__(self, family: int, address: Any, collect: Callable[[], str]) -> None:
        self.address_family = family
        self._collect, self._collecting = collect, Lock()
        self._free = BoundedSemaphore(CONNECTIONS)
        super().__init__(address, _Handler)

    def metrics(self) -> str:
        with self._collecting:
            return self._collect()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a caller that has gone is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]  # the only one that makes handlers
    protocol_version = default_request_version = "HTTP/1.1"  # what names none is refused as what names one
    server_version, sys_version = "quorem", ""
    request_version = requestline = command = ""

    def handle(self) -> None:
        """Answer one request."""
        head = self._head()
        if head is None:
            return self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        self.rfile = BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        if not head or not self.parse_request():  # gone, or told already
            return None
        if self.command != "GET":
            return self._reply(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET.\n", Allow="GET")
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            return self.send_error(HTTPStatus.BAD_REQUEST)
        match self.path.partition("?")[0]:
            case "/metrics":
                return self._metrics()
            case "/healthz":
                return self._reply(HTTPStatus.OK, "ok\n")
            case _:
                return self._reply(HTTPStatus.NOT_FOUND, "There are /metrics and /healthz.\n")

    def _head(self) -> bytes | None:
        """The request up to its empty line; empty if it did not come in time, None if it is too long."""
        head, deadline = b"", time.monotonic() + HEAD_S
        while b"\r\n\r\n" not in head:
            left = deadline - time.monotonic()
            if len(head) > HEAD_BYTES:
                return None
            if left <= 0:
                return b""
            self.connection.settimeout(left)
            try:
                got = self.connection.recv(HEAD_BYTES)
            except TimeoutError:
                return b""
            if not got:
                return b""
            head += got
        self.connection.settimeout(HEAD_S)
        return head

    def _metrics(self) -> None:
        try:
            text = self.server.metrics()
        except QuoremError as error:
            return self._reply(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n")
        except TimeoutError:  # starting, or stopping
            return self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
        except Exception:
            log.exception("metrics failed")
            return self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
        return self._reply(HTTPStatus.OK, text, EXPOSITION)

    def _reply(self, status: HTTPStatus, text: str, kind: str = TEXT, **headers: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}.items():
            self.send_header(name, value)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse in a few words of ours, where the standard library would quote the request."""
        status = HTTPStatus(code)
        self._reply(status, f"{status.phrase}.\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the standard library's name
        """Write no line a request: what is asked here is asked every few seconds."""
