"""Flow: a call of many messages, answered by a thread of its own from a queue of its requests."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ..call import Stream
from ..refusals import check, gone, overloaded
from ..statuses import Status
from .exchange import Exchange
from .message import PREFIX, opened, size, too_long
from .reply import Refused

if TYPE_CHECKING:
    from .server import Http2Server

Request = tuple[int, bytes, int]  # the flag of its prefix, what follows it, and the bytes of both on the wire


class Flow:
    """The requests of one streaming call; `run` answers them, in any thread, and all else happens in the loop's."""

    def __init__(self, server: "Http2Server", exchange: Exchange, stream: Stream, left: Callable[[], object]) -> None:
        """Answer a call by `stream`; `left` is told when its thread is free again."""
        self._server, self._exchange, self._stream, self._left = server, exchange, stream, left
        self._queue = SimpleQueue[Request | Exception | None]()
        self._rest, self._since = bytearray(), 0.0  # of a message that is not whole, and when it could have begun
        self._ahead = 0  # requests that are not answered
        self._over = self._dropped = False
        exchange.flow = self

    def feed(self, data: bytes) -> None:
        """Take what came of the stream, and nothing behind a message that is too long."""
        if self._over:
            return
        rest, most = self._rest, self._server.most
        if not rest:
            self._since = time.monotonic()
        rest += data
        while len(rest) >= PREFIX:
            length = PREFIX + size(rest)
            if length > PREFIX + most:
                self.end(too_long(most))
                return
            if len(rest) < length:
                if self._exchange.connection is not None:
                    self._exchange.connection.ask(self._exchange.stream, 2 * length)  # windows open by halves
                return
            self._queue.put((rest[0], bytes(rest[PREFIX:length]), length))
            del rest[:length]
            self._ahead += 1

    @property
    def half_since(self) -> float | None:
        """Since when the caller owes the rest of a message; None where he owes none, or may not send it yet."""
        return self._since if self._rest and not self._ahead else None

    def end(self, error: Exception | None = None) -> None:
        """Take no more: an error ends the call, once all before it is answered; without one its requests do."""
        if error is None and self._rest:
            error = Refused(Status.INTERNAL, "A message has as many bytes as its prefix says")
        self._over = True
        self._rest.clear()
        self._queue.put(error)

    def drop(self) -> None:
        """Have nobody told of its end, though `run` may be called yet."""
        self._dropped, self._exchange.flow = True, None
        self.end(gone())

    def run(self) -> None:
        """Answer until the requests end, or the call does."""
        server, exchange, result = self._server, self._exchange, None
        try:
            for reply in self._stream(self._requests(), exchange.call):
                server.soon(exchange.send, reply)
        except Exception as error:
            result = error
        if not self._dropped:
            server.soon(exchange.done, result)
            server.soon(self._left)

    def _requests(self) -> Iterator[bytes]:
        server, exchange = self._server, self._exchange
        while (item := self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            flag, data, length = item
            message = opened(flag, data, exchange.gzip, server.most)  # here, where the loop does not wait for it
            server.live.add(exchange)  # before the look at `refusing`: a drain misses no call that begins
            try:
                check(exchange.call, stopping=server.refusing)
                exchange.call.request_bytes += len(message)
                yield message
            finally:
                server.live.discard(exchange)
            server.soon(self._consumed, length)

    def _consumed(self, length: int) -> None:
        self._ahead, self._since = self._ahead - 1, time.monotonic()
        if self._exchange.connection is not None:
            self._exchange.connection.consume(self._exchange.stream, length)


class Flows:
    """Threads for flows, one for each, and room for so many at once; used by the loop's thread alone."""

    def __init__(self, server: "Http2Server", name: str, room: int, told: str) -> None:
        """Let so many be open; `told` is that number, in words for who finds no room, and `name` is the threads'."""
        self._server, self._room, self._told = server, room, told
        self._pool = ThreadPoolExecutor(room, thread_name_prefix=name)

    def begin(self, exchange: Exchange, stream: Stream) -> Flow:
        """Answer a call by `stream`.

        Raises:
            Overloaded: there is no room, or no thread.
        """
        if not self._room:
            raise overloaded(f"no more streams are open than {self._told}", "End one, or call Score")
        flow = Flow(self._server, exchange, stream, self._left)
        try:
            self._pool.submit(flow.run)
        except RuntimeError:  # a thread cannot be started; one that there is may come to it yet
            flow.drop()
            raise overloaded("the machine has a thread for every stream") from None
        self._room -= 1
        return flow

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False)

    def _left(self) -> None:
        self._room += 1
