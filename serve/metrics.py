"""Metrics: what all workers have counted and what the supervisor knows, in Prometheus' text format 0.0.4.

Names that begin with nv_ mean what Triton's mean; times of a call are of calls that ended with OK. Counters begin again
at zero with the server; those of a version that is served no longer are told no longer.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import __version__
from .catalogue import Catalogue
from .transport import Transport
from .verified import TABLES

SCORING = frozenset({"Score", "ScoreStream", "ModelInfer", "ModelStreamInfer"})
ACCEPTED = "accepted"  # among the counts of connections; the others are why one or a request was ended
REASONS = {  # Triton's, of a failed request
    "RESOURCE_EXHAUSTED": "REJECTED",
    "DEADLINE_EXCEEDED": "REJECTED",
    "UNAVAILABLE": "REJECTED",
    "CANCELLED": "CANCELED",
    "INTERNAL": "BACKEND",
}
Counts = Mapping[str, Any]  # as statistics.py has them
Labels = dict[str, str]
Samples = Sequence[tuple[Labels, float]]
Buckets = Sequence[tuple[str, int]]  # how many stand in each alone, by its upper bound, rising
Versions = Sequence[tuple[Labels, Counts]]
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Server:
    """What the supervisor knows of its server.

    pids: process ids by what the process is: "supervisor", and "worker-0" and so on for those that live.
    ready: workers that answer calls.
    restarts: workers that were started in place of another one.
    """

    catalogue: Catalogue
    device: str
    transport: Transport
    pids: Mapping[str, int]
    ready: int
    restarts: int


def render(snapshot: Counts, server: Server) -> str:
    """The text of /metrics.

    Args:
        snapshot: the sum of what all workers have counted, as `statistics.py` says; lines that the access logs have
            dropped as "access_log_dropped", where there are access logs; and "connections" by what became of them.
        server: what the supervisor knows.
    """
    page, versions = _Page(), list(_versions(snapshot))
    about = {"version": __version__, "device": server.device}
    page.family("quorem_info", "gauge", "What serves.", [(about, 1)])
    carried = {"transport": server.transport.name, "why": server.transport.why}
    page.family("quorem_transport_info", "gauge", "What carries the calls, and why it does.", [(carried, 1)])
    _connections(page, snapshot.get("connections", {}))
    for named in (_requests, _calls, _scores, _fields):
        named(page, versions)
    _processes(page, server)
    _catalogue(page, server.catalogue)
    if (dropped := snapshot.get("access_log_dropped")) is not None:
        page.one("quorem_access_log_dropped_total", "counter", "Lines that no access log has.", dropped)
    return page.text()


def pss_bytes(pid: int) -> int | None:
    """A process's share of memory: pages that several processes map count in parts; None where nobody can tell."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None


def cpu_seconds(pid: int) -> float | None:
    """Processor time of a process and of those below it that have ended; None where nobody can tell."""
    with suppress(OSError, ValueError, IndexError):
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    return None


class _Page:
    """Families of samples, each with its help and type, in the order in which they are given."""

    def __init__(self) -> None:
        self._lines = list[str]()

    def family(self, name: str, kind: Kind, meaning: str, samples: Samples) -> None:
        """A family of one sample per set of labels; left out where there is none."""
        if samples:
            self._head(name, kind, meaning)
            self._lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]

    def one(self, name: str, kind: Kind, meaning: str, value: float) -> None:
        """A family of one sample without labels."""
        self.family(name, kind, meaning, [({}, value)])

    def histogram(self, name: str, meaning: str, samples: Sequence[tuple[Labels, Buckets, float]]) -> None:
        """A histogram per set of labels, of its buckets and the sum of what was counted."""
        if not samples:
            return
        self._head(name, "histogram", meaning)
        for labels, buckets, total in samples:
            below = 0
            for bound, count in buckets:
                below += count
                self._lines.append(f"{name}_bucket{_labels(labels | {'le': bound})} {below}")
            self._lines.append(f"{name}_sum{_labels(labels)} {_number(total)}")
            self._lines.append(f"{name}_count{_labels(labels)} {below}")

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)

    def _head(self, name: str, kind: Kind, meaning: str) -> None:
        escaped = meaning.replace("\\", r"\\").replace("\n", r"\n")
        self._lines += [f"# HELP {name} {escaped}", f"# TYPE {name} {kind}"]


def _labels(labels: Mapping[str, str]) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items()) + "}" if labels else ""


def _number(value: float) -> str:
    if isinstance(value, int) or math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _versions(snapshot: Counts) -> Iterator[tuple[Labels, Counts]]:
    for model, numbers in sorted(snapshot.get("models", {}).items()):
        for number in sorted(numbers, key=int):
            yield {"model": model, "version": number if model else ""}, numbers[number]


