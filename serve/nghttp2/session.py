"""Session: one HTTP/2 connection of libnghttp2, bytes in and bytes out, by the shim; see interpreted.py for another."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from types import ModuleType
from typing import Any, Protocol

from .bounds import Bounds

REQUEST, OPEN, LONG, DATA, END, CLOSED = range(1, 7)  # kinds of records, as in shim.c
RECORD = Struct("=7I")
CALM = 1000  # how much of frames that do nothing is borne at once
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE = 3, 4, 6
FLUSH_BYTES = 1 << 20
Record = tuple[int, int, int, int, int, int, int]


class Blob(Protocol):
    """What bytes are cut from."""

    def __getitem__(self, part: slice, /) -> bytes: ...


NOTHING: tuple[Iterable[Record], Blob] = ((), b"")


CALLBACKS = {
    "begin_headers": "quorem_on_begin",
    "header": "quorem_on_header",
    "data_chunk_recv": "quorem_on_chunk",
    "frame_recv": "quorem_on_frame",
    "frame_send": "quorem_on_sent",
    "stream_close": "quorem_on_close",
}


class Code(IntEnum):
    """HTTP/2's error codes, those that are sent."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    ENHANCE_YOUR_CALM = 11


class Broken(Exception):
    """The peer does not speak HTTP/2, or there is no memory: nothing more can be read."""


@dataclass(frozen=True)
class Binding:
    """libnghttp2, found and bound: cffi's two objects, and the library's own of all connections."""

    ffi: Any
    lib: Any
    callbacks: Any
    options: Any
    kept: tuple[Any, Any]

    @classmethod
    def of(cls, ffi: Any, lib: Any, callbacks: dict[str, Any], more: Any = None) -> "Binding":
        """Bind callbacks by their events; `more` lives as long as they."""
        slot, option = ffi.new("nghttp2_session_callbacks **"), ffi.new("nghttp2_option **")
        if lib.nghttp2_session_callbacks_new(slot) or lib.nghttp2_option_new(option):
            raise MemoryError
        for event, function in callbacks.items():
            getattr(lib, f"nghttp2_session_callbacks_set_on_{event}_callback")(slot[0], function)
        lib.nghttp2_option_set_no_auto_window_update(option[0], 1)
        lib.nghttp2_option_set_no_closed_streams(option[0], 1)
        return cls(ffi, lib, slot[0], option[0], (callbacks, more))


def bind(shim: ModuleType) -> Binding:
    """The library by the shim that build.py has compiled."""
    ffi, lib = shim.ffi, shim.lib
    return Binding.of(ffi, lib, {event: ffi.addressof(lib, name) for event, name in CALLBACKS.items()})


