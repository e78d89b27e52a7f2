"""Statuses: the one table between quorem's errors and gRPC's status codes, read in both directions."""

import enum
import logging
import traceback

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration

from ..protos.errors import (
    Forbidden,
    Gone,
    InputError,
    NotFound,
    Overloaded,
    QuoremError,
    TooLate,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    WrongSchema,
)

RETRY_AFTER = "retry-after-ms"  # trailing metadata of a busy server: when it wants to be asked again
DETAILS = "grpc-status-details-bin"  # and what programs read of an error: a google.rpc.Status
DOMAIN = b"quorem"
TYPES = "type.googleapis.com/google.rpc."
MESSAGE_BYTES = 1024  # a status travels in a header; clients refuse headers above 8 KiB

log = logging.getLogger(__name__)


class Status(enum.IntEnum):
    """gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


STATUS_OF: dict[type[QuoremError], Status] = {
    InputError: Status.INVALID_ARGUMENT,
    NotFound: Status.NOT_FOUND,
    WrongSchema: Status.FAILED_PRECONDITION,
    Unimplemented: Status.UNIMPLEMENTED,
    Unavailable: Status.UNAVAILABLE,
    Overloaded: Status.RESOURCE_EXHAUSTED,
    TooLate: Status.DEADLINE_EXCEEDED,
    Gone: Status.CANCELLED,
    Unauthenticated: Status.UNAUTHENTICATED,
    Forbidden: Status.PERMISSION_DENIED,
}

ERROR_OF: dict[Status, type[QuoremError]] = {status: error for error, status in STATUS_OF.items()}


def ending(error: Exception) -> tuple[Status, str, dict[str, str | bytes]]:
    """What a failed call ends with: its status, message and metadata.

    What nobody foresaw is logged: where it happened, never what was sent.
    """
    status = status_of(error)
    if not isinstance(error, QuoremError) or status == Status.INTERNAL:
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("a call failed with %s; at\n%s", type(error).__name__, frames)
        return status, "The server failed; its log says where.", {}
    metadata: dict[str, str | bytes] = {DETAILS: details_of(error)}
    if isinstance(error, Overloaded):
        metadata[RETRY_AFTER] = str(max(1, round(1000 * error.retry_s)))
    return status, message_of(error), metadata


def status_of(error: BaseException) -> Status:
    """The status of an error: its class's, or that of the nearest class above it; INTERNAL for all others."""
    for kind in type(error).__mro__:
        if (status := STATUS_OF.get(kind)) is not None:
            return status
    return Status.INTERNAL


def message_of(error: QuoremError) -> str:
    """The error's text, cut to what a header may hold."""
    return str(error).encode(errors="replace")[:MESSAGE_BYTES].decode(errors="ignore")


def details_of(error: QuoremError) -> bytes:
    """The error as a serialized google.rpc.Status.

    Its details are an ErrorInfo, whose reason is the error's class, and a RetryInfo of a server that is busy.
    """
    details = [Any(type_url=f"{TYPES}ErrorInfo", value=_field(1, type(error).__name__.encode()) + _field(2, DOMAIN))]
    if isinstance(error, Overloaded):
        delay = Duration()
        delay.FromNanoseconds(int(1e9 * error.retry_s))
        details.append(Any(type_url=f"{TYPES}RetryInfo", value=_field(1, delay.SerializeToString())))
    parts = [_field(2, message_of(error).encode()), *(_field(3, each.SerializeToString()) for each in details)]
    return bytes([1 << 3, status_of(error)]) + b"".join(parts)


def _field(number: int, data: bytes) -> bytes:
    """A field of protobuf's wire format: bytes, text or a message."""
    length, size = bytearray(), len(data)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + data
