"""Health: grpc.health.v1 for names that can be watched, whose watchers can be sent home."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from threading import RLock
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health, health_pb2

from .threads import OWN_POOL


class _Send(Protocol):
    def __call__(self, response: health_pb2.HealthCheckResponse | None, /) -> None: ...


class _Watch:
    """One watcher's stream: `None` ends it, once; what comes later is dropped."""

    def __init__(self, send: _Send) -> None:
        self._send, self._open = send, True

    def __call__(self, response: health_pb2.HealthCheckResponse | None, /) -> None:
        if self._open:
            self._open = response is not None
            self._send(response)


def on(threads: ThreadPoolExecutor, method: Callable[..., Any]) -> Callable[..., Any]:
    """The same method, answered by other threads than the server's."""

    @wraps(method)
    def call(*arguments: Any) -> Any:
        return method(*arguments)

    setattr(call, OWN_POOL, threads)
    return call


class Health(health.HealthServicer):
    """grpcio's health service, whose watchers can be sent home: an open stream would hold a drain until its end."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        """Answer on `threads`, apart from all other calls."""
        super().__init__()
        for name in ("Check", "Watch"):
            setattr(self, name, on(threads, getattr(self, name)))
        self._watches, self._closed, self._guard = set[_Watch](), False, RLock()

    def Watch(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]  # the protocol's name; always by callback
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext, send_response_callback: _Send
    ) -> None:
        """Stream a name's status; answered by callbacks, so that a watcher holds no thread."""
        watch = _Watch(send_response_callback)
        with self._guard:
            super().Watch(request, context, watch)
            self._watches.add(watch)
            context.add_callback(lambda: self._forget(watch))
            if self._closed:
                watch(None)

    def end_watches(self) -> None:
        """End all streams, and later ones after their first message."""
        with self._guard:
            self._closed = True
            for watch in self._watches:
                watch(None)

    def _forget(self, watch: _Watch) -> None:
        with self._guard:
            self._watches.discard(watch)
