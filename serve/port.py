"""Port: an address that every worker of one server may bind, and no other server."""

import socket
from dataclasses import dataclass

from ..protos.errors import Unavailable


@dataclass(frozen=True)
class Port:
    """A reserved port: bound with SO_REUSEPORT, never listened on, so that it takes no connections."""

    host: str
    number: int
    holder: socket.socket

    @property
    def address(self) -> str:
        """`host:port`, as clients write it."""
        return f"[{self.host}]:{self.number}" if ":" in self.host else f"{self.host}:{self.number}"


def reserve(host: str, number: int) -> Port:
    """Reserve a port; 0 takes a free one.

    Two servers that both set SO_REUSEPORT would share a port and each get half of the calls; so the first bind goes
    without it, and fails if anybody is there.

    Raises:
        Unavailable: no such host, or the port is taken or not allowed.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        holder = socket.socket(family, kind)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
    except (OSError, UnicodeError) as error:
        raise Unavailable(
            "a server binds an address of this machine that nobody else serves",
            found=str(error),
            where=f"{host}:{number}",
            remedy="Choose another --port (0 takes a free one) or --host",
        ) from None
    return Port(str(address[0]), holder.getsockname()[1], holder)
