"""Reflection: grpc.reflection, a stream of questions about the server's services and their messages."""

from collections.abc import Iterator
from typing import Any

from ..call import Call
from ..messages import parse

SERVICE, METHOD = "grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo"


def describe(requests: Iterator[bytes], _call: Call) -> Iterator[bytes]:
    """Answer serialized ServerReflectionRequests; grpcio, which knows how, is imported by the first."""
    from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest as Request

    from ..reflection import servicer

    describing: Any = servicer()  # its stubs and those of its messages do not know each other
    asked = (parse(Request, "grpc.reflection.v1alpha.ServerReflectionRequest", each) for each in requests)
    for reply in describing.ServerReflectionInfo(asked, None):
        yield reply.SerializeToString()
