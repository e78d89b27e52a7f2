"""Questions: calls of an endpoint before anything is timed, each of whose failures is one line with its status."""

import time
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from ...protos.errors import Malformed, QuoremError, Unavailable
from ..channel import Access, Failure, error_of

QUOTED = 300  # characters of a server's text
AnyMessage = TypeVar("AnyMessage", bound=Message)


class Questions:
    """Unary calls on one channel that share their time."""

    def __init__(self, channel: grpc.Channel, access: Access, seconds: float) -> None:
        self._channel, self.access, self._metadata = channel, access, access.metadata()
        self._seconds, self._deadline = seconds, time.monotonic() + seconds

    def ask(self, path: str, request: bytes, reply: type[AnyMessage]) -> AnyMessage:
        """Raises QuoremError for what failed, its status in its text."""
        left_s = max(0.0, self._deadline - time.monotonic())
        try:
            found: bytes = self._channel.unary_unary(path)(request, timeout=left_s, metadata=self._metadata)
            return reply.FromString(found)
        except grpc.RpcError as error:
            raise _refusal(error, self.access.endpoint, self._seconds) from None
        except DecodeError:
            where = f"{self.access.endpoint}, {path}"
            raise Malformed(f"{path} is answered with a {reply.DESCRIPTOR.full_name}", where=where) from None


def _refusal(error: Failure, endpoint: str, seconds: float) -> QuoremError:
    """One line of it, with the status."""
    status, details = error.code().name, " ".join((error.details() or "no reason given").split())[:QUOTED]
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return Unavailable(
            f"an endpoint answers gRPC within {seconds:g} s",
            found=f"{status}: {details}",
            where=endpoint,
            remedy="Check that a gRPC server runs there, and whether it wants TLS",
        )
    return type(error_of(error, endpoint))(details, where=f"{endpoint}, {status}")
