"""Mlperf: a run under MLCommons' LoadGen, its Server or its Offline scenario, and what LoadGen's own log says of it.

Arrivals, latencies and the verdict are LoadGen's (https://github.com/mlcommons/inference, loadgen). A sample is a
request of 100 to 700 pairs of a user and an item, 270 in the mean, where the load is one of `mlperf` rows.
"""

import json
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

from ...protos.errors import DataError, NotFound, Unavailable
from .load import Load
from .loadgen import Job, Outcome, Scenario, serve_job
from .target import Target

SCENARIOS: dict[str, Scenario] = {"server": "Server", "offline": "Offline"}
LATENCIES = ("50.00", "90.00", "95.00", "97.00", "99.00", "99.90")
STOP_S = 10.0
BUSY = 0.9  # of a core: the process that LoadGen runs in is one


@dataclass(frozen=True)
class MlPerf:
    """What is asked of LoadGen; the defaults are MLPerf's.

    rate: of Poisson arrivals (server), or samples a second that the run is sized by (offline: too low a one makes it
        shorter than `seconds`, and invalid).
    bound_ms: of the p99 (server). seconds: at least. queries: at least; None: as many as MLPerf asks for.
    in_flight: calls that the offline scenario keeps; the server scenario has as many as there are.
    """

    kind: Literal["server", "offline"]
    rate: float
    bound_ms: float = 60.0
    seconds: float = 600.0
    queries: int | None = None
    connections: int = 16
    in_flight: int = 32
    warmup_s: float = 2.0


def run(target: Target, load: Load, asked: MlPerf, out: Path | None, timeout_s: float) -> dict[str, Any]:
    """Run LoadGen; its logs stay in the directory `out`, which is made, or are thrown away where there is none.

    Returns:
        scenario; valid: LoadGen says VALID, and no call failed; loadgen_valid; reasons: why not valid;
        lowered: MLPerf's minimums that were eased, {name: {"mlperf", "used"}} (seconds, queries, samples, bound_ms);
        rate: asked for; scheduled_per_s (server), completed_per_s: samples; rows_per_s; latency_ms: p50 to p99.9, min,
        max and mean, of all samples, failed ones included, in the offline scenario from the run's start;
        answered; failures: samples by status; queries; seconds; client_cores; client_limited; load; rows: of a mean
        request; connections; in_flight (offline); version: of LoadGen; summary: its text; logs: `out`;
        partial: Ctrl-C ended it: what LoadGen would have said is absent.

    Raises:
        NotFound: LoadGen is not installed, or `out` cannot be made.
        DataError: a rate, seconds or queries that are not positive.
        Unavailable: the server cannot be reached, or answers nothing for 5 seconds while calls fail.
    """
    _check(asked)
    with _directory(out) as logs:
        job = Job(
            access=target.access,
            path=target.path,
            requests=load.requests,
            scenario=SCENARIOS[asked.kind],
            rate=asked.rate,
            bound_ms=asked.bound_ms,
            seconds=asked.seconds,
            queries=asked.queries,
            connections=asked.connections if asked.kind == "server" else min(asked.connections, asked.in_flight),
            in_flight=asked.in_flight,
            warmup_s=asked.warmup_s,
            timeout_s=timeout_s,
            logs=logs,
        )
        outcome = _outcome(job)
        found = _facts(job, load, outcome)
        if outcome.ended == "done":
            found |= _told(job, outcome, found["rows"])
    return found | {"logs": None if out is None else str(out)}


def _check(asked: MlPerf) -> None:
    for name in ("rate", "bound_ms", "seconds", "queries", "connections", "in_flight"):
        value: float | None = getattr(asked, name)
        if value is not None and not value > 0:
            raise DataError(f"{name} is positive", found=str(value), where="mlperf", remedy="Give a greater one")
    check_installed()


def check_installed() -> None:
    """Raises NotFound where LoadGen is not."""
    if find_spec("mlperf_loadgen") is None:
        raise NotFound(
            "the scenario mlperf runs MLCommons' LoadGen",
            found="no package mlperf_loadgen",
            where="mlperf",
            remedy="Install it: pip install 'quorem[mlperf]'",
        )


@contextmanager
def _directory(out: Path | None) -> Iterator[Path]:
    if out is None:
        with TemporaryDirectory(prefix="quorem-mlperf-") as made:
            yield Path(made)
        return
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise NotFound(
            "LoadGen's logs go to a directory that is there, or can be made",
            found=error.strerror or str(error),
            where=str(out),
            remedy="Make the directory above it first",
        ) from None
    yield out


