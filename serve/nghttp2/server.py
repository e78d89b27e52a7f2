"""Server: the port on libnghttp2 that answers calls from `start` until `drain` is over, in one thread with one loop.

A turn: what has arrived on all connections is read; probes and questions are answered at once, calls for scores put
together; then one batch is computed, everything is sent, and the next turn begins.
"""

import asyncio
import ctypes
import gc
import logging
import random
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop

from ..call import Method, Stream
from ..certificates import Certificates
from ..refusals import overloaded
from ..settings import Limits
from ..statuses import Status
from . import library
from .bounds import Bounds
from .connection import NOTICE_S, Connection
from .exchange import Exchange
from .head import read
from .health import Health
from .reply import Refused
from .route import Asked, Observe, Prepare, Refusal, Routes
from .session import Session
from .tls import context

MOST_HEADS = 4096  # that are remembered: callers send the same ones again and again
SWEEP_S = 0.5
POLL_S = 0.005
SHARE_S = 0.001  # of a turn, for what a loss does to connections, what time does, and calls that are not for scores
MANY, TRIM_S, TRIM_FEW_S = 64, 2.0, 5.0  # seconds until the memory of many connections, or few, is given back
COLLECT_S, FEW = 30.0, 1000  # all garbage is looked for now and then, while few calls are open
CLOSE_S = 2.0  # for connections that were cut off to be forgotten
LINGER_S = 0.1  # for the last replies to reach their callers
EVICT_S = 1.0  # idle for so long, a connection makes room for another one
LOOK_S = 0.1  # between two looks for such connections
BACKLOG = 4096
ACCEPTS = 64  # connections a turn: uvloop takes one, of each of so many handles of the one listener

T = TypeVar("T")
Chore = tuple[Connection | None, Callable[[], None]]  # for whom

if TYPE_CHECKING:
    from ..turn import Turn

log = logging.getLogger(__name__)


