"""Transports: a server of either kind in this process, with methods of a test's own."""

from collections.abc import Iterable, Mapping
from typing import Any

from quorem.serve.call import Method, Stream
from quorem.serve.certificates import Certificates
from quorem.serve.grpc_transport import GrpcServer
from quorem.serve.settings import Limits
from quorem.serve.threads import Threads
from quorem.serve.tls import credentials

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
