"""Reply: the headers and trailers that end a call, as blocks of NAME 0 VALUE 0 and so on."""

import logging
import traceback
from base64 import b64encode
from urllib.parse import quote

from ...protos.errors import Overloaded, QuoremError
from ..statuses import DETAILS, RETRY_AFTER, Status, details_of, message_of, status_of

PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # what grpc-message has as it is
HEADERS = b":status\x00200\x00content-type\x00application/grpc\x00"
OK = b"grpc-status\x000\x00"

log = logging.getLogger(__name__)


class Refused(Exception):
    """What the transport itself has against a call."""

    def __init__(self, status: Status, message: str, *, http: int = 200) -> None:
        super().__init__(message)
        self.status, self.http = status, http


def status(error: Exception) -> Status:
    """What a call that failed so ends with."""
    return error.status if isinstance(error, Refused) else status_of(error)


def headers(error: Exception) -> bytes:
    """The only headers of a call that failed before its first message."""
    http = error.http if isinstance(error, Refused) else 200
    return HEADERS.replace(b"200", b"%d" % http, 1) + trailers(error)


def trailers(error: Exception) -> bytes:
    """The trailers of a call that failed. What nobody foresaw is logged: where it happened, never what was sent."""
    found = status(error)
    fields = {"grpc-status": str(int(found))}
    if isinstance(error, Refused):
        message = f"{error}."
        fields["grpc-accept-encoding"] = "identity,gzip"
    elif isinstance(error, QuoremError) and found != Status.INTERNAL:
        message = message_of(error)
        fields[DETAILS] = b64encode(details_of(error)).rstrip(b"=").decode()
    else:
        message = "The server failed; its log says where."
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("a call failed with %s; at\n%s", type(error).__name__, frames)
    fields["grpc-message"] = quote(message, safe=PLAIN)
    if isinstance(error, Overloaded):
        fields[RETRY_AFTER] = str(max(1, round(1000 * error.retry_s)))
    return "".join(f"{name}\x00{value}\x00" for name, value in fields.items()).encode()
