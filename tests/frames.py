"""Frames: an HTTP/2 client by hand, which sends what no library would and tells what came back (RFC 9113)."""

import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from types import TracebackType
from typing import Self
from urllib.parse import unquote

from hpack import Decoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD, SETTING, PREFIX = struct.Struct(">HBBBI"), struct.Struct(">HI"), struct.Struct(">BI")
PATIENCE_S = 20.0
HEALTH = "/grpc.health.v1.Health/Check"
MAX_FRAME_SIZE, WINDOW = 16384, 65535
INITIAL_WINDOW = 4  # the number of its setting
Headers = Sequence[tuple[str, str]]


class Kind(IntEnum):
    """Types of frames."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntFlag):
    """Flags of frames; an answer to SETTINGS or PING has that of END_STREAM."""

    NONE = 0
    END_STREAM = 1
    END_HEADERS = 4


@dataclass(frozen=True)
class Frame:
    """One frame that came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


@dataclass
class Reply:
    """What came of one stream: blocks of headers, data, and whether it ended, or by which error it was reset."""

    blocks: list[dict[str, str]] = field(default_factory=list)
    data: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def http(self) -> str:
        """The HTTP status."""
        return self.blocks[0][":status"]

    @property
    def status(self) -> int | None:
        """gRPC's status, from the trailers; None where it never came."""
        found = self.blocks[-1].get("grpc-status") if self.blocks else None
        return None if found is None else int(found)

    @property
    def told(self) -> str:
        """gRPC's message."""
        return unquote(self.blocks[-1].get("grpc-message", ""), errors="strict")

    @property
    def message(self) -> bytes:
        """The one message, without its prefix."""
        compressed, length = PREFIX.unpack_from(self.data)
        assert (compressed, length) == (0, len(self.data) - PREFIX.size)
        return self.data[PREFIX.size :]


