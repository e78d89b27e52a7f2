"""gRPC: the transport that carries the methods' bytes, on grpcio's server, with grpc.health.v1 beside them.

A synchronous server on raw bytes with few threads behind a SimpleQueue is the fastest that grpcio's public interface
allows: a thread pool of the standard library costs 15 to 20 % more CPU a call. What there is no room for is refused by
the thread that met it, before its message is read.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from functools import partial
from threading import BoundedSemaphore
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ..protos.errors import QuoremError
from .call import Call, Method, Stream
from .health import Health
from .reflection import add_reflection
from .refusals import check, full, gone, overloaded
from .services import CONTROL, HEAVY
from .settings import Limits
from .statuses import Status, ending, status_of
from .threads import OWN_POOL, AtOnce, Threads, arrived

THREADS = 4  # measured: fewer wait for one another, more take turns
ASIDE_THREADS = CONTROL_THREADS = 2
POLL_S = 0.005  # how often a drain looks for calls that are still live
LINGER_S = 0.1  # for the last replies to reach their callers before connections end
FOREVER_S = 1e8  # gRPC tells no deadline as one in centuries
BEARER = "bearer "
CODES = {code.value[0]: code for code in grpc.StatusCode}
OPTIONS = [
    ("grpc.so_reuseport", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 1024),  # of one connection; its caller keeps the others back
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
]

Refusal = Callable[[int], QuoremError | None]
Observe = Callable[[str, Call, Status, float], None]

log = logging.getLogger(__name__)


class GrpcServer(grpc.GenericRpcHandler):
    """A port that answers calls from `start` until `drain` is over."""

    def __init__(
        self,
        methods: Mapping[str, Mapping[str, Method]],
        streams: Mapping[str, Mapping[str, Stream]],
        limits: Limits,
        healthy: Iterable[str],
        credentials: grpc.ServerCredentials | None = None,
        *,
        refusal: Refusal | None = None,
        observe: Observe | None = None,
        threads: int = THREADS,
    ) -> None:
        """Prepare a server; nothing listens yet.

        Args:
            methods: service -> method -> function.
            streams: service -> method -> function, for calls of many requests and many replies.
            limits: the greatest message taken, and how many streams may be open at once.
            healthy: names that `grpc.health.v1` reports as SERVING, beside the server's own empty name.
            credentials: of TLS; none for a port that anybody may read along.
            refusal: why there is no room for one more score beside so many unfinished ones, if so. Must not block.
            observe: told of every call that has ended: its path, the call, its status and its seconds since it arrived.
            threads: that compute scores.
        """
        self._credentials, self._refusal, self._observe = credentials, refusal, observe
        self._threads = Threads(threads, "call")
        # Questions that cost nothing have threads of their own: a probe is answered however many scores are waiting.
        self._probes, self._aside = Threads(1, "health"), Threads(ASIDE_THREADS, "aside")
        self._control = Threads(CONTROL_THREADS, "control")
        self._streams = futures.ThreadPoolExecutor(limits.max_streams, thread_name_prefix="stream")
        self._room = BoundedSemaphore(limits.max_streams)
        self._at_once = AtOnce()
        self._live = set[grpc.ServicerContext]()
        self.counts = dict[str, int]()  # of connections, which grpcio does not tell of
        self._refusing = False
        self._chosen = dict[str, Callable[[], grpc.RpcMethodHandler]]()
        for service, calls in methods.items():
            for name, method in calls.items():
                path = f"/{service}/{name}"
                self._chosen[path] = self._unary(path, method, self._pool(name))
        for service, flows in streams.items():
            for name, stream in flows.items():
                path = f"/{service}/{name}"
                self._chosen[path] = self._stream(path, stream)
        options = [*OPTIONS, ("grpc.max_receive_message_length", limits.max_request_bytes)]
        if limits.max_connection_age_s:
            options.append(("grpc.max_connection_age_ms", round(1000 * limits.max_connection_age_s)))
        self._server = grpc.server(self._threads, handlers=[self], options=options)
        self._health = Health(self._probes)
        for name in healthy:
            self.set_health(name, serving=True)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._describing = add_reflection(self._server)

    def start(self, host: str, port: int) -> None:
        """Bind and serve at once: a port that is bound but not served swallows connections.

        Raises:
            RuntimeError: the address cannot be bound.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if self._credentials is None:
            self._server.add_insecure_port(address)
        else:
            self._server.add_secure_port(address, self._credentials)
        self._server.start()

    def unfinished(self) -> int:
        """Calls for scores that wait or run."""
        return self._threads.unfinished

    def set_health(self, name: str, *, serving: bool) -> None:
        """Report a name as SERVING or NOT_SERVING from now on, to those that watch it too."""
        kinds = health_pb2.HealthCheckResponse
        self._health.set(name, kinds.SERVING if serving else kinds.NOT_SERVING)

    def refuse_health(self) -> None:
        """Report NOT_SERVING from now on, and end the streams that watch."""
        self._health.enter_graceful_shutdown()
        self._health.end_watches()

    def drain(self, grace_s: float) -> None:
        """Refuse new calls (UNAVAILABLE); return when those that began before are answered, or the time is over.

        A stream that waits for its next request is not waited for. gRPC's own `stop` answers calls that it has received
        and not yet handed over with CANCELLED, which tells a caller nothing; a connection that ends with its process is
        UNAVAILABLE too.
        """
        self._refusing = True
        deadline = time.monotonic() + grace_s
        while self._live and time.monotonic() < deadline:
            time.sleep(POLL_S)
        time.sleep(LINGER_S)

    def close(self) -> None:
        """Cut all connections off."""
        self._server.stop(None)
        for pool in (self._threads, self._probes, self._aside, self._control, self._streams, self._describing):
            pool.shutdown(wait=False)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """What answers a call; gRPC asks it in the one thread that takes all calls in, so it must not block."""
        chosen = self._chosen.get(handler_call_details.method)
        return chosen() if chosen else None

    def _pool(self, name: str) -> Threads:
        return self._threads if name in HEAVY else self._control if name in CONTROL else self._aside

    def _unary(self, path: str, method: Method, pool: Threads) -> Callable[[], grpc.RpcMethodHandler]:
        def handle(request: bytes | None, context: grpc.ServicerContext) -> bytes:
            call, status = _call_of(context), Status.OK
            try:
                self._begin(call, context)
                forget = partial(self._live.discard, context)  # once the reply is out, not before
                if not context.add_callback(forget):
                    forget()
                    raise gone()
                if request is None:  # gRPC's word for a message that never came
                    raise gone()
                call.request_bytes = len(request)
                reply = method(request, call)
                call.reply_bytes = len(reply)
                return reply
            except Exception as error:
                status = status_of(error)
                _abort(error, context)
            finally:
                self._ended(path, call, status)

        setattr(handle, OWN_POOL, pool)
        handler = grpc.unary_unary_rpc_method_handler(handle)
        refused, refusal = self._refused(path), self._refusal if pool is self._threads else None

        def chosen() -> grpc.RpcMethodHandler:
            error = (refusal(pool.unfinished) if refusal else None) or full(pool)
            return refused(error) if error else handler

        return chosen

    def _stream(self, path: str, stream: Stream) -> Callable[[], grpc.RpcMethodHandler]:
        def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            call, status = _call_of(context), Status.CANCELLED
            try:
                if not context.add_callback(self._room.release):
                    self._room.release()
                    raise gone()
                for reply in stream(self._taken(requests, call, context), call):
                    call.reply_bytes += len(reply)
                    yield reply
                if context.is_active():  # grpcio may tell that a caller has gone as the end of its requests, at first
                    status = Status.OK
            except grpc.RpcError:
                raise  # the caller has gone, which grpcio knows
            except Exception as error:
                status = status_of(error)
                _abort(error, context)
            finally:
                self._live.discard(context)
                self._ended(path, call, status)

        setattr(handle, OWN_POOL, self._streams)
        handler, refused = grpc.stream_stream_rpc_method_handler(handle), self._refused(path)

        def chosen() -> grpc.RpcMethodHandler:
            if self._room.acquire(blocking=False):
                return handler
            return refused(overloaded("no more streams are open than --max-streams", "End one, or call Score"))

        return chosen

    def _taken(self, requests: Iterator[bytes], call: Call, context: grpc.ServicerContext) -> Iterator[bytes]:
        """A stream's requests; it is live from one's arrival until the next is asked for, when its reply is out."""
        for request in requests:
            self._begin(call, context)
            call.request_bytes += len(request)
            yield request
            self._live.discard(context)

    def _begin(self, call: Call, context: grpc.ServicerContext) -> None:
        """Hold a drain up from now on; or refuse what nobody can or does wait for."""
        self._live.add(context)  # before the look at `_refusing`: a drain misses no call that begins
        try:
            check(call, stopping=self._refusing)
        except QuoremError:
            self._live.discard(context)  # or callers that try again and again would keep the drain waiting
            raise

    def _refused(self, path: str) -> Callable[[QuoremError], grpc.RpcMethodHandler]:
        """What ends a call without a look at its message: as a stream, of which nothing need be read."""
        why: QuoremError

        def handle(_requests: Any, context: grpc.ServicerContext) -> NoReturn:
            call = Call()
            try:
                _abort(why, context)
            finally:
                self._ended(path, call, status_of(why))

        setattr(handle, OWN_POOL, self._at_once)
        handler = grpc.stream_stream_rpc_method_handler(handle)

        def refused(error: QuoremError) -> grpc.RpcMethodHandler:
            nonlocal why
            why = error  # for the very next call: one thread chooses and refuses
            return handler

        return refused

    def _ended(self, path: str, call: Call, status: Status) -> None:
        if self._observe is not None:
            try:
                self._observe(path, call, status, time.monotonic() - call.arrived)
            except Exception:  # what counts calls must not fail them
                log.exception("a call that has ended could not be told of")


def _call_of(context: grpc.ServicerContext) -> Call:
    left_s = context.time_remaining()
    token = ""
    for key, value in context.invocation_metadata():
        if key == "authorization" and isinstance(value, str) and value[: len(BEARER)].lower() == BEARER:
            token = value[len(BEARER) :]
    deadline = None if left_s is None or left_s > FOREVER_S else time.monotonic() + left_s
    return Call(deadline, context.is_active, arrived(), token)


def _abort(error: Exception, context: grpc.ServicerContext) -> NoReturn:
    """End a call with the error's status."""
    status, message, metadata = ending(error)
    if metadata:
        context.set_trailing_metadata(tuple(metadata.items()))
    context.abort(CODES[status], message)
    raise AssertionError("abort always raises")
