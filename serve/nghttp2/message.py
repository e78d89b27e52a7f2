"""Message: what gRPC frames with a flag and a length, alone or one after another, compressed or not."""

import zlib

from ..statuses import Status
from .reply import Refused
from .session import Blob

PREFIX = 5  # bytes: whether it is compressed, and its length
GZIP = 16 + zlib.MAX_WBITS


def size(data: bytes | bytearray) -> int:
    """The bytes of the message that begins there, by its prefix."""
    return int.from_bytes(data[1:PREFIX], "big")


def only(data: Blob, start: int, stop: int, gzip: bool, most: int) -> bytes:
    """The one message that a request holds.

    Args:
        data: where its prefix and what follows stand,
        start: from here,
        stop: to here.
        gzip: whether the call says that messages may be compressed so.
        most: bytes that it may have, read.

    Raises:
        Refused: none, several, part of one, too long a one, or not what its flag says.
    """
    if start == stop:
        raise Refused(Status.UNIMPLEMENTED, "A request of this method is one message, and none came")
    begin = start + PREFIX
    prefix = data[start : min(begin, stop)]  # what stands behind it is another's
    length = size(prefix)
    if length > most:
        raise too_long(most)
    if begin + length > stop:
        raise Refused(Status.INTERNAL, "A message has as many bytes as its prefix says")
    if begin + length < stop:
        raise Refused(Status.UNIMPLEMENTED, "A request of this method is one message, and more came")
    return opened(prefix[0], data[begin:stop], gzip, most)


def opened(flag: int, data: bytes, gzip: bool, most: int) -> bytes:
    """A message as it was before it was compressed, if it was.

    Raises:
        Refused: see `only`.
    """
    if not flag:
        return data
    if flag > 1 or not gzip:
        raise Refused(Status.INTERNAL, "A message is compressed as its call's grpc-encoding says")
    reader = zlib.decompressobj(GZIP)
    try:
        message = reader.decompress(data, most + 1)
    except zlib.error as error:
        raise Refused(Status.INTERNAL, f"A compressed message is whole ({error})") from None
    if len(message) > most:
        raise too_long(most)
    if not reader.eof or reader.unused_data:
        raise Refused(Status.INTERNAL, "A compressed message is whole, and nothing follows it")
    return message


def too_long(most: int) -> Refused:
    """Of a message beyond the limit, which need not be read to be refused; in grpcio's words, which clients know."""
    return Refused(Status.RESOURCE_EXHAUSTED, f"Received message larger than max ({most} bytes, --max-request-mb)")
