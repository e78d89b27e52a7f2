"""Interpreted: a session whose callbacks are Python's, for machines without a compiler: what shim.c does, slower."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from .bounds import Bounds
from .build import HERE, LIBRARY
from .message import PREFIX, size
from .session import CALM, CLOSED, DATA, END, FLUSH_BYTES, LONG, OPEN, REQUEST, Binding, Blob, Broken, Record, Session

HEADERS, RST_STREAM, SETTINGS, PING = 1, 3, 4, 6
END_STREAM = ACK = LAST_DATA = 1
NO_END_STREAM = 2
FAILED, TEMPORARY, DEFERRED = -902, -521, -508
TIMEOUT, TIMEOUT_BYTES = b"grpc-timeout", 10
NAMES = {b":method": b"0", b":path": b"1", b"content-type": b"2", b"te": b"3"}
NAMES |= {b"grpc-encoding": b"4", b"authorization": b"5"}
EVENTS = {"begin_headers": "frame_recv", "header": "", "data_chunk_recv": "", "frame_recv": "", "stream_close": ""}
EVENTS |= {"frame_send": "frame_recv"}  # an event, and whose type it has


@dataclass(slots=True)
class _Stream:
    id: int
    head: bytearray = field(default_factory=bytearray)
    body: bytearray = field(default_factory=bytearray)
    out: bytearray = field(default_factory=bytearray)
    tail: bytes = b""
    timeout: bytes = b""
    fields: int = 0
    headed: bool = False
    told: bool = False
    follows: bool = False
    whole: bool = False
    ended: bool = False


def bind() -> Binding:
    """The library alone.

    Raises:
        OSError: it is not there.
    """
    from cffi import FFI

    ffi = FFI()
    ffi.cdef((HERE / "library.h").read_text())
    lib = ffi.dlopen(LIBRARY)

    def callback(event: str, kind: str) -> Any:
        method = getattr(Interpreted, f"_on_{event}")

        def call(_http2: Any, *given: Any) -> int:
            return method(ffi.from_handle(given[-1]), *given[:-1]) or 0

        return ffi.callback(f"nghttp2_{kind}_callback", call, error=FAILED)

    callbacks = {event: callback(event, f"on_{kind or event}") for event, kind in EVENTS.items()}
    read = callback("read", "data_source_read")
    provider = ffi.new("nghttp2_data_provider *", {"read_callback": read})
    return Binding.of(ffi, lib, callbacks, (read, provider))


class Interpreted(Session):
    """See `Session`."""

    def _begin(self, binding: Binding, bounds: Bounds) -> tuple[Any, Any]:
        """See `Session`."""
        self._ffi, self._bounds, self._provider = binding.ffi, bounds, binding.kept[1][1]
        self._streams, self._fresh = dict[int, _Stream](), list[_Stream]()
        self._records, self._blob = list[Record](), bytearray()
        self._chunk, self._block = binding.ffi.new("const uint8_t **"), lru_cache(64)(self._fields)
        state = SimpleNamespace(held=0, unsent=0, sent=0, pongs=0, greeted=0, flooded=0, calm=CALM)
        return state, binding.ffi.new_handle(self)

    def feed(self, data: bytes) -> tuple[Iterable[Record], Blob]:
        """See `Session`."""
        read = self._lib.nghttp2_session_mem_recv(self._http2, data, len(data))
        for stream in [each for each in self._fresh if each.headed]:
            self._fresh.remove(stream)
            if not stream.told and not stream.ended and stream.id in self._streams:
                self._tell(stream, OPEN)
        if read < 0:
            raise Broken(read)
        records, blob, self._records, self._blob = self._records, bytes(self._blob), [], bytearray()
        return records, blob

    def take(self) -> bytes:
        """See `Session`."""
        taken, length, more = list[bytes](), 0, 0
        while length < FLUSH_BYTES and (more := self._lib.nghttp2_session_mem_send(self._http2, self._chunk)) > 0:
            taken.append(self._ffi.buffer(self._chunk[0], more)[:])
            length += more
        if more < 0:
            raise Broken(more)
        return b"".join(taken)

    def reply(self, stream: int, head: bytes, body: bytes | None, tail: bytes) -> None:
        """See `Session`."""
        own = self._streams.get(stream)
        if own is None or own.ended:
            return
        if body is not None:
            self._count(PREFIX + len(body), unsent=True)
            own.out += b"\0" + len(body).to_bytes(4, "big") + body
        own.tail = tail
        if tail or body is None:
            own.ended = True
            self._drop(own)
        if not head:
            self._lib.nghttp2_session_resume_data(self._http2, stream)
        else:
            fields, count, _ = self._block(head)
            messages = self._null if body is None and not tail else self._provider
            self._lib.nghttp2_submit_response(self._http2, stream, fields, count, messages)

    def follow(self, stream: int) -> None:
        """See `Session`."""
        if own := self._streams.get(stream):
            own.follows = True
            self._drop(own)

    def close(self) -> None:
        """See `Session`."""
        self._lib.nghttp2_session_del(self._http2)
        self._user = None  # it and this hold each other

    def _fields(self, block: bytes) -> tuple[Any, int, Any]:
        """A block of headers as the library takes it, and what must live as long."""
        parts = [(self._ffi.new("uint8_t[]", part + b"\0"), len(part)) for part in block.split(b"\0")[:-1]]
        pairs = [
            {"name": name, "value": value, "namelen": named, "valuelen": valued}
            for (name, named), (value, valued) in zip(parts[::2], parts[1::2], strict=True)
        ]
        return self._ffi.new("nghttp2_nv[]", pairs), len(pairs), parts

    def _count(self, length: int, *, unsent: bool = False) -> None:
        self.state.held += length
        self.state.unsent += length if unsent else 0

    def _drop(self, stream: _Stream) -> None:
        self._count(-len(stream.head) - len(stream.body))
        stream.head, stream.body = bytearray(), bytearray()

    def _note(self, stream: _Stream, kind: int, code: int = 0, body: bytes | bytearray = b"") -> None:
        self._records.append((stream.id, kind, code, len(self._blob), 0, len(body), 0))
        self._blob += body

    def _tell(self, stream: _Stream, kind: int) -> None:
        long, at, head, body = stream.fields > self._bounds.header_bytes, len(self._blob), stream.head, stream.body
        self._records.append((stream.id, kind, int(long), at, len(head), len(body), len(stream.timeout)))
        self._blob += head + body + stream.timeout
        stream.told = True

    def _noise(self, cost: int) -> None:
        self.state.calm -= cost
        self.state.flooded |= self.state.calm < 0

    def _on_begin_headers(self, frame: Any) -> None:
        number = frame.hd.stream_id
        if number not in self._streams:
            stream = self._streams[number] = _Stream(number)
            self._fresh.append(stream)

    def _on_header(self, frame: Any, name: Any, named: int, value: Any, valued: int, _flags: int) -> int:
        stream = self._streams.get(frame.hd.stream_id)
        if stream is None or stream.headed:
            return 0
        stream.fields += named + valued + 32
        if stream.fields > self._bounds.header_bytes:
            if stream.fields <= 4 * self._bounds.header_bytes:
                return 0
            self._noise(20)
            return TEMPORARY
        known = self._ffi.buffer(name, named)[:]
        if known == TIMEOUT:
            stream.timeout = self._ffi.buffer(value, min(valued, TIMEOUT_BYTES))[:]
        elif letter := NAMES.get(known):
            stream.head += letter + self._ffi.buffer(value, valued)[:] + b"\0"
            self._count(valued + 2)
        return 0

    def _on_data_chunk_recv(self, _flags: int, number: int, data: Any, length: int) -> int:
        stream = self._streams.get(number)
        if self._lib.nghttp2_session_consume_connection(self._http2, length):
            return FAILED
        if stream is None or stream.ended or self.state.flooded:
            return 0
        chunk = self._ffi.buffer(data, length)[:]
        if stream.follows:
            self._note(stream, DATA, 0, chunk)
            return 0
        before = len(stream.body)
        stream.body += chunk
        self._count(length)
        if stream.told and before < PREFIX <= before + length:
            message = size(stream.body)
            if message > self._bounds.window - PREFIX:
                self._note(stream, LONG, message)
        return 0

    def _on_frame_recv(self, frame: Any) -> None:
        kind, state, ends = frame.hd.type, self.state, frame.hd.flags & END_STREAM
        stream = self._streams.get(frame.hd.stream_id) if kind <= HEADERS else None
        state.greeted |= kind == SETTINGS
        state.pongs += kind == PING and ends == ACK
        if state.flooded or (kind >= SETTINGS and ends == ACK):
            return
        if stream is None:
            self._noise(10 if kind in (SETTINGS, PING) else 2 * (kind == RST_STREAM))
            return
        stream.headed = True
        if not ends:
            self._noise(2 * (not frame.hd.length))
            return
        stream.whole = True
        state.calm = min(CALM, state.calm + 1)
        if stream.follows and not stream.ended:
            self._note(stream, END)
        elif not stream.ended:
            self._tell(stream, REQUEST)
            self._drop(stream)

    def _on_frame_send(self, frame: Any) -> None:
        if frame.hd.type <= HEADERS and frame.hd.flags & END_STREAM:
            stream = self._streams.get(frame.hd.stream_id)
            if stream is not None and not stream.whole:
                self.reset(stream.id, 0)

    def _on_stream_close(self, number: int, code: int) -> None:
        if stream := self._streams.pop(number, None):
            if stream.told and not stream.ended:
                self._note(stream, CLOSED, code)
            self._count(-len(stream.out), unsent=True)
            self._drop(stream)
            if stream in self._fresh:
                self._fresh.remove(stream)

    def _on_read(self, number: int, to: Any, room: int, flags: Any, _source: Any) -> int:
        stream = self._streams.get(number)
        if stream is None:
            return TEMPORARY
        length = min(room, len(stream.out))
        self._ffi.memmove(to, stream.out, length)
        del stream.out[:length]
        self._count(-length, unsent=True)
        self.state.sent += length
        if stream.out or not stream.ended:
            return length or DEFERRED
        flags[0] |= LAST_DATA | NO_END_STREAM
        fields, count, _ = self._block(stream.tail)
        return FAILED if self._lib.nghttp2_submit_trailer(self._http2, number, fields, count) else length
