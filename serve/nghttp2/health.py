"""Health: grpc.health.v1, asked and watched; used by the loop's thread alone."""

from grpc_health.v1 import health_pb2 as pb

from ...protos.errors import NotFound
from ..call import Call
from ..messages import parse
from .exchange import Exchange

SERVICE = "grpc.health.v1.Health"
KINDS = pb.HealthCheckResponse


class Health:
    """The statuses of the server's names, the empty one its own, and who is told of their changes."""

    def __init__(self) -> None:
        self._serving = {"": True}
        self._watchers = dict[Exchange, str]()
        self._over = False

    def set(self, name: str, serving: bool) -> None:
        """Report a name as SERVING or NOT_SERVING from now on; nothing changes once health is refused."""
        if self._over:
            return
        self._serving[name] = serving
        for watcher, watched in list(self._watchers.items()):
            if not watcher.is_wanted():
                self._drop(watcher)
            elif watched == name:
                watcher.send(self._reply(name))

    def refuse(self) -> None:
        """Report NOT_SERVING from now on, and end the calls that watch."""
        for name in list(self._serving):
            self.set(name, False)
        self._over = True
        for watcher in list(self._watchers):
            self._drop(watcher)

    def check(self, request: bytes, _call: Call) -> bytes:
        """Answer a serialized HealthCheckRequest.

        Raises:
            NotFound: a name that the server does not know.
            InputError: no such message.
        """
        name = parse(pb.HealthCheckRequest, "grpc.health.v1.HealthCheckRequest", request).service
        if name not in self._serving:
            raise NotFound("a check names a service or a model that is served", found=repr(name[:64]), where="service")
        return self._reply(name)

    def watch(self, exchange: Exchange, request: bytes) -> None:
        """Send a name's status now and whenever it changes."""
        try:
            name = parse(pb.HealthCheckRequest, "grpc.health.v1.HealthCheckRequest", request).service
        except Exception as error:
            exchange.done(error)
            return
        for watcher in [each for each in self._watchers if not each.is_wanted()]:
            self._drop(watcher)
        self._watchers[exchange] = name
        exchange.send(self._reply(name))
        if self._over:
            self._drop(exchange)

    def _drop(self, watcher: Exchange) -> None:
        del self._watchers[watcher]
        watcher.done(None)

    def _reply(self, name: str) -> bytes:
        serving = self._serving.get(name)
        kind = KINDS.SERVICE_UNKNOWN if serving is None else KINDS.SERVING if serving else KINDS.NOT_SERVING
        return KINDS(status=kind).SerializeToString()
