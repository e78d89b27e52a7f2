"""Run: what the command `quorem serve` does: survey the repository, reserve a port, supervise workers."""

import argparse
import json
import os
import sys
from pathlib import Path

from . import cores
from .metrics import render
from .metrics_http import MetricsServer
from .policy import Policy
from .port import reserve
from .remembered import Remembered
from .security import Security, tls_of
from .settings import MEBIBYTE, Device, Limits, Settings
from .supervisor import Supervisor
from .survey import survey
from .transport import choose

GPU_BATCH_ROWS = 1024  # there a run costs nearly the same for one row and for many; on a core, what it costs a row
GPU = Path("/proc/driver/nvidia/gpus")


def main(args: argparse.Namespace) -> int:
    """Serve as the arguments say; the exit status.

    Raises:
        QuoremError: nothing to serve, a taken port, a graph that does not open.
    """
    policy = Policy.parse(args.versions)
    certificates = tls_of(args.tls_cert, args.tls_key, args.tls_ca)
    security = Security(certificates, args.token_file, args.token_for, args.allow_control)
    for warning in security.check(args.host):
        print(f"quorem serve: {warning}", file=sys.stderr)
    transport = choose(args.transport)
    found = survey(args.models, policy, Remembered(args.remember))
    for where, error in found.refused:
        print(f"quorem serve: {where} is passed over: {error}", file=sys.stderr)
    device: Device = "cuda" if args.device == "cuda" or (args.device == "auto" and _gpu()) else "cpu"
    count, pins = (1, ()) if device == "cuda" else cores.usable()
    settings = Settings(
        catalogue=found.catalogue,
        root=args.models,
        policy=policy,
        watch_s=args.watch,
        host=args.host,
        port=args.port,
        workers=args.workers or count,
        cores=pins if count > 1 else (),
        limits=Limits(
            max_rows=args.max_rows,
            max_request_bytes=args.max_request_mb * MEBIBYTE,
            max_rows_in_flight=args.max_rows_in_flight,
            max_streams=args.max_streams,
            batch_rows=(GPU_BATCH_ROWS if device == "cuda" else 0) if args.batch_rows is None else args.batch_rows,
            batch_s=args.batch_delay_ms / 1000,
            max_connection_age_s=args.max_connection_age,
        ),
        grace_s=args.grace,
        device=device,
        security=security,
        transport=transport,
        access_log=args.access_log and args.access_log.absolute(),
        access_log_sample=args.access_log_sample,
    )
    port = reserve(args.host, args.port)
    supervisor = Supervisor(settings, port, found.verified)
    metrics = None
    if args.metrics_port is not None:
        metrics = MetricsServer(args.host, args.metrics_port, lambda: render(supervisor.snapshot(), supervisor.facts))
        metrics.start()

    def announce(pids: list[int]) -> None:
        facts = {
            "address": port.address,
            "host": port.host,
            "port": port.number,
            "metrics_port": metrics.port if metrics else None,
            "pid": os.getpid(),
            "worker_pids": pids,
            "device": device,
            "transport": transport.name,
            "transport_why": transport.why,
            "models": [{"name": version.name, "version": version.number} for version in found.catalogue.all],
        }
        served = ", ".join(str(version) for version in found.catalogue.all)
        workers = f"{len(pids)} worker{'s' * (len(pids) > 1)}"
        line = f"quorem serves {served} on {port.address} with {workers} ({device}), pid {os.getpid()}"
        if not args.json:
            print(f"quorem serve: calls come by {transport.name}: {transport.why}", file=sys.stderr)
        line += f", metrics on port {metrics.port}" if metrics else ""
        print(json.dumps(facts) if args.json else line, flush=True)

    with port.holder:
        try:
            return supervisor.run(announce)
        finally:
            if metrics:
                metrics.close()


def _gpu() -> bool:
    return GPU.is_dir() and any(GPU.iterdir())
