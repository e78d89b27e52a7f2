"""Worker: one process that opens every model, then takes its share of the port until it is told to stop."""

import gc
import logging
import os
import signal
import time
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..protos.errors import QuoremError, Unavailable
from .call import Call
from .catalogue import Catalogue
from .settings import Settings, Version

if TYPE_CHECKING:
    from .grpc_transport import GrpcServer, Observe
    from .line import Line
    from .nghttp2.server import Http2Server
    from .repository import Repository

GARBAGE = 700, 10, 1_000_000  # a look at all that lives may take longer than a probe may wait: see server.py
NOTICE_S = 1.0  # how long calls are still served after health says NOT_SERVING, so that callers turn elsewhere
BATCHED = 32  # threads of calls that are computed together: a batch has no more of them
NOTICE_SHARE = 0.1  # of the grace, where that is less


def main(settings: Settings, core: int | None, pipe: Connection) -> None:
    """Serve until the supervisor says so or is gone, or SIGTERM comes.

    Tells the supervisor ("ready", pid) or ("failed", a QuoremError as a dict); after that, see line.py.
    """
    if core is not None:
        os.sched_setaffinity(0, {core})  # before any library counts the cores
    if settings.transport.name == "grpcio":  # whose threads would interrupt one another: a tenth less of CPU a call
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # or a line for every scan of the port
    stop = _stop_pipe()
    logging.basicConfig(format=f"%(asctime)s worker {os.getpid()} %(levelname)s %(message)s")
    from .access_log import AccessLog
    from .line import Line
    from .methods import STREAMS
    from .model import Model
    from .repository import Repository
    from .services import INFERENCE, SCORER
    from .statuses import Status

    opened = dict[Version, Model]()

    changing = Lock()  # duties may overlap

    def open_(version: Version) -> None:
        model = Model(version, settings.device)
        model.warm()
        with changing:
            opened[version] = model

    def serve(catalogue: Catalogue) -> None:
        for version in [each for each in catalogue.all if each not in opened]:
            open_(version)  # what an earlier word dropped meanwhile
        with changing:
            gone = set(repository.names) - set(catalogue.names)
            repository.replace([opened[version] for version in catalogue.all], catalogue.labels)
            for name in (*catalogue.names, *gone):
                server.set_health(name, serving=name not in gone)
            repository.statistics.keep([(version.name, version.number) for version in catalogue.all])
            for version in opened.keys() - set(catalogue.all):
                del opened[version]  # it leaves memory with the last call that runs on it

    def observe(path: str, call: Call, status: Status, total_s: float) -> None:
        method = path.rpartition("/")[2]
        if method not in STREAMS or not call.request_bytes:  # requests of streams were counted as they were answered
            times = call.queue_ns, call.encode_ns, call.compute_ns, int(1e9 * total_s)
            repository.statistics.record(call, method, status, *times)
        if log:
            log.record(path[1:], call, status, total_s)

    def count() -> dict[str, Any]:
        counts = repository.statistics.snapshot() | {"connections": dict(server.counts)}
        return counts | ({"access_log_dropped": log.dropped} if log else {})

    try:
        for version in settings.catalogue.all:
            open_(version)
        repository = Repository(list(opened.values()), settings.limits, settings.catalogue.labels)
        if pipe.poll():  # told to stop before it served
            return
        log = AccessLog(settings.access_log, settings.access_log_sample) if settings.access_log else None
        line = Line(pipe, {"open": open_, "serve": serve, "count": count})
        server = _server(settings, repository, line, [SCORER, INFERENCE, *repository.names], observe)
        repository.arrived = server.unfinished
        try:
            server.start(settings.host, settings.port)
        except RuntimeError as error:
            raise Unavailable(
                "the address can be bound", found=str(error), where=f"{settings.host}:{settings.port}"
            ) from None
    except QuoremError as error:
        pipe.send(("failed", error.as_dict()))
        raise SystemExit(1) from None
    line.send(("ready", os.getpid()))
    while wait([pipe, stop]) == [pipe] and line.hear():
        pass  # a signal, or the supervisor's end, means to stop
    repository.serving = False
    server.refuse_health()
    notice_s = min(NOTICE_S, NOTICE_SHARE * settings.grace_s)
    time.sleep(notice_s)
    server.drain(settings.grace_s - notice_s)
    if log:
        log.close()
    logging.shutdown()
    os._exit(0)  # connections end with the process, where gRPC's own shutdown would cancel what callers just sent


def _server(
    settings: Settings, repository: "Repository", line: "Line", healthy: list[str], observe: "Observe"
) -> "GrpcServer | Http2Server":
    """The transport that was chosen, with every method on it. Only its own libraries are loaded."""
    from .methods import prepared, streams, unary

    security, limits = settings.security, settings.limits
    methods = security.restrict(unary(repository, line, allow_control=security.allow_control))
    flows = security.restrict(streams(repository))
    refusal = repository.admission.refusal
    if settings.transport.name == "nghttp2":
        from .nghttp2.bounds import Bounds
        from .nghttp2.server import Http2Server
        from .turn import Turn

        gc.collect()
        gc.freeze()  # the models, and all else that stays
        gc.set_threshold(*GARBAGE)
        return Http2Server(
            methods,
            flows,
            limits,
            healthy,
            security.certificates,
            refusal=refusal,
            observe=observe,
            prepared=security.restrict(prepared(repository)),
            turn=Turn(repository, limits.batch_rows) if limits.batch_rows else Turn(repository),
            bounds=Bounds(age_s=limits.max_connection_age_s),
        )
    from .grpc_transport import THREADS, GrpcServer
    from .tls import credentials

    return GrpcServer(
        methods,
        flows,
        limits,
        healthy,
        credentials(security.certificates) if security.certificates else None,
        refusal=refusal,
        observe=observe,
        threads=BATCHED if limits.batch_rows else THREADS,
    )


def _stop_pipe() -> int:
    """A file descriptor that becomes readable on SIGTERM; Ctrl-C in a terminal is the supervisor's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    readable, writable = os.pipe()  # both ends stay open until the process ends
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    return readable
