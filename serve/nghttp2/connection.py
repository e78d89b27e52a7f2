"""Connection: one caller's connection, from its greeting to its end.

accepted ──TLS, SETTINGS──▶ open ──too old, idle, draining──▶ announced ──▶ left ──no more calls──▶ closed
                              └── no HTTP/2, too much noise, silence, a caller that takes nothing ──▶ closed
"""

import asyncio
import fcntl
import termios
from array import array
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from ...protos.errors import QuoremError
from ..statuses import Status
from .exchange import Exchange
from .head import seconds
from .message import PREFIX, only, size, too_long
from .reply import Refused, headers
from .session import CALM, CLOSED, DATA, END, FLUSH_BYTES, LONG, OPEN, REQUEST, Broken, Code, Session

if TYPE_CHECKING:
    from .server import Http2Server

CALM_S = 100  # of noise that is forgiven a second
LEAST_RATE = 1024  # bytes a second that a caller takes of its replies, or it is stuck
MUCH = 4096  # bytes: to look at them may take a millisecond, if they begin as many calls as they can
READ_S = 0.002  # of a turn; what comes then in large parts waits for the next one, and who has little to say does not
LARGEST = (1 << 31) - 1  # window that HTTP/2 knows
NOTICE_S = 0.5  # between the two GOAWAYs: what the caller began before the first arrived is served


