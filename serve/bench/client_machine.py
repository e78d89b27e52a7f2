"""Client machine: what a bench ran on, told beside its numbers."""

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from ... import __version__
from .. import cores

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def machine(processes: int) -> dict[str, Any]:
    """Processor, cores that may be used and which, memory, system, versions; and how many processes call."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": cores.usable()[0],
        "pinned to": ", ".join(map(str, sorted(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else "",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "grpcio": grpc.__version__,
        "quorem": __version__,
        "client processes": processes,
    }
    with suppress(OSError, ValueError, AttributeError):
        found["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    with suppress(OSError):
        found["governor"] = GOVERNOR.read_text().strip()
    return found


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
