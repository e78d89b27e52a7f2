"""Messages: bytes become a protobuf message, or a named error."""

from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from ..protos.errors import InputError

M = TypeVar("M", bound=Message, covariant=True)


class Kind(Protocol[M]):
    """A generated message class."""

    @staticmethod
    def FromString(s: bytes, /) -> M: ...  # noqa: N802, D102  # protobuf's name


def parse(kind: Kind[M], name: str, data: bytes) -> M:
    """Parse a serialized message.

    Raises:
        InputError: cut short, or not a message of this kind.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InputError(
            f"a request is a serialized {name}",
            found=f"{len(data)} bytes that are none",
            where="request",
            remedy="Build requests with the code generated from quorem's .proto files",
        ) from None