def framed(message: bytes, *, compressed: int = 0, length: int | None = None) -> bytes:
    """A message behind its prefix; `length` where that shall lie."""
    return PREFIX.pack(compressed, len(message) if length is None else length) + message


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """A frame's bytes; `length` where its head shall lie."""
    size = len(payload) if length is None else length
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def block(headers: Headers) -> bytes:
    """Headers as HPACK writes them without any table or code: each new, none kept."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, size = len(data) - 127, b"\x7f"
    while rest > 127:
        size, rest = size + bytes([rest & 127 | 128]), rest >> 7
    return size + bytes([rest]) + data


def asking(path: str = HEALTH, *more: tuple[str, str], **instead: str) -> list[tuple[str, str]]:
    """The headers of a call, some of them otherwise; an empty one is left out."""
    usual = {"method": "POST", "scheme": "http", "path": path, "authority": "test", "content_type": "application/grpc"}
    usual |= {"te": "trailers"} | instead
    pseudo = [(f":{name}", usual.pop(name)) for name in ("method", "scheme", "path", "authority")]
    rest = [(name.replace("_", "-"), value) for name, value in usual.items()]
    return [(name, value) for name, value in (*pseudo, *rest, *more) if value]


class Connection:
    """One connection. It answers SETTINGS and PING, and opens the windows again as data comes, unless told not to."""

    def __init__(
        self,
        address: str,
        tls: ssl.SSLContext | None = None,
        *,
        polite: bool = True,
        preface: bytes = PREFACE,
        settings: Mapping[int, int] | None = None,
    ) -> None:
        """Connect, and send the preface and SETTINGS, unless the former is empty."""
        host, _, port = address.rpartition(":")
        self.socket: socket.socket = socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self._decoder, self._rest, self._polite = Decoder(), b"", polite
        self._next, self._header, self._initial, self._windows = 1, bytearray(), WINDOW, {0: WINDOW}
        self.replies, self.goaways, self.frames = dict[int, Reply](), list[tuple[int, int]](), list[Frame]()
        self.closed = False
        packed = b"".join(SETTING.pack(name, value) for name, value in (settings or {}).items())
        self.socket.sendall(preface + frame(Kind.SETTINGS, payload=packed) if preface else b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Send bytes; False where the other side takes none any more."""
        try:
            self.socket.sendall(data)
        except OSError:
            self.closed = True
        return not self.closed

    def ended(self) -> bool:
        """Whether the other side has closed the connection, as far as that shows before what it sent last is read."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def stream(self) -> int:
        """The next stream's number."""
        number, self._next = self._next, self._next + 2
        return number

    def begin(self, headers: Headers | None = None, *, end: bool = False, more: bool = False) -> int:
        """Send the headers of a call, whole unless `more` follow; its stream."""
        stream = self.stream()
        flags = (Flag.END_STREAM if end else 0) | (0 if more else Flag.END_HEADERS)
        self.send(frame(Kind.HEADERS, flags, stream, block(asking() if headers is None else headers)))
        return stream

    def data(self, stream: int, data: bytes, *, end: bool = True, size: int = MAX_FRAME_SIZE) -> None:
        """Send data in frames of so many bytes, as the windows allow, for as long as the other side takes them."""
        at, out, windows = 0, bytearray(), self._windows
        while True:
            mine = windows.setdefault(stream, self._initial)
            part = data[at : at + min(size, mine, windows[0])]
            if not part and data:
                self.send(bytes(out))
                out.clear()
                if not self.hear(lambda: min(windows[0], windows[stream]) > 0 or self._over(stream)):
                    return
                if self._over(stream):
                    return
                continue
            at, windows[0], windows[stream] = at + len(part), windows[0] - len(part), mine - len(part)
            last = at == len(data)
            out += frame(Kind.DATA, Flag.END_STREAM if end and last else 0, stream, part)
            if last:
                self.send(bytes(out))
                return

    def call(self, data: bytes, headers: Headers | None = None) -> Reply:
        """What comes of a call whose body is the data."""
        stream = self.begin(headers)
        self.data(stream, data)
        return self.reply(stream)

    def reply(self, stream: int) -> Reply:
        """Wait for a stream's end, its reset, or the connection's end."""
        self.hear(lambda: self._over(stream))
        return self.replies.setdefault(stream, Reply())

    def _over(self, stream: int) -> bool:
        found = self.replies.get(stream)
        return found is not None and (found.ended or found.reset is not None)

    def hear(self, holds: Callable[[], object], within_s: float = PATIENCE_S) -> bool:
        """Take frames until it holds (False: the connection ended, or the time is over)."""
        until = time.monotonic() + within_s
        while not holds():
            if self.closed or not self._take(until - time.monotonic()):
                return False
        return True

    def _take(self, wait_s: float) -> bool:
        if wait_s <= 0:
            return False
        self.socket.settimeout(wait_s)
        try:
            came = self.socket.recv(1 << 16)
        except TimeoutError:
            return False
        except OSError:
            came = b""
        finally:
            self.socket.settimeout(PATIENCE_S)
        self.closed, self._rest = not came, self._rest + came
        while len(self._rest) >= HEAD.size:
            high, low, kind, flags, stream = HEAD.unpack_from(self._rest)
            end = HEAD.size + (high << 8 | low)
            if len(self._rest) < end:
                break
            payload, self._rest = self._rest[HEAD.size : end], self._rest[end:]
            self._heard(Frame(kind, flags, stream & 0x7FFFFFFF, payload))
        return True

    def _set(self, initial: int) -> None:
        """Have every stream begin with such a window, those that are there too."""
        more, self._initial = initial - self._initial, initial
        for stream in self._windows.keys() - {0}:
            self._windows[stream] += more

    def _heard(self, each: Frame) -> None:
        reply = self.replies.setdefault(each.stream, Reply())
        answered = each.flags & Flag.END_STREAM
        match each.kind:
            case Kind.DATA:
                reply.data += each.payload
                if self._polite and each.payload:
                    opened = struct.pack(">I", len(each.payload))
                    streams = (0,) if answered else (0, each.stream)
                    self.send(b"".join(frame(Kind.WINDOW_UPDATE, 0, stream, opened) for stream in streams))
            case Kind.HEADERS | Kind.CONTINUATION:
                self._header += each.payload
                if each.flags & Flag.END_HEADERS:
                    found = self._decoder.decode(bytes(self._header))
                    reply.blocks.append({str(name): str(value) for name, value in found})
                    self._header.clear()
            case Kind.RST_STREAM:
                (reply.reset,) = struct.unpack(">I", each.payload)
            case Kind.GOAWAY:
                self.goaways.append(struct.unpack_from(">II", each.payload))
            case Kind.WINDOW_UPDATE:
                self._windows[each.stream] = self._windows.get(each.stream, self._initial) + int.from_bytes(
                    each.payload
                )
            case Kind.SETTINGS | Kind.PING if self._polite and not answered:
                if each.kind == Kind.SETTINGS:
                    self._set(dict(SETTING.iter_unpack(each.payload)).get(INITIAL_WINDOW, self._initial))
                self.send(frame(each.kind, Flag.END_STREAM, 0, each.payload if each.kind == Kind.PING else b""))
            case _:
                pass
        if each.kind in (Kind.DATA, Kind.HEADERS) and answered:
            reply.ended = True
        if each.kind not in (Kind.DATA, Kind.HEADERS):
            self.frames.append(each)
