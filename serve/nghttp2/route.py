"""Route: where a method's calls go: answered at once, in the next turn, by a thread, or by a flow of messages."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ...protos.errors import QuoremError
from ..call import Call, Method, Stream
from ..refusals import check, full, overloaded
from ..services import CONTROL, HEAVY
from ..settings import Limits
from ..statuses import Status
from ..threads import Threads, arrived
from . import health, reflection
from .exchange import Exchange
from .flow import Flow, Flows

if TYPE_CHECKING:
    from ..turn import Turn
    from .server import Http2Server

CONTROL_THREADS = 2  # for what may block
MOST_REFLECTIONS = 16  # streams of those who ask what there is, at once

Prepare = Callable[[bytes, Call], Any]  # what comes of it, transports do not look at
Take = Callable[[Exchange, bytes], None]
Refusal = Callable[[int], QuoremError | None]
Observe = Callable[[str, Call, Status, float], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """A method of the server.

    take: begins a call whose one request is there, and sees to `Exchange.done`; None for a call of many messages,
    flow: which this begins.
    ended: told of every call that is over.
    """

    take: Take | None
    flow: Callable[[Exchange], Flow] | None
    ended: Callable[[Exchange, Status], None]


Asked = tuple[Route, str, bool]  # by a head: the route, the bearer token, whether messages may be compressed


class Routes:
    """The routes by their paths, and the threads that some of them lead to."""

    def __init__(
        self,
        server: "Http2Server",
        methods: Mapping[str, Mapping[str, Method]],
        prepared: Mapping[str, Mapping[str, Prepare]],
        streams: Mapping[str, Mapping[str, Stream]],
        limits: Limits,
        threads: int,
        turn: "Turn | None",
        refusal: Refusal | None,
        observe: Observe | None,
    ) -> None:
        """See `Http2Server`."""
        self._server, self._turn, self._refusal, self._observe = server, turn, refusal, observe
        self.threads, self._control = Threads(threads, "call"), Threads(CONTROL_THREADS, "control")
        self._flows = Flows(server, "stream", limits.max_streams, "--max-streams")
        self._describing = Flows(server, "reflection", MOST_REFLECTIONS, f"{MOST_REFLECTIONS} for reflection")
        self._routes = dict[str, Route]()
        for service, calls in methods.items():
            for name, method in calls.items():
                take = self._taker(name, method, prepared.get(service, {}).get(name))
                self._add(service, name, take, None)
        for service, flows in streams.items():
            for name, stream in flows.items():
                self._add(service, name, None, partial(self._flows.begin, stream=stream))
        checks = server.health
        self._routes[f"/{health.SERVICE}/Check"] = Route(self._at_once(checks.check), None, _untold)
        self._routes[f"/{health.SERVICE}/Watch"] = Route(checks.watch, None, _untold)
        self._routes[f"/{reflection.SERVICE}/{reflection.METHOD}"] = Route(
            None, partial(self._describing.begin, stream=reflection.describe), _untold
        )

    def get(self, path: str) -> Route | None:
        """The route of a path."""
        return self._routes.get(path)

    @property
    def unfinished(self) -> int:
        """Calls for scores that wait or run."""
        return self.threads.unfinished + (self._turn.waiting if self._turn else 0)

    def close(self) -> None:
        """Let the threads end."""
        for pool in (self.threads, self._control):
            pool.shutdown(wait=False)
        self._flows.close()
        self._describing.close()

    def _add(self, service: str, name: str, take: Take | None, flow: Callable[[Exchange], Flow] | None) -> None:
        path = f"/{service}/{name}"

        def ended(exchange: Exchange, status: Status) -> None:
            self._server.live.discard(exchange)
            call = exchange.call
            if self._observe is not None:
                try:
                    self._observe(path, call, status, time.monotonic() - call.arrived)
                except Exception:  # what counts calls must not fail them
                    log.exception("a call that has ended could not be told of")

        self._routes[path] = Route(take, flow, ended)

    def _taker(self, name: str, method: Method, prepare: Prepare | None) -> Take:
        if prepare is not None and self._turn is not None:
            return self._together(prepare, self._turn)
        if name in CONTROL:
            return self._by(self._control, method, None)
        return self._by(self.threads, method, self._refusal) if name in HEAVY else self._in_turn(self._at_once(method))

    def _at_once(self, method: Method) -> Take:
        def take(exchange: Exchange, request: bytes) -> None:
            call = exchange.call
            call.request_bytes = len(request)
            try:
                check(call, stopping=self._server.refusing)
                result = method(request, call)
            except Exception as error:
                result = error
            exchange.done(result)

        return take

    def _in_turn(self, answer: Take) -> Take:
        """For questions: so many may come at once that whoever asks for health must not wait for all of them."""
        questions, most, live = self._server.questions, self._server.bounds.waiting, self._server.live
        schedule = self._server.schedule

        def take(exchange: Exchange, request: bytes) -> None:
            if len(questions) >= most:
                exchange.done(overloaded(f"at most {most} questions wait for their turn"))
                return
            live.add(exchange)
            questions.append((exchange.connection, lambda: answer(exchange, request)))
            schedule()

        return take

    def _together(self, prepare: Prepare, turn: "Turn") -> Take:
        most, live, put, schedule = self._server.bounds.waiting, self._server.live, turn.put, self._server.schedule

        def take(exchange: Exchange, request: bytes) -> None:
            call = exchange.call
            call.request_bytes = len(request)
            if waiting := turn.waiting:
                error = self._refusal(waiting) if self._refusal else None
                if error is None and waiting >= most:
                    error = overloaded(f"at most {most} calls wait for their turn")
                if error is not None:
                    exchange.done(error)
                    return
            if self._server.refusing or call.deadline is not None:
                try:
                    check(call, stopping=self._server.refusing)
                except QuoremError as error:
                    exchange.done(error)
                    return
            live.add(exchange)
            put(prepare, request, call, exchange.done)
            schedule()

        return take

    def _by(self, pool: Threads, method: Method, refusal: Refusal | None) -> Take:
        def work(exchange: Exchange, request: bytes) -> None:
            arrived()
            try:
                check(exchange.call, stopping=self._server.refusing)
                result = method(request, exchange.call)
            except Exception as error:
                result = error
            self._server.soon(exchange.done, result)

        def take(exchange: Exchange, request: bytes) -> None:
            exchange.call.request_bytes = len(request)
            error = (refusal(pool.unfinished) if refusal else None) or full(pool)
            if error is not None:
                exchange.done(error)
                return
            self._server.live.add(exchange)
            pool.submit(work, exchange, request)

        return take


def _untold(_exchange: Exchange, _status: Status) -> None:
    """Of calls that are no business of the models'."""