class Http2Server:
    """A port with gRPC on it. Public methods may be called by any thread but the loop's own."""

    def __init__(
        self,
        methods: Mapping[str, Mapping[str, Method]],
        streams: Mapping[str, Mapping[str, Stream]],
        limits: Limits,
        healthy: Iterable[str],
        certificates: Certificates | None = None,
        *,
        refusal: Refusal | None = None,
        observe: Observe | None = None,
        threads: int = 4,
        prepared: Mapping[str, Mapping[str, Prepare]] | None = None,
        turn: "Turn | None" = None,
        bounds: Bounds | None = None,
    ) -> None:
        """Prepare a server; nothing listens yet.

        Args:
            methods: as `GrpcServer` has them.
            streams: as there.
            limits: as there.
            healthy: as there.
            certificates: of TLS; none for a port that anybody may read along.
            refusal: as there.
            observe: as there.
            threads: that compute scores of methods that are not prepared.
            prepared: service -> method -> what prepares its calls for `turn`; those in neither are computed by threads.
            turn: computes calls together in the loop's thread.
            bounds: of connections.

        Raises:
            Unavailable: libnghttp2 cannot be used here.
        """
        self.bounds, self.most = bounds or Bounds(), limits.max_request_bytes
        self.refusing, self.reading_s = False, 0.0  # reading_s: what has been read since the last turn took so long
        self.live, self.counts = set[Exchange](), Counter[str]()
        self.questions, self._chores, self._sweeps = deque[Chore](), deque[Chore](), deque[Chore]()
        self._queues = (self._chores, self._sweeps, self.questions)
        self.health = Health()
        for name in healthy:
            self.health.set(name, True)
        self._library = library.load()
        self._tls = context(certificates) if certificates else None
        self._routes = Routes(self, methods, prepared or {}, streams, limits, threads, turn, refusal, observe)
        self._scores = turn
        self._heads = dict[bytes, Asked]()
        self._connections = set[Connection]()
        self._held = self._granted = self._ended = 0
        self._looked, self._evictable = 0.0, list[tuple[float, Connection]]()  # since when they are idle, oldest last
        self._collected = time.monotonic()
        self._trimmed, self._trim = 0.0, getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps what is freed
        self._dirty, self._scheduled = list[Connection](), False
        self._loop = uvloop.new_event_loop()
        self._listening = list[asyncio.AbstractServer]()
        self._thread = threading.Thread(target=self._run, name="http2", daemon=True)

    def start(self, host: str, port: int) -> None:
        """Bind and serve at once.

        Raises:
            RuntimeError: the address cannot be bound.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            raise RuntimeError(str(error)) from None
        self._thread.start()
        limits: dict[str, Any] = {"ssl_handshake_timeout": self.bounds.handshake_s} if self._tls else {}
        for sock in (listener, *(listener.dup() for _ in range(ACCEPTS - 1))):
            serving = self._loop.create_server(
                lambda: Connection(self), sock=sock, ssl=self._tls, backlog=BACKLOG, **limits
            )
            self._listening.append(asyncio.run_coroutine_threadsafe(serving, self._loop).result())
        self._do(self._sweep)

    def unfinished(self) -> int:
        """Calls for scores that wait or run."""
        return self._routes.unfinished

    def set_health(self, name: str, *, serving: bool) -> None:
        """Report a name as SERVING or NOT_SERVING from now on, to those that watch it too."""
        self._do(lambda: self.health.set(name, serving))

    def refuse_health(self) -> None:
        """Report NOT_SERVING from now on, and end the calls that watch."""
        self._do(self.health.refuse)

    def drain(self, grace_s: float) -> None:
        """Let connections end; return when the calls that began before are answered, or the time is over.

        Callers are told by two GOAWAYs, so that no call is lost between them. Calls on new connections are refused
        (UNAVAILABLE). A stream that waits for its next request is not waited for.
        """
        deadline = time.monotonic() + grace_s
        self._do(lambda: [each.announce() for each in self._connections])
        time.sleep(min(NOTICE_S, grace_s / 4))
        self._do(self._refuse)
        while (self.live or self._do(self._unsent)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        time.sleep(LINGER_S)

    def close(self) -> None:
        """Cut all connections off."""
        self._routes.close()
        if self._thread.is_alive():
            self._do(self._cut)
            until = time.monotonic() + CLOSE_S
            while self._do(self._busy) and time.monotonic() < until:
                time.sleep(POLL_S)
            self._loop.call_soon_threadsafe(self._loop.call_later, POLL_S, self._loop.stop)
            self._thread.join()
        while self._chores:
            self._attempt(*self._chores.popleft())
        self._loop.close()

    # Below: for connections and their calls, in the loop's thread unless said otherwise.

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for a connection, made by one that has long been idle where there is none."""
        self.count("accepted")
        if len(self._connections) >= self.bounds.connections:
            oldest = self._idlest()
            if oldest is None:
                self.count("connections")
                return False
            oldest.end("evicted", 0)
            self.later(NOTICE_S, oldest.cut)
            self._connections.discard(oldest)
        self._connections.add(connection)
        return True

    def _idlest(self) -> Connection | None:
        """Who has been idle for longest, and for long enough; all are looked at a few times a second at most."""
        now = time.monotonic()
        while self._evictable:
            idle, each = self._evictable.pop()
            if each.idle == idle and each in self._connections:
                return each
        if now < self._looked + LOOK_S:
            return None
        since = [(each.idle or 0.0, each) for each in self._connections if each.idle is not None]
        long = [(idle, each) for idle, each in since if idle + EVICT_S <= now]
        self._looked, self._evictable = now, sorted(long, key=lambda pair: pair[0], reverse=True)
        return self._evictable.pop()[1] if long else None

    def dismiss(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self._ended += 1
        self.hold(connection, 0)

    def session(self) -> Session:
        """For a new connection."""
        return self._library.session(self.bounds)

    def age_s(self) -> float:
        """How old a new connection may become; differs by a tenth, so that they do not all end together."""
        return self.bounds.age_s * random.uniform(0.9, 1.1)

    def asked(self, fields: bytes) -> Asked:
        """The route of a head, its token, and whether its messages may be compressed.

        Raises:
            Refused: see head.py; a method that the server does not have.
        """
        if (known := self._heads.get(fields)) is None:
            head = read(fields)
            route = self._routes.get(head.path)
            if route is None:
                raise Refused(Status.UNIMPLEMENTED, "This server has no such method")
            if len(self._heads) >= MOST_HEADS:
                self._heads.clear()
            known = self._heads[fields] = route, head.token, head.gzip
        return known

    def hold(self, connection: Connection, held: int) -> None:
        """Count the bytes that a connection holds; where all together hold too many, its open requests end."""
        self._held += held - connection.held
        connection.held = held
        if self._held > self.bounds.all_bytes and held:
            for exchange in [each for each in connection.exchanges.values() if not each.whole and not each.flow]:
                self.count("bytes")
                exchange.done(overloaded("a server holds so many bytes of requests"))
            self._held += connection.holds - connection.held
            connection.held = connection.holds

    def grant(self, length: int, before: int) -> bool:
        """Take room for a long message, instead of what its stream had before; whether there is."""
        others = self._granted - before
        if length > before and others and others + length > self.bounds.all_bytes:
            return False
        self._granted = others + length
        return True

    def count(self, what: str) -> None:
        """Count a connection, or why one ended."""
        self.counts[what] += 1

    def wake(self, connection: Connection) -> None:
        """Have a connection flushed at the end of the turn."""
        if not connection.dirty:
            connection.dirty = True
            self._dirty.append(connection)
            self.schedule()

    def defer(self, connection: Connection, chore: Callable[[], None]) -> None:
        """Do for a connection what may take long, before scores are computed; much of it over several turns."""
        self._chores.append((connection, chore))
        self.schedule()

    def schedule(self) -> None:
        """Have a turn come."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def later(self, delay_s: float, function: Callable[[], None]) -> None:
        """Call a function of the loop's thread in a while."""
        self._loop.call_later(delay_s, function)

    def soon(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function in the loop's thread; from any thread."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # it has ended
            return

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _do(self, function: Callable[[], T]) -> T | None:
        """Call a function in the loop's thread and wait for what it returns; at once where that does not run."""
        if not self._thread.is_alive():
            return function()
        found = Future[T]()

        def call() -> None:
            try:
                found.set_result(function())
            except Exception as error:
                found.set_exception(error)

        self._loop.call_soon_threadsafe(call)
        return found.result()

    def _turn(self) -> None:
        self.reading_s = 0.0
        for queue in self._queues:  # none waits for the end of another
            if queue:
                self._share(queue)
        self._flush()
        scores, more = self._scores, any(self._queues)
        if scores is not None and scores.waiting:
            try:
                more |= scores.step()
            except Exception:
                log.exception("a turn failed")
            self._flush()
        self._scheduled = more
        if more:
            self._loop.call_soon(self._turn)

    def _share(self, queue: deque[Chore]) -> None:
        until = time.monotonic() + SHARE_S
        while queue:
            self._attempt(*queue.popleft())
            if time.monotonic() >= until:
                return

    def _attempt(self, connection: Connection | None, chore: Callable[[], None]) -> None:
        """Do something for a connection; if that fails, only the connection ends."""
        try:
            chore()
        except Exception:
            log.exception("a connection is cut off, for its part of a turn failed")
            if connection is not None:
                connection.abort("failed")

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            self._attempt(connection, connection.flush)

    def _sweep(self) -> None:
        now = time.monotonic()
        self._evictable.clear()  # it would keep those that have ended
        if not self._sweeps:  # the last look at all of them is over
            self._sweeps.extend((each, partial(each.sweep, now)) for each in self._connections)
            self.schedule()
        if self._trim and self._ended and now - self._trimmed > (TRIM_S if self._ended >= MANY else TRIM_FEW_S):
            self._ended, self._trimmed = 0, now
            self._trim(0)
        if now - self._collected > COLLECT_S and sum(len(each.exchanges) for each in self._connections) < FEW:
            self._collected = now
            gc.collect()
        self._loop.call_later(SWEEP_S, self._sweep)

    def _refuse(self) -> None:
        self.refusing = True
        for connection in list(self._connections):
            connection.leave()

    def _cut(self) -> None:
        for listening in self._listening:
            listening.close()
        for connection in list(self._connections):
            connection.abort("closed")

    def _busy(self) -> bool:
        return bool(self._connections or any(self._queues))

    def _unsent(self) -> bool:
        return any(connection.unsent for connection in self._connections)
