"""Transports: a server of either kind in this process, with methods of a test's own."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from quorem.serve.call import Call, Method, Stream
from quorem.serve.certificates import Certificates
from quorem.serve.grpc_transport import GrpcServer, Refusal
from quorem.serve.port import reserve
from quorem.serve.settings import Limits
from quorem.serve.statuses import Status
from quorem.serve.threads import Threads
from quorem.serve.tls import credentials

SERVICE = "quorem.v1.Scorer"
SCORE, DESCRIBE, FLOW = (f"/{SERVICE}/{name}" for name in ("Score", "Describe", "ScoreStream"))

Server = Any  # a GrpcServer, or an Http2Server where there is one


def make(
    transport: str,
    methods: Mapping[str, Mapping[str, Method]],
    streams: Mapping[str, Mapping[str, Stream]] | None = None,
    limits: Limits | None = None,
    healthy: Iterable[str] = (),
    certificates: Certificates | None = None,
    **options: Any,
) -> Server:
    """A server that does not listen yet; it answers methods by threads, whichever transport it is."""
    most = limits or Limits()
    if transport == "grpcio":
        secured = credentials(certificates) if certificates else None
        return GrpcServer(methods, streams or {}, most, healthy, secured, **options)
    from quorem.serve.nghttp2.server import Http2Server

    return Http2Server(methods, streams or {}, most, healthy, certificates, **options)


def threads(server: Server) -> Threads:
    """Those that answer calls for scores."""
    return server._threads if isinstance(server, GrpcServer) else server._routes.threads


@dataclass
class Up:
    """A server and a connection to it; `told` are the calls that ended."""

    server: Server
    channel: grpc.Channel
    address: str
    told: list[tuple[str, Call, Status, float]] = field(default_factory=list)

    def call(self, request: bytes = b"x", path: str = SCORE, **options: object) -> bytes:
        return self.channel.unary_unary(path)(request, **{"timeout": 20, **options})

    def refused(self, request: bytes = b"x", path: str = SCORE, **options: object) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as refused:
            self.call(request, path, **options)
        return refused.value

    def flow(self, requests: Iterator[bytes], **options: object) -> grpc.Call:
        return self.channel.stream_stream(FLOW)(requests, **{"timeout": 20, **options})

    def health(self, name: str = "") -> int:
        check = health_pb2_grpc.HealthStub(self.channel).Check
        return check(health_pb2.HealthCheckRequest(service=name), timeout=5).status

    def statuses(self) -> Counter[str]:
        return Counter(status.name for _, _, status, _ in self.told)


Begin = Callable[..., AbstractContextManager[Up]]


@contextmanager
def serve(
    transport: str,
    methods: Mapping[str, Method],
    stream: Stream | None = None,
    limits: Limits | None = None,
    refusal: Refusal | None = None,
) -> Iterator[Up]:
    port, told = reserve("127.0.0.1", 0), list[tuple[str, Call, Status, float]]()
    server = make(
        transport,
        {SERVICE: methods},
        {SERVICE: {"ScoreStream": stream}} if stream else {},
        limits,
        ["ctr"],
        refusal=refusal,
        observe=lambda *ended: told.append(ended),
    )
    server.start("127.0.0.1", port.number)
    try:
        with port.holder, grpc.insecure_channel(port.address) as channel:
            yield Up(server, channel, port.address, told)
    finally:
        server.close()


def echo(request: bytes, _call: Call) -> bytes:
    return request


@contextmanager
def listening(server: Server) -> Iterator[Server]:
    """That server at an `address` of its own, closed in the end."""
    port = reserve("127.0.0.1", 0)
    server.start("127.0.0.1", port.number)
    server.address = port.address
    with port.holder:
        try:
            yield server
        finally:
            server.close()
