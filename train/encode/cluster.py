"""The cluster: a pool whose tasks Ray runs, on this machine or on all those of the cluster that RAY_ADDRESS names.

Tasks, not Ray Data's datasets: no rows pass through Ray. A task is told names of files and writes a file; a dataset of
such names would need pandas, and a block for each name so that Ray does not hand them out by the dozen.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from typing import Any

from ...protos.errors import QuoremError
from .pool import accepted, call


class Cluster:
    """A `Pool` of Ray's workers. A task whose worker or machine is lost is run again, up to three times."""

    def __init__(self, ray: Any, jobs: int) -> None:
        self._ray, self.jobs = ray, jobs

    def run(self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """As `Pool` has it."""
        ray, remote = self._ray, self._ray.remote(call).options(name=function.__name__)
        due, waiting = iter(enumerate(tasks)), dict[Any, int]()
        try:
            while True:
                for number, task in islice(due, self.jobs - len(waiting)):
                    waiting[remote.remote(function, task)] = number
                if not waiting:
                    return
                for ready in ray.wait([*waiting])[0]:
                    result = accepted(ray.get(ready))
                    yield waiting.pop(ready), result
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", error)  # what the task itself raised, unless Ray did
            if not isinstance(cause, (ray.exceptions.RayError, ImportError)):
                raise cause from None
            told = str(cause).strip().partition("\n")[0]
            raise QuoremError(
                "every machine of the cluster has this quorem, sees the same files, and ends its tasks",
                found=f"{type(cause).__name__}: {told}",
                where="quorem encode --engine ray",
                remedy="Mend it, or name fewer --jobs or less --memory, and say the same again: what is done is kept",
            ) from None


@contextmanager
def cluster(jobs: int | None) -> Iterator[Cluster]:
    """Ray's workers to run tasks in, until the end; None for as many at a time as the cluster has processors.

    Raises:
        ModuleNotFoundError: no Ray. QuoremError: it does not start, or no cluster answers.
    """
    ray: Any = import_module("ray")  # an extra: types are checked where it is not installed, too
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what is encoded here is nobody else's to know
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise QuoremError(
            "Ray starts on this machine, or its cluster answers",
            found=str(error).strip().partition("\n")[0],
            where=f"RAY_ADDRESS={address}",
            remedy="Start the cluster, correct RAY_ADDRESS, or unset it for this machine alone",
        ) from None
    try:
        yield Cluster(ray, jobs or max(1, int(ray.cluster_resources().get("CPU", 1))))
    finally:
        ray.shutdown()
