"""Cores: how many this process may use, and whether its workers may be pinned to them."""

import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable() -> tuple[int, tuple[int, ...]]:
    """How many cores there are to use, and the cores to pin workers to.

    Under a CPU quota below the number of cores (a container's limit) nothing is pinned: every container of the machine
    would choose the same cores.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1, ()
    allowed = sorted(os.sched_getaffinity(0))
    quota = _quota()
    if quota < len(allowed):
        return quota, ()
    return len(allowed), tuple(allowed)


def _quota() -> int:
    """Whole cores that the cgroup's quota grants, rounded up; without one, more than any machine has."""
    try:
        limit, period = QUOTA.read_text().split()
        return max(1, -(-int(limit) // int(period)))
    except (OSError, ValueError):  # no cgroup v2 here, or "max"
        return 1 << 20
