"""Worker: one process that opens every model, then takes its share of the port until it is told to stop."""

import logging
import os
import signal
import time
from multiprocessing.connection import Connection, wait

from ..protos.errors import QuoremError, Unavailable
from .settings import Settings

NOTICE_S = 1.0  # how long calls are still served after health says NOT_SERVING, so that callers turn elsewhere
NOTICE_SHARE = 0.1  # of the grace, where that is less


def main(settings: Settings, core: int | None, pipe: Connection) -> None:
    """Serve until the supervisor says so or is gone, or SIGTERM comes.

    Tells the supervisor {"ready": pid} or {"failed": a QuoremError as a dict}.
    """
    if core is not None:
        os.sched_setaffinity(0, {core})  # before any library counts the cores
    stop = _stop_pipe()
    logging.basicConfig(format=f"%(asctime)s worker {os.getpid()} %(levelname)s %(message)s")
    from .grpc_transport import GrpcServer
    from .methods import refused_streams, unary
    from .model import Model
    from .repository import Repository
    from .services import INFERENCE, SCORER

    try:
        models = [Model(version, settings.device) for version in settings.versions]
        for model in models:
            model.warm()
        repository = Repository(models, settings.limits)
        if pipe.poll():  # told to stop before it served
            return
        healthy = [SCORER, INFERENCE, *repository.names]
        server = GrpcServer(unary(repository), refused_streams(), settings.limits, healthy)
        try:
            server.start(settings.host, settings.port)
        except RuntimeError as error:
            raise Unavailable(
                "the address can be bound", found=str(error), where=f"{settings.host}:{settings.port}"
            ) from None
    except QuoremError as error:
        pipe.send({"failed": error.as_dict()})
        raise SystemExit(1) from None
    try:
        pipe.send({"ready": os.getpid()})
        wait([pipe, stop])  # a word, the supervisor's end, or a signal: all mean the same
    except BrokenPipeError:
        pass  # the supervisor is gone
    repository.serving = False
    server.refuse_health()
    notice_s = min(NOTICE_S, NOTICE_SHARE * settings.grace_s)
    time.sleep(notice_s)
    server.drain(settings.grace_s - notice_s)
    logging.shutdown()
    os._exit(0)  # connections end with the process, where gRPC's own shutdown would cancel what callers just sent


def _stop_pipe() -> int:
    """A file descriptor that becomes readable on SIGTERM; Ctrl-C in a terminal is the supervisor's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    readable, writable = os.pipe()  # both ends stay open until the process ends
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    return readable
