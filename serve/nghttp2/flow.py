"""Flow: a call of many messages, answered by a thread of its own from a queue of its requests."""

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ..call import Stream
from ..refusals import check
from .exchange import Exchange
from .message import PREFIX, opened, size, too_long
from .reply import Refused

if TYPE_CHECKING:
    from .server import Http2Server


class Flow:
    """The requests of one streaming call; `run` answers them, in any thread, and all else happens in the loop's."""

    def __init__(self, server: "Http2Server", exchange: Exchange, stream: Stream, left: Callable[[], object]) -> None:
        """Answer a call by `stream`; `left` is told when its thread is free again."""
        self._server, self._exchange, self._stream, self._left = server, exchange, stream, left
        self._queue = SimpleQueue[tuple[bytes, int] | Exception | None]()
        self._rest = bytearray()
        exchange.flow = self

    def feed(self, data: bytes) -> None:
        """Take what came of the stream."""
        rest, most = self._rest, self._server.most
        rest += data
        while len(rest) >= PREFIX:
            length = PREFIX + size(rest)
            if length > PREFIX + most:
                self.put(too_long(most))
                return
            if len(rest) < length:
                if self._exchange.connection is not None:
                    self._exchange.connection.ask(self._exchange.stream, 2 * length)  # windows open by halves
                return
            try:
                self.put((opened(rest[0], bytes(rest[PREFIX:length]), self._exchange.gzip, most), length))
            except Refused as refused:
                self.put(refused)
                return
            del rest[:length]

    def put(self, item: tuple[bytes, int] | Exception | None) -> None:
        """Queue a request with its bytes on the wire, what ends the call, or (None) the end of its requests."""
        self._queue.put(item)

    def run(self) -> None:
        """Answer until the requests end, or the call does."""
        server, exchange, result = self._server, self._exchange, None
        try:
            for reply in self._stream(self._requests(), exchange.call):
                server.soon(exchange.send, reply)
        except Exception as error:
            result = error
        server.soon(exchange.done, result)
        server.soon(self._left)

    def _requests(self) -> Iterator[bytes]:
        server, call = self._server, self._exchange.call
        while (item := self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            message, length = item
            server.live.add(self._exchange)  # before the look at `refusing`: a drain misses no call that begins
            try:
                check(call, stopping=server.refusing)
                call.request_bytes += len(message)
                yield message
            finally:
                server.live.discard(self._exchange)
            server.soon(self._consumed, length)

    def _consumed(self, length: int) -> None:
        if self._exchange.connection is not None:
            self._exchange.connection.consume(self._exchange.stream, length)
