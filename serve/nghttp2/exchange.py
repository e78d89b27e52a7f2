"""Exchange: one call on one stream of a connection, from its head to its reply.

    HEADERS ──▶ open ──END_STREAM──▶ whole ──▶ at work ──▶ answered ──sent──▶ closed
                 │                     │          │
                 ├── a bad head, too long a message, too slow: refused by trailers, then RST_STREAM(NO_ERROR)
                 └── RST_STREAM, the connection's end, the deadline: nobody waits, the work is dropped where it stands

What comes in one read from HEADERS to END_STREAM is never seen open. A stream of many messages is at work while it is
open: flow.py. `done` is told once by whoever was given the call, also when nobody waits any more.
"""

from typing import TYPE_CHECKING

from ...protos.errors import TooLate
from ..call import Call
from ..refusals import gone
from ..statuses import Status
from .reply import HEADERS, OK, headers, status, trailers

if TYPE_CHECKING:
    from .connection import Connection
    from .flow import Flow
    from .route import Asked


class Exchange:
    """A call that has begun and is not over; used by the loop's thread alone, but for `is_wanted`."""

    __slots__ = ("_replied", "_status", "begun", "call", "connection", "flow", "gzip", "route", "stream", "whole")

    def __init__(
        self, connection: "Connection", stream: int, asked: "Asked", now: float, deadline: float | None
    ) -> None:
        self.connection: Connection | None = connection  # while somebody waits for the reply
        self.route, token, self.gzip = asked
        self.stream, self.begun, self.call = stream, now, Call(deadline, self.is_wanted, now, token)
        self.flow: Flow | None = None
        self.whole = self._replied = False
        self._status = Status.CANCELLED

    def is_wanted(self) -> bool:
        """Whether the caller still waits."""
        return self.connection is not None

    def send(self, message: bytes) -> None:
        """Send one message of a reply that has several."""
        self.call.reply_bytes += len(message)
        if self.connection is not None:
            self.connection.reply(self.stream, b"" if self._replied else HEADERS, message, b"")
            self._replied = True

    def done(self, result: bytes | Exception | None) -> None:
        """End the call: with the reply, with an error, or (None) after the last message."""
        if self.connection is not None:
            self._answer(self.connection, result)
        self.route.ended(self, self._status)
        self.call.is_wanted = _never  # or the two would hold each other

    def gone(self) -> None:
        """Nobody waits for the reply any more."""
        self.connection = None
        if self.flow is not None:
            self.flow.end(gone())
        elif not self.whole:
            self.done(None)

    @property
    def half_since(self) -> float | None:
        """Since when a request has come that is not whole; None while there is no such."""
        if self.flow is not None:
            return self.flow.half_since
        return None if self.whole else self.begun

    def refuse(self, error: Exception) -> None:
        """End a call of which a request does not become whole."""
        if self.flow is not None:
            self.flow.end(error)
        else:
            self.done(error)

    def expire(self) -> None:
        """Answer for the work that did not end in time; what it comes to is dropped."""
        connection = self.connection
        if connection is not None:
            self._answer(connection, TooLate("a call ends before its deadline", remedy="Allow it more time"))
            self.gone()

    def _answer(self, connection: "Connection", result: bytes | Exception | None) -> None:
        if isinstance(result, bytes):
            self._status = Status.OK
            self.call.reply_bytes = len(result)
            connection.reply(self.stream, HEADERS, result, OK)
        elif result is None:
            self._status = Status.OK
            connection.reply(self.stream, b"" if self._replied else HEADERS + OK, None, OK if self._replied else b"")
        elif self._replied:
            self._status = status(result)
            connection.reply(self.stream, b"", None, trailers(result))
        else:
            self._status = status(result)
            connection.reply(self.stream, headers(result), None, b"")
        connection.forget(self)
        self.connection = None


def _never() -> bool:
    return False