def _requests(page: _Page, versions: Versions) -> None:
    """Triton's counters, of the calls that score; those that named no version that is served are only ours."""
    named = [(labels, counts) for labels, counts in versions if labels["model"]]
    success, failure = list[tuple[Labels, int]](), list[tuple[Labels, int]]()
    for labels, counts in named:
        scoring = [by for method, by in counts["calls"].items() if method.rpartition("/")[2] in SCORING]
        success.append((labels, sum(by.get("OK", 0) for by in scoring)))
        reasons = dict.fromkeys(["REJECTED", "CANCELED", "BACKEND", "OTHER"], 0)
        for by in scoring:
            for status, count in by.items():
                if status != "OK":
                    reasons[REASONS.get(status, "OTHER")] += count
        failure += [({**labels, "reason": reason}, count) for reason, count in reasons.items()]
    page.family("nv_inference_request_success", "counter", "Scoring calls that ended with OK.", success)
    page.family("nv_inference_request_failure", "counter", "Scoring calls that did not, by reason.", failure)
    for name, key, meaning in (
        ("nv_inference_count", "rows", "Rows that were scored."),
        ("nv_inference_exec_count", "executions", "Runs of a graph."),
    ):
        page.family(name, "counter", meaning, [(labels, counts[key]) for labels, counts in named])
    for part, key, meaning in (
        ("request", "total_ns", "from arrival to reply"),
        ("queue", "queue_ns", "waiting"),
        ("compute_input", "encode_ns", "reading and encoding requests"),
        ("compute_infer", "compute_ns", "in graphs"),
        ("compute_output", "", "writing replies"),
    ):
        times = [(labels, (counts[key] if key else _output_ns(counts)) // 1000) for labels, counts in named]
        page.family(f"nv_inference_{part}_duration_us", "counter", f"Microseconds that calls spent {meaning}.", times)


def _output_ns(counts: Counts) -> int:
    return sum(batch["output_ns"] for batch in counts["batches"].values())


def _calls(page: _Page, versions: Versions) -> None:
    calls = [
        ({**labels, "method": method, "status": status}, count)
        for labels, counts in versions
        for method, by in sorted(counts["calls"].items())
        for status, count in sorted(by.items())
    ]
    page.family("quorem_calls_total", "counter", "Calls by method and status; no model where none was found.", calls)
    page.histogram(
        "quorem_call_duration_seconds",
        "Calls that ended with OK, from arrival to reply.",
        [
            (labels, sorted(counts["latency"].items(), key=lambda each: float(each[0])), counts["total_ns"] / 1e9)
            for labels, counts in versions
        ],
    )


def _scores(page: _Page, versions: Versions) -> None:
    scored = [(labels, counts["scores"]) for labels, counts in versions if "scores" in counts]
    means = [(labels, scores["sum"] / scores["count"]) for labels, scores in scored if scores["count"]]
    page.family("quorem_score_mean", "gauge", "Mean probability since the workers began.", means)
    histograms = list[tuple[Labels, Buckets, float]]()
    for labels, scores in scored:
        bins = sorted(scores["bins"].items(), key=lambda each: int(each[0]))
        buckets = [(f"{(int(number) + 1) / len(bins):g}", count) for number, count in bins]
        histograms.append((labels, [*buckets, ("+Inf", 0)], scores["sum"]))
    page.histogram("quorem_score", "Probabilities; one on a bound counts as above it, but 1.", histograms)
    squares = [(labels, scores["squares"]) for labels, scores in scored]
    page.family("quorem_score_squares_total", "counter", "Sum of squared probabilities.", squares)
    invalid = [(labels, scores["invalid"]) for labels, scores in scored]
    page.family("quorem_score_invalid_total", "counter", "Scores that are no probability.", invalid)


def _fields(page: _Page, versions: Versions) -> None:
    fields = [
        ({**labels, "field": name}, field)
        for labels, counts in versions
        for name, field in sorted(counts.get("fields", {}).items())
    ]
    for key, meaning in (("values", "Values"), ("missing", "Missing values"), ("unseen", "Ids out of range")):
        counted = [(labels, field[key]) for labels, field in fields if key in field]
        page.family(f"quorem_field_{key}_total", "counter", f"{meaning}, in a sample of the calls.", counted)
        if key != "values":
            shares = [
                (labels, field[key] / field["values"]) for labels, field in fields if key in field and field["values"]
            ]
            page.family(f"quorem_field_{key}_ratio", "gauge", f"{meaning} of all since the workers began.", shares)


def _connections(page: _Page, counts: Mapping[str, int]) -> None:
    if accepted := counts.get(ACCEPTED):
        page.one("quorem_connections_total", "counter", "Connections that callers opened.", accepted)
    ended = [({"reason": reason}, count) for reason, count in sorted(counts.items()) if reason != ACCEPTED]
    page.family("quorem_connections_bounded_total", "counter", "What a bound of connections put an end to.", ended)


def _processes(page: _Page, server: Server) -> None:
    page.one("quorem_workers", "gauge", "Workers that answer calls.", server.ready)
    page.one("quorem_worker_restarts_total", "counter", "Workers started in place of another one.", server.restarts)
    found = {process: pss_bytes(pid) for process, pid in server.pids.items()}
    shares = [({"process": process}, share) for process, share in found.items() if share is not None]
    page.family("quorem_process_pss_bytes", "gauge", "Memory; pages that are shared count in parts.", shares)
    if shares:
        page.one("quorem_pss_bytes", "gauge", "Memory of all processes.", sum(share for _, share in shares))
    used = {process: cpu_seconds(pid) for process, pid in server.pids.items()}
    seconds = [({"process": process}, each) for process, each in used.items() if each is not None]
    page.family("quorem_process_cpu_seconds_total", "counter", "Processor time.", seconds)


def _catalogue(page: _Page, catalogue: Catalogue) -> None:
    served = [({"model": each.name, "version": str(each.number)}, each) for each in catalogue.all]
    page.family("quorem_version_served", "gauge", "Versions that are served.", [(labels, 1) for labels, _ in served])
    sizes = list[tuple[Labels, int]]()
    for labels, version in served:
        with suppress(OSError):  # no table at all, or a version that has just been removed
            sizes.append((labels, (version.directory / TABLES).stat().st_size))
    page.family("quorem_embedding_bytes", "gauge", "Embedding tables, one copy for all workers.", sizes)
    given = [
        ({"model": model, "label": label}, number)
        for model, labels in sorted(catalogue.labels.items())
        for label, number in sorted(labels.items())
    ]
    page.family("quorem_label_version", "gauge", "The version that a label names.", given)
