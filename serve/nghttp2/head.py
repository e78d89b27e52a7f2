"""Head: what the headers of a request say of its call."""

from dataclasses import dataclass

from ..statuses import Status
from .reply import Refused

BEARER = b"bearer "
TYPE = b"application/grpc"
ENCODINGS = b"identity", b"gzip"
UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
MOST_DIGITS = 8
METHOD, PATH, CONTENT_TYPE, TE, ENCODING, AUTHORIZATION = b"0", b"1", b"2", b"3", b"4", b"5"  # as shim.c numbers them


@dataclass(slots=True)
class Head:
    """A call's method, its bearer token, and whether its messages may be compressed by gzip."""

    path: str
    token: str
    gzip: bool


def read(fields: bytes) -> Head:
    """The head that a session has collected: NUMBER VALUE 0 and so on.

    Raises:
        Refused: a request that is no call of gRPC, or encoded as this server cannot read.
    """
    found = {field[:1]: field[1:] for field in fields.split(b"\0")}
    if found.get(METHOD) != b"POST":
        raise Refused(Status.UNKNOWN, "A call is a POST", http=405)
    kind = found.get(CONTENT_TYPE, b"").lower()
    if not kind.startswith(TYPE) or kind[len(TYPE) :][:1] not in (b"", b"+", b";"):
        raise Refused(Status.UNKNOWN, "The content-type of a call is application/grpc", http=415)
    if found.get(TE) != b"trailers":
        raise Refused(Status.UNKNOWN, "A call has the header te: trailers", http=400)
    encoding = found.get(ENCODING, ENCODINGS[0])
    if encoding not in ENCODINGS:
        raise Refused(Status.UNIMPLEMENTED, "Messages are encoded by gzip, or not at all")
    word = found.get(AUTHORIZATION, b"")
    token = word[len(BEARER) :] if word[: len(BEARER)].lower() == BEARER else b""
    return Head(found.get(PATH, b"").decode("latin-1"), token.decode("latin-1"), encoding == ENCODINGS[1])


def seconds(timeout: bytes) -> float:
    """The value of grpc-timeout.

    Raises:
        Refused: none that gRPC's protocol has.
    """
    digits, unit = timeout[:-1], UNITS.get(timeout[-1:])
    if unit is None or not digits.isdigit() or len(digits) > MOST_DIGITS:
        raise Refused(Status.INTERNAL, "A grpc-timeout is at most eight digits and one of H, M, S, m, u, n", http=400)
    return int(digits) * unit
