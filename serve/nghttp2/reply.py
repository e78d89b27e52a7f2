"""Reply: the headers and trailers that end a call, as blocks of NAME 0 VALUE 0 and so on."""

from base64 import b64encode
from urllib.parse import quote

from ..statuses import Status, ending, status_of

PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # what grpc-message has as it is
HEADERS = b":status\x00200\x00content-type\x00application/grpc\x00"
OK = b"grpc-status\x000\x00"


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
    """The trailers of a call that failed."""
    if isinstance(error, Refused):
        found, message, metadata = error.status, f"{error}.", {"grpc-accept-encoding": "identity,gzip"}
    else:
        found, message, metadata = ending(error)
    fields = {"grpc-status": str(int(found)), "grpc-message": quote(message, safe=PLAIN)}
    for name, value in metadata.items():
        fields[name] = b64encode(value).rstrip(b"=").decode() if isinstance(value, bytes) else value
    return "".join(f"{name}\x00{value}\x00" for name, value in fields.items()).encode()
