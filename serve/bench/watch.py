"""Watch: what a server tells of itself while it is measured, and what its machine tells of its processes."""

import re
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError

from ...protos import open_inference_pb2 as inference
from ...protos.errors import DataError
from ..metrics import cpu_seconds, pss_bytes
from ..services import INFERENCE
from .result import Server
from .target import Target

STATISTICS = f"/{INFERENCE}/ModelStatistics"
PATIENCE_S = 2.0
SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{.*\})? (\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?: -?\d+)?")


@dataclass(frozen=True)
class Times:
    """Sums over the model's calls since its server began."""

    calls: int
    queue_ns: int
    compute_ns: int


@dataclass(frozen=True)
class Mark:
    """What was counted until a moment; None where nobody tells."""

    times: Times | None
    cpu_s: float | None


class Watch:
    """The server's side of a measurement. Whatever cannot be told is None, and never an error of the run.

    Times come from ModelStatistics, as quorem and Triton have it; processor time and memory from the process `pid` and
    all below it, where it is named and on this machine, else from what `metrics_url` answers in Prometheus' text.
    """

    def __init__(self, target: Target, metrics_url: str | None, pid: int | None) -> None:
        if metrics_url is not None and "://" not in metrics_url:
            metrics_url = f"http://{metrics_url}/metrics"
        self._target, self._url, self._pid = target, metrics_url, pid

    def check(self) -> None:
        """Raises DataError where a process or a page was named that tells nothing."""
        metrics, named = self._metrics(), self._url if self._pid is None else f"process {self._pid}"
        if named is not None and self._cpu_s(metrics) is None and self._memory(metrics) is None:
            raise DataError(
                "processor time or memory are told by the process --pid on this machine, or the page --metrics",
                found="neither",
                where=named,
                remedy="Check its name, or leave it out",
            )

    def begin(self) -> Mark:
        """Take the counts before the calls."""
        return Mark(self._times(), self._cpu_s(self._metrics()))

    def end(self, mark: Mark, calls: int) -> Server:
        """What so many answered calls have cost since then."""
        metrics = self._metrics()
        cpu_s, times = self._cpu_s(metrics), self._times()
        queue_us = compute_us = cpu_us = None
        if mark.times and times and (answered := times.calls - mark.times.calls) > 0:
            queue_us = (times.queue_ns - mark.times.queue_ns) / answered / 1e3
            compute_us = (times.compute_ns - mark.times.compute_ns) / answered / 1e3
            calls = answered  # counted when the processor time was, which `calls` ended a little before
        if mark.cpu_s is not None and cpu_s is not None and cpu_s >= mark.cpu_s and calls > 0:
            cpu_us = 1e6 * (cpu_s - mark.cpu_s) / calls
        return Server(queue_us, compute_us, cpu_us, self._memory(metrics))

    def _times(self) -> Times | None:
        access, request = self._target.access, inference.ModelStatisticsRequest(name=self._target.model)
        request.version = self._target.version
        try:
            with access.channel() as channel:
                call = channel.unary_unary(STATISTICS)
                data: bytes = call(request.SerializeToString(), timeout=PATIENCE_S, metadata=access.metadata())
            found = [each.inference_stats for each in inference.ModelStatisticsResponse.FromString(data).model_stats]
        except (grpc.RpcError, DecodeError):
            return None
        return Times(
            sum(each.success.count for each in found),
            sum(each.queue.ns for each in found),
            sum(each.compute_infer.ns for each in found),
        )

    def _cpu_s(self, metrics: Mapping[str, float]) -> float | None:
        if self._pid is not None:
            found = [cpu_seconds(pid) for pid in tree(self._pid)]
            return sum(known) if (known := [each for each in found if each is not None]) else None
        return metrics.get("quorem_process_cpu_seconds_total", metrics.get("process_cpu_seconds_total"))

    def _memory(self, metrics: Mapping[str, float]) -> int | None:
        if self._pid is not None:
            found = [pss_bytes(pid) for pid in tree(self._pid)]
            return sum(known) if (known := [each for each in found if each is not None]) else None
        found = metrics.get("quorem_pss_bytes", metrics.get("process_resident_memory_bytes"))
        return None if found is None else int(found)

    def _metrics(self) -> dict[str, float]:
        """Samples by name, summed over their labels; none where processes are looked at."""
        found = defaultdict[str, float](float)
        if self._pid is not None or self._url is None or not self._url.startswith(("http://", "https://")):
            return found
        with suppress(OSError, HTTPException, ValueError):
            with urllib.request.urlopen(self._url, timeout=PATIENCE_S) as reply:  # noqa: S310  # http alone, as checked
                text = reply.read().decode(errors="replace")
            for line in text.splitlines():
                if sample := SAMPLE.fullmatch(line):
                    found[sample[1]] += float(sample[2])
        return found


def tree(pid: int) -> list[int]:
    """A process and all below it that are there now."""
    if not Path(f"/proc/{pid}").exists():
        return []
    found = [pid]
    with suppress(OSError, ValueError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found
