"""gRPC: the transport that carries the methods' bytes, on grpcio's server, with grpc.health.v1 beside them.

A synchronous server on raw bytes with few threads behind a SimpleQueue is the fastest that grpcio's public interface
allows: a thread pool of the standard library costs 15 to 20 % more CPU a call.
"""

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ..protos.errors import QuoremError, Unavailable
from .health import OWN_POOL, Health
from .methods import Method
from .settings import Limits
from .statuses import Status, message_of, status_of

THREADS = 4  # measured: fewer wait for one another, more take turns
ASIDE_THREADS = 2
HEAVY = ("Score", "ModelInfer")
POLL_S = 0.005  # how often a drain looks for calls that are still live
LINGER_S = 0.1  # for the last replies to reach their callers before connections end
CODES = {code.value[0]: code for code in grpc.StatusCode}

log = logging.getLogger(__name__)


class GrpcServer:
    """A port that answers calls from `start` until `drain` is over."""

    def __init__(
        self,
        methods: dict[str, dict[str, Method]],
        refused_streams: dict[str, dict[str, Callable[[], None]]],
        limits: Limits,
        healthy: Iterable[str],
    ) -> None:
        """Prepare a server; nothing listens yet.

        Args:
            methods: service -> method -> function.
            refused_streams: service -> streaming method -> function that raises why there is none.
            limits: the greatest message taken.
            healthy: names that `grpc.health.v1` reports as SERVING, beside the server's own empty name.
        """
        options = [
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", limits.max_request_bytes),
            ("grpc.max_send_message_length", -1),
        ]
        self._threads = _Threads(THREADS)
        # Questions that cost nothing have threads of their own: a probe is answered however many scores are waiting.
        self._aside = futures.ThreadPoolExecutor(ASIDE_THREADS, thread_name_prefix="aside")
        self._server = grpc.server(self._threads, options=options)  # pyright: ignore[reportArgumentType]  # any Executor
        self._live = set[grpc.ServicerContext]()
        self._refusing = False
        for service, calls in methods.items():
            handlers = {
                name: grpc.unary_unary_rpc_method_handler(self._unary(call, heavy=name in HEAVY))
                for name, call in calls.items()
            }
            for name, refuse in refused_streams.get(service, {}).items():
                handlers[name] = grpc.stream_stream_rpc_method_handler(_refusal(refuse))
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._health = Health(self._aside)
        for name in healthy:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def start(self, host: str, port: int) -> None:
        """Bind and serve at once: a port that is bound but not served swallows connections.

        Raises:
            RuntimeError: the address cannot be bound.
        """
        self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        self._server.start()

    def refuse_health(self) -> None:
        """Report NOT_SERVING from now on, and end the streams that watch."""
        self._health.enter_graceful_shutdown()
        self._health.end_watches()

    def drain(self, grace_s: float) -> None:
        """Refuse new calls (UNAVAILABLE); return when those that began before are answered, or the time is over.

        gRPC's own `stop` answers calls that it has received and not yet handed over with CANCELLED, which tells a
        caller nothing; a connection that ends with its process is UNAVAILABLE too.
        """
        self._refusing = True
        deadline = time.monotonic() + grace_s
        while self._live and time.monotonic() < deadline:
            time.sleep(POLL_S)
        time.sleep(LINGER_S)

    def close(self) -> None:
        """Cut all connections off."""
        self._server.stop(None)
        self._threads.shutdown()
        self._aside.shutdown(wait=False)

    def _unary(self, method: Method, *, heavy: bool) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                self._live.add(context)  # before the look at `_refusing`: a drain misses no call that begins
                forget = partial(self._live.discard, context)  # once the reply is out, not before
                if not context.add_callback(forget):
                    forget()
                    return b""  # the caller has gone: nobody waits for the answer
                if self._refusing:
                    forget()  # or callers that try again and again would keep the drain waiting
                    raise Unavailable("this server is stopping", remedy="Call another one, or again in a while")
                return method(request)
            except Exception as error:
                return _abort(error, context)

        if not heavy:
            setattr(handle, OWN_POOL, self._aside)
        return handle


def _refusal(refuse: Callable[[], None]) -> Callable[[Any, grpc.ServicerContext], Iterator[bytes]]:
    def handle(_requests: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            refuse()
        except QuoremError as error:
            _abort(error, context)
        return iter(())

    return handle


def _abort(error: Exception, context: grpc.ServicerContext) -> bytes:
    """End a call with the error's status. What nobody foresaw is logged: where it happened, never what was sent."""
    status = status_of(error)
    if isinstance(error, QuoremError) and status != Status.INTERNAL:
        context.abort(CODES[status], message_of(error))
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("a call failed with %s; at\n%s", type(error).__name__, frames)
    context.abort(grpc.StatusCode.INTERNAL, "The server failed; its log says where.")
    raise AssertionError("abort always raises")


class _Done(futures.Future[None]):
    """The future of every call: gRPC only counts completions with it, which matters for limits that are not set."""

    def add_done_callback(self, fn: Callable[[futures.Future[None]], object]) -> None:
        """Forget the callback."""


class _Threads(futures.Executor):
    """Threads behind a SimpleQueue: no lock, future or bookkeeping a call."""

    def __init__(self, count: int) -> None:
        self._queue: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]] | None] = SimpleQueue()
        self._done = _Done()
        self._threads = [Thread(target=self._work, name=f"call-{number}", daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Queue a call; gRPC passes no keywords."""
        self._queue.put((fn, args))
        return self._done

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end once the queue is empty."""
        for _ in self._threads:
            self._queue.put(None)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            function, arguments = job
            try:
                function(*arguments)
            except Exception:
                log.exception("gRPC failed in a call")
            job = function = arguments = None  # a waiting thread keeps no request alive