class Connection(asyncio.Protocol):
    """What one caller sends and gets; used by the loop's thread alone."""

    def __init__(self, server: "Http2Server") -> None:
        self._server, self._bounds = server, server.bounds
        self._transport: asyncio.Transport | None = None
        self._session: Session | None = None
        self.exchanges = dict[int, Exchange]()
        self.dirty = False
        self._open = self._paused = self._ending = False
        self._late = list[bytes]()  # read, and not looked at
        self._born = self._heard = self._idle = self._swept = monotonic()
        self._pinged = self._left = self._over = 0.0  # when, if so
        self._stuck, self._sent = self._born, 0
        self._grants, self._asking = dict[int, int](), dict[int, int]()  # bytes by stream; in their order
        self.held = 0
        self._age_s = server.age_s()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the caller."""
        self._transport = cast(asyncio.Transport, transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._server.count("no_h2")
            self._transport.abort()
        elif self._server.admit(self):
            self._open = True
        else:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the caller, and the calls that it waited for."""
        if not self._open:
            return
        self._open = False
        self._server.dismiss(self)
        session, self._session = self._session, None
        if session is None:
            return

        def bury() -> None:
            for exchange in list(self.exchanges.values()):
                self.forget(exchange)
                exchange.gone()
            session.close()

        self._server.defer(self, bury)

    def data_received(self, data: bytes) -> None:
        """Take calls in; what they come to is sent at the end of the turn. Much waits where much has been read."""
        if self._late or (len(data) >= MUCH and self._server.reading_s > READ_S):
            self._late.append(data)
            if len(self._late) == 1:
                self._server.defer(self, self._catch_up)
                self._listen()
        elif self._open:
            self._read(data)

    def _catch_up(self) -> None:
        late, self._late = self._late, []
        for data in late:
            if self._open:
                self._read(data)
        self._listen()

    def _listen(self) -> None:
        """Read on, unless replies are not taken or what was read must wait."""
        if self._transport is not None:
            with suppress(RuntimeError):  # it is closing
                if self._paused or self._late:
                    self._transport.pause_reading()
                else:
                    self._transport.resume_reading()

    def _read(self, data: bytes) -> None:
        session = self._session
        if self._over:
            return
        if session is None:  # only now: many come and go without a word
            session = self._session = self._server.session()
        self._heard = now = monotonic()
        try:
            records, blob = session.feed(data)
        except Broken:
            self.end("protocol", Code.PROTOCOL_ERROR)
            return
        for stream, kind, code, at, head, body, timeout in records:
            exchange, middle, end = self.exchanges.get(stream), at + head, at + head + body
            try:
                if exchange is None:
                    if kind > OPEN:
                        continue  # of a stream that was refused
                    exchange = self._begin(stream, code, blob[at:middle], blob[end : end + timeout], now)
                if kind != REQUEST:
                    self._go_on(exchange, kind, code, blob[middle:end])
                elif (take := exchange.route.take) is not None:
                    exchange.whole = True
                    take(exchange, only(blob, middle, end, exchange.gzip, self._server.most))
                elif exchange.route.flow is not None:
                    exchange.whole = True
                    flow = exchange.route.flow(exchange)
                    flow.feed(blob[middle:end])
                    flow.end()
            except (Refused, QuoremError) as error:
                if exchange is None:
                    self.reply(stream, headers(error), None, b"")
                else:
                    exchange.done(error)
        state = session.state
        if state.held != self.held:
            self._server.hold(self, state.held)
        if state.flooded:
            self.end("flood", Code.ENHANCE_YOUR_CALM, b"too_many_pings")
        if not session.quiet:
            self._server.wake(self)
        self._server.reading_s += monotonic() - now

    def _begin(self, stream: int, long: int, fields: bytes, timeout: bytes, now: float) -> Exchange:
        if long:
            raise Refused(Status.RESOURCE_EXHAUSTED, f"Headers have at most {self._bounds.header_bytes} bytes")
        deadline = now + seconds(timeout) if timeout else None
        exchange = Exchange(self, stream, self._server.asked(fields), now, deadline)
        self.exchanges[stream] = exchange
        return exchange

    def _go_on(self, exchange: Exchange, kind: int, code: int, body: bytes) -> None:
        """Hear of a call whose request did not come as a whole."""
        if kind == CLOSED:
            self.forget(exchange)
            exchange.gone()
        elif exchange.flow is not None:
            if kind == DATA:
                exchange.flow.feed(body)
            elif kind == END:
                exchange.whole = True
                exchange.flow.end()
        elif kind == OPEN:
            if exchange.route.flow is not None:
                flow = exchange.route.flow(exchange)
                assert self._session is not None
                self._session.follow(exchange.stream)
                flow.feed(body)
            elif len(body) >= PREFIX:
                self._long(exchange.stream, size(body), self._server.most)
        elif kind == LONG:
            self._long(exchange.stream, code, self._server.most)

    def _long(self, stream: int, length: int, most: int) -> None:
        if length > most:
            raise too_long(most)
        self.ask(stream, PREFIX + length)

    def ask(self, stream: int, length: int) -> None:
        """Let a stream send a message of so many bytes, once there is room for it."""
        length = min(length, LARGEST)
        if length > max(self._bounds.window, self._grants.get(stream, 0), self._asking.get(stream, 0)):
            self._asking[stream] = length
            self.grant()

    def grant(self) -> None:
        """Let streams that wait send their long messages, as far as there is room; one always may."""
        while self._asking and self._session is not None:
            stream, length = next(iter(self._asking.items()))
            before = self._grants.get(stream, 0)
            others = sum(self._grants.values()) - before
            if (others and others + length > self._bounds.connection_bytes) or not self._server.grant(length, before):
                return
            self._grants[stream] = length
            self._session.grant(stream, length)
            self._server.wake(self)
            del self._asking[stream]

    def forget(self, exchange: Exchange) -> None:
        """An exchange is over, for the caller at least."""
        self.exchanges.pop(exchange.stream, None)
        self._idle = self._heard
        if self._grants or self._asking:
            self._asking.pop(exchange.stream, None)
            self._server.grant(0, self._grants.pop(exchange.stream, 0))
            self.grant()

    def reply(self, stream: int, head: bytes, body: bytes | None, tail: bytes) -> None:
        """See `Session.reply`."""
        if self._session is not None:
            self._session.reply(stream, head, body, tail)
            if not self.dirty:
                self._server.wake(self)

    def consume(self, stream: int, length: int) -> None:
        """See `Session.consume`."""
        if self._session is not None:
            self._session.consume(stream, length)
            self._server.wake(self)

    def flush(self) -> None:
        """Send what there is to send."""
        self.dirty = False
        session, transport = self._session, self._transport
        if session is None or transport is None or self._over:
            return
        try:
            while not self._paused:
                if data := session.take():
                    transport.write(data)
                if len(data) < FLUSH_BYTES:
                    break
        except Broken:
            transport.abort()
            return
        if session.over:
            self._over = monotonic()
            if transport.can_write_eof():
                transport.write_eof()  # to close while the caller still speaks would cut off what it has not read
            else:
                transport.close()

    def pause_writing(self) -> None:
        """Read no more while the caller does not take what it asked for."""
        self._paused = True
        self._listen()

    def resume_writing(self) -> None:
        """Go on."""
        self._paused = False
        self._listen()
        self._server.wake(self)

    def announce(self) -> None:
        """Ask the caller to begin no more calls here."""
        if not self._left:
            self._left = monotonic()
            self._session = self._session or self._server.session()  # what it has just sent is served
            self._session.announce()
            self._server.wake(self)

    def leave(self) -> None:
        """Serve the calls that have begun, and end."""
        if self._session is not None:
            self._session.leave(Code.NO_ERROR)
            self._server.wake(self)

    def end(self, why: str, code: int, debug: bytes = b"") -> None:
        """End now, and count why; who does not take the last words by the next sweep is cut off."""
        self._ending = True
        self._server.count(why)
        if self._session is not None:
            self._session.leave(code, debug)
            self.flush()
        if self._transport is not None:
            self._transport.close()

    @property
    def unsent(self) -> int:
        """Bytes of replies that have not come to the caller's system."""
        return self._session.state.unsent + self._buffered + self._underway() if self._session is not None else 0

    @property
    def _buffered(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _underway(self) -> int:
        """Bytes that the system has, and the caller not: it takes more in steps of up to a megabyte."""
        found = array("i", [0])
        with suppress(OSError, AttributeError):  # where a system does not tell, or there is no socket
            fcntl.ioctl(cast(Any, self._transport).get_extra_info("socket").fileno(), termios.TIOCOUTQ, found)
        return found[0]

    @property
    def holds(self) -> int:
        """Bytes of requests and replies that are here now; `held` of them are counted by the server."""
        return self._session.state.held if self._session is not None else 0

    @property
    def idle(self) -> float | None:
        """Since when there has been no call; None while there is one."""
        return None if self.exchanges else self._idle

    def sweep(self, now: float) -> None:
        """Look at what time does: called about twice a second."""
        session, bounds = self._session, self._bounds
        if self._ending:
            self.cut()
            return
        if session is None:
            if self._open and self._born + bounds.handshake_s <= now:
                self.end("handshake", Code.PROTOCOL_ERROR)
            return
        state, passed_s = session.state, now - self._swept
        self._swept = now
        state.calm = min(CALM, state.calm + int(CALM_S * passed_s))
        for exchange in list(self.exchanges.values()):
            deadline = exchange.call.deadline
            if deadline is not None and deadline <= now:
                exchange.expire()
            elif (since := exchange.half_since) is not None and since + bounds.request_s <= now:
                self._server.count("slow_request")
                exchange.refuse(Refused(Status.DEADLINE_EXCEEDED, f"A request is whole within {bounds.request_s:g} s"))
        self.grant()
        waits = state.unsent > 0 or self._buffered > 0 or self._paused
        sent = state.sent - self._buffered - self._underway() if waits else state.sent
        if not waits or sent - self._sent > LEAST_RATE * passed_s:
            self._stuck = now
        self._sent = sent
        if not state.greeted and self._born + bounds.handshake_s <= now:
            self.end("handshake", Code.PROTOCOL_ERROR)
        elif self._stuck + bounds.stuck_s <= now or state.unsent > bounds.unsent_bytes:
            self.abort("slow_reader")
        elif self._over:
            if not waits and self._over + bounds.leave_s <= now:
                self.cut()
        elif not self._left and not self.exchanges and not waits and self._idle + bounds.idle_s <= now:
            self._retire("idle")
        elif not self._left and self._age_s and self._born + self._age_s <= now:
            self._retire("age")
        elif self._left and self._left + bounds.leave_s <= now and not self._server.refusing:  # a drain knows its time
            self.abort("leave")
        elif not self._paused:
            self._keep(session, now)
        if state.held != self.held:
            self._server.hold(self, state.held)

    def _keep(self, session: Session, now: float) -> None:
        """Ping a caller that is silent, and end with one that stays so."""
        if self._heard > self._pinged:
            self._pinged = 0.0
        if self._pinged and self._pinged + self._bounds.keepalive_timeout_s <= now:
            self.abort("keepalive")
        elif not self._pinged and self._heard + self._bounds.keepalive_s <= now:
            self._pinged = now
            session.ping()
            self._server.wake(self)

    def _retire(self, why: str) -> None:
        self._server.count(why)
        self.announce()
        self._server.later(NOTICE_S, self.leave)

    def abort(self, why: str) -> None:
        """Cut the caller off, and count why."""
        self._server.count(why)
        self.cut()

    def cut(self) -> None:
        """Cut the caller off."""
        if self._transport is not None:
            self._transport.abort()
