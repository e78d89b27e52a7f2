"""Run: what the command `quorem serve` does: survey the repository, reserve a port, supervise workers."""

import argparse
import json
import os
import sys
from pathlib import Path

from . import cores
from .port import reserve
from .settings import MEBIBYTE, Device, Limits, Settings
from .supervisor import Supervisor
from .survey import survey

GPU = Path("/proc/driver/nvidia/gpus")


def main(args: argparse.Namespace) -> int:
    """Serve as the arguments say; the exit status.

    Raises:
        QuoremError: nothing to serve, a taken port, a graph that does not open.
    """
    found = survey(args.models)
    for version, error in found.refused:
        print(f"quorem serve: {version} is not served: {error}", file=sys.stderr)
    device: Device = "cuda" if args.device == "cuda" or (args.device == "auto" and _gpu()) else "cpu"
    count, pins = (1, ()) if device == "cuda" else cores.usable()
    settings = Settings(
        versions=found.versions,
        host=args.host,
        port=args.port,
        workers=args.workers or count,
        cores=pins if count > 1 else (),
        limits=Limits(max_rows=args.max_rows, max_request_bytes=args.max_request_mb * MEBIBYTE),
        grace_s=args.grace,
        device=device,
    )
    port = reserve(args.host, args.port)

    def announce(pids: list[int]) -> None:
        facts = {
            "address": port.address,
            "host": port.host,
            "port": port.number,
            "pid": os.getpid(),
            "worker_pids": pids,
            "device": device,
            "models": [{"name": version.name, "version": version.number} for version in found.versions],
        }
        served = ", ".join(str(version) for version in found.versions)
        workers = f"{len(pids)} worker{'s' * (len(pids) > 1)}"
        line = f"quorem serves {served} on {port.address} with {workers} ({device}), pid {os.getpid()}"
        print(json.dumps(facts) if args.json else line, flush=True)

    with port.holder:
        return Supervisor(settings, port).run(announce)


def _gpu() -> bool:
    return GPU.is_dir() and any(GPU.iterdir())