def _outcome(job: Job) -> Outcome:
    """Run the job in a process of its own; Ctrl-C stops it, and what it had counted is told."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = cast("tuple[Connection, Connection]", context.Pipe())
    process = context.Process(target=serve_job, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        try:
            ours.send(job)
            outcome = cast("Outcome", ours.recv())
        except KeyboardInterrupt:
            outcome = _stopped(ours)
    except (EOFError, ConnectionError):
        raise Unavailable("the process that LoadGen runs in lives", found="one that died", where="mlperf") from None
    finally:
        process.kill()
        process.join()
        ours.close()
    if outcome.ended == "dead":
        raise Unavailable("the server answers", found=outcome.why, where=job.access.endpoint, remedy="See its log")
    if outcome.ended == "broken":
        raise Unavailable("LoadGen runs its test", found=outcome.why, where="mlperf")
    return outcome


def _stopped(pipe: Connection) -> Outcome:
    try:
        pipe.send("stop")
        return cast("Outcome", pipe.recv()) if pipe.poll(STOP_S) else Outcome("stopped")
    except (EOFError, ConnectionError):
        return Outcome("stopped")  # it had not yet begun


def _facts(job: Job, load: Load, outcome: Outcome) -> dict[str, Any]:
    """What we know ourselves."""
    cores = outcome.cpu_s / (outcome.seconds or 1.0)
    return {
        "scenario": job.scenario,
        "valid": False,
        "loadgen_valid": False,
        "reasons": ["it was interrupted"],
        "partial": True,
        "lowered": {},
        "load": load.name,
        "rows": sum(load.counts) / len(load.counts),
        "samples": len(load.requests),
        "rate": job.rate,
        "bound_ms": job.bound_ms if job.scenario == "Server" else None,
        "connections": job.connections,
        "in_flight": job.in_flight if job.scenario == "Offline" else None,
        "warmup_s": job.warmup_s,
        "seconds": round(outcome.seconds, 3),
        "answered": outcome.answered,
        "failures": dict(sorted(outcome.failures.items())),
        "client_cores": round(cores, 2),
        "client_limited": cores > BUSY,
        "summary": "",
    }


def _told(job: Job, outcome: Outcome, rows: float) -> dict[str, Any]:
    """What LoadGen says in its logs, and whether we believe it."""
    log = _log(job.logs / "mlperf_log_detail.txt")
    valid = log["result_validity"] == "VALID" and not log["num_errors"]
    said = " ".join(log.get("result_invalid_reason", log["result_validity"]).split())
    reasons = [] if valid else [f"LoadGen: {said}"]
    if outcome.failures:
        failed = ", ".join(f"{count} x {status}" for status, count in sorted(outcome.failures.items()))
        reasons.append(f"calls failed: {failed}")
    per_s = "result_completed_samples_per_sec" if job.scenario == "Server" else "result_samples_per_second"
    latency_ns = {f"p{float(each):g}": log[f"result_{each}_percentile_latency_ns"] for each in LATENCIES}
    latency_ns |= {each: log[f"result_{each}_latency_ns"] for each in ("min", "max", "mean")}
    used = {
        "seconds": job.seconds,
        "queries": log["requested_min_query_count"],
        "samples": len(job.requests),
    }
    eased = {name: value for name, value in used.items() if value < outcome.minimums[name]}
    if job.scenario == "Server" and job.bound_ms > outcome.minimums["bound_ms"]:
        eased["bound_ms"] = job.bound_ms
    return {
        "valid": valid and not outcome.failures,
        "loadgen_valid": valid,
        "reasons": reasons,
        "partial": False,
        "lowered": {name: {"mlperf": outcome.minimums[name], "used": value} for name, value in eased.items()},
        "scheduled_per_s": log.get("result_scheduled_samples_per_sec"),
        "completed_per_s": log[per_s],
        "rows_per_s": round(log[per_s] * rows, 1),
        "latency_ms": {name: round(value / 1e6, 4) for name, value in latency_ns.items()},
        "queries": log["result_query_count"],
        "version": log["loadgen_version"],
        "summary": (job.logs / "mlperf_log_summary.txt").read_text(),
    }


def _log(path: Path) -> dict[str, Any]:
    """LoadGen's detail log: a JSON object a line, of which `key` and `value` matter; of a key's, the last."""
    lines = (line.partition(":::MLLOG ")[2] for line in path.read_text().splitlines())
    entries = [json.loads(line) for line in lines if line]
    return {entry["key"]: entry["value"] for entry in entries}
