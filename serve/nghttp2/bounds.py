"""Bounds: what one server allows its connections, so that none of them can exhaust it."""

from dataclasses import dataclass

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Bounds:
    """Times in seconds, sizes in bytes.

    streams: open at once on one connection; its caller keeps the others back.
    window: what a stream may send before its message's size is looked at; a longer message waits for a grant.
    connection_window: what a connection may send before the server has read it.
    header_bytes: of all headers of a request, as HPACK counts them.
    connection_bytes, all_bytes: of messages longer than a window that are there at once, on one connection and on all.
    unsent_bytes: of replies that a connection's caller does not take.
    connections: open at once; beyond them the one that has been idle for longest makes room, or the new one ends.
    waiting: calls for scores that wait at once.
    handshake_s: until a connection's TLS, and then its HTTP/2, is set up.
    idle_s: that a connection may be open without a call.
    request_s: from the beginning of a request to its end.
    stuck_s: that a caller may leave replies untaken.
    keepalive_s, keepalive_timeout_s: of silence before a ping, and after it.
    age_s: of a connection, give or take a tenth, before it is asked to end; 0: no matter.
    leave_s: that the calls of a connection which is asked to end may take.
    """

    streams: int = 1024
    window: int = 65_535
    connection_window: int = 16 * MEBIBYTE
    header_bytes: int = 16_384
    connection_bytes: int = 64 * MEBIBYTE
    all_bytes: int = 512 * MEBIBYTE
    unsent_bytes: int = 64 * MEBIBYTE
    connections: int = 8192
    waiting: int = 2048
    handshake_s: float = 10.0
    idle_s: float = 600.0
    request_s: float = 60.0
    stuck_s: float = 20.0
    keepalive_s: float = 30.0
    keepalive_timeout_s: float = 10.0
    age_s: float = 0.0
    leave_s: float = 10.0