class Session:
    """A connection of a server. Nothing is sent but what `take` gives; `feed` tells what has come.

    A record is (stream, kind, code, at, head, body, timeout): in the blob stand at `at` so many bytes of the head's
    fields, of the body, and of grpc-timeout, one after the other. Kinds: REQUEST, whole, and OPEN, of which more is to
    come (code: whether its headers are too long); LONG, whose message has `code` bytes, more than a window; DATA and
    END of a stream that is followed; CLOSED with an error's code before it was answered.

    state: counts as shim.h's quorem_session has them: held, unsent, sent, pongs, greeted, flooded, calm.
    """

    def __init__(self, binding: Binding, bounds: Bounds) -> None:
        """Begin with the server's settings."""
        ffi, lib = binding.ffi, binding.lib
        self.state, user = self._begin(binding, bounds)
        self._user = user  # lives as long as this
        self._lib, self._null, self._buffer = lib, ffi.NULL, ffi.buffer
        settings = [(MAX_CONCURRENT_STREAMS, bounds.streams), (INITIAL_WINDOW_SIZE, bounds.window)]
        settings.append((MAX_HEADER_LIST_SIZE, bounds.header_bytes))
        session = ffi.new("nghttp2_session **")
        if lib.nghttp2_session_server_new2(session, binding.callbacks, user, binding.options):
            raise MemoryError
        self._http2 = session[0]
        lib.nghttp2_submit_settings(self._http2, 0, settings, len(settings))
        self.grant(0, bounds.connection_window)

    def _begin(self, binding: Binding, bounds: Bounds) -> tuple[Any, Any]:
        """The state, and what callbacks get."""
        q = binding.ffi.new("quorem_session *")
        q.window, q.header_bytes, q.calm = bounds.window, bounds.header_bytes, CALM
        return q, q

    def feed(self, data: bytes) -> tuple[Iterable[Record], Blob]:
        """Take bytes of the peer; the records that this gave, and their blob, which is there until the next feed.

        Raises:
            Broken.
        """
        q = self.state
        length = self._lib.quorem_feed(q, self._http2, data, len(data))
        if length < 0:
            raise Broken(length)
        if not length:
            return NOTHING
        return RECORD.iter_unpack(self._buffer(q.records.at, length)[:]), self._buffer(q.blob.at, q.blob.length)

    def take(self) -> bytes:
        """The next bytes for the peer, FLUSH_BYTES and more if not all are.

        Raises:
            Broken.
        """
        length = self._lib.quorem_flush(self.state, self._http2, FLUSH_BYTES)
        if length < 0:
            raise Broken(length)
        return self._buffer(self.state.out.at, length)[:] if length else b""

    def reply(self, stream: int, head: bytes, body: bytes | None, tail: bytes) -> None:
        """Send headers, a message, trailers, each if there; headers alone end the stream, and so do trailers.

        Headers are NAME 0 VALUE 0 and so on; without any the block is empty. A stream that has ended takes nothing.
        """
        null, length = self._null, 0 if body is None else len(body)
        message = null if body is None else body
        first, last, http2 = head or null, tail or null, self._http2
        if self._lib.quorem_reply(self.state, http2, stream, first, len(head), message, length, last, len(tail)):
            raise MemoryError

    def follow(self, stream: int) -> None:
        """Tell a stream's bytes as they come; what was told of its body is the caller's."""
        self.reply(stream, b"", None, b"")

    def close(self) -> None:
        """End; nothing else may be called then."""
        self._lib.nghttp2_session_del(self._http2)
        self._lib.quorem_close(self.state)

    def grant(self, stream: int, window: int) -> None:
        """Let the peer send so many bytes that are not consumed yet; stream 0: on all streams together."""
        self._lib.nghttp2_session_set_local_window_size(self._http2, 0, stream, window)

    def consume(self, stream: int, length: int) -> None:
        """Open a stream's window again by what was read."""
        self._lib.nghttp2_session_consume_stream(self._http2, stream, length)

    def reset(self, stream: int, code: int) -> None:
        """End a stream by RST_STREAM."""
        self._lib.nghttp2_submit_rst_stream(self._http2, 0, stream, code)

    def ping(self) -> None:
        """Ask for an answer, which `state.pongs` counts."""
        self._lib.nghttp2_submit_ping(self._http2, 0, self._null)

    def announce(self) -> None:
        """Ask the peer to begin no more streams; those that it has begun meanwhile are still served."""
        self._lib.nghttp2_submit_shutdown_notice(self._http2)

    def leave(self, code: int, why: bytes = b"") -> None:
        """Tell the peer that streams from here on are not served."""
        last = self._lib.nghttp2_session_get_last_proc_stream_id(self._http2)
        self._lib.nghttp2_submit_goaway(self._http2, 0, last, code, why, len(why))

    @property
    def quiet(self) -> bool:
        """Whether there is nothing to send, and more may come."""
        lib, http2 = self._lib, self._http2
        return lib.nghttp2_session_want_read(http2) and not lib.nghttp2_session_want_write(http2)

    @property
    def over(self) -> bool:
        """Whether neither side has anything more to say."""
        lib, http2 = self._lib, self._http2
        return not lib.nghttp2_session_want_read(http2) and not lib.nghttp2_session_want_write(http2)
