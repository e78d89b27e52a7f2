"""Soak: a server under load whose versions change, whose workers are killed and whose repository gets bad versions.

`python tests/soak.py` takes SOAK_SECONDS (default 600) and TRANSPORT (default auto). Calls come at 80 % of the capacity
that is measured first; every 20 s a version is published, or a label moved; every 30 s a worker is killed; every 60 s a
bad version is published. A run of less than four minutes has all that in proportion. Every call must be answered with
the right scores of the version that the reply names, or fail with UNAVAILABLE because its worker was killed; a
connection never sees versions go back, but with their label; memory does not grow. Prints a JSON report; the exit
status is 1 if any of this does not hold.
"""

import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock, Thread

import grpc
import numpy as np
from quorem.protos import open_inference_pb2 as oip
from quorem.protos import open_inference_pb2_grpc, scoring_pb2_grpc
from quorem.protos import scoring_pb2 as pb
from quorem.serve.metrics import pss_bytes
from served import Served, serving
from soak_judge import Events, Kill, Stay, kills_hit
from soak_load import Callers, Heard
from soak_versions import BAD, LABEL, NAME, make_variants, publish

WORKERS = 2
PROCESSES, THREADS = 2, 6  # of clients
SHARE = 0.8  # of capacity
WHOLE_S = 240.0  # shorter runs have their events in proportion
SWAP_S, KILL_S, BAD_S = 20.0, 30.0, 60.0
PATIENCE_S = 60.0  # for the server to follow the repository, or to replace a worker
SAMPLE_S = 0.25
SETTLED_S = 2.0  # after a worker was replaced or a version opened, before memory is measured
MOST_GROWTH = 0.05
TOLD = 20
LISTENING = "0A"


@dataclass(frozen=True)
class Sample:
    """The memory of all processes of a server, bytes, at a time when all workers had been there for a while."""

    at: float
    pss: int


class Soak:
    """A server, what is done to it, and what is seen."""

    def __init__(self, server: Served, models: Path, bundles: list[Path]) -> None:
        self._server, self._models, self._bundles = server, models, bundles
        self._channel = grpc.insecure_channel(server.address)
        self._triton = open_inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._scorer = scoring_pb2_grpc.ScorerStub(self._channel)
        now = time.monotonic()
        self.events = Events([Stay(1, now, now)], [Stay(1, now, now)])
        self.samples, self.problems = list[Sample](), list[str]()
        self.labels_moved = 0
        self._threads = list[Thread]()
        self._numbers, self._swaps, self._bads = count(2), count(), count()
        self._publishing, self._unsettled = Lock(), now

    def during(self, seconds: float) -> None:
        """Do to the server what is due, for a while; the last event leaves time to be seen."""
        scale = min(1.0, seconds / WHOLE_S)
        start = time.monotonic()
        ends = start + seconds
        for act, pause_s in ((self._swap, SWAP_S), (self._kill, KILL_S), (self._publish_bad, BAD_S)):
            self._threads.append(Thread(target=self._repeat, args=(act, pause_s * scale, start, ends), daemon=True))
        self._threads.append(Thread(target=self._sample, args=(ends,), daemon=True))
        for each in self._threads:
            each.start()

    def finish(self) -> None:
        """Wait until every version has become what it should be, and end."""
        for each in self._threads:
            each.join()
        for number, kind in self.events.bad.items():
            state = self._state(number)
            if state != "UNAVAILABLE" or f"{NAME}/{number} is passed over" not in self._server.log.read_text():
                self.problems.append(f"version {number} with a {kind} is {state or 'unknown'}, and was not told")
        if len(self._server.workers()) != WORKERS:
            self.problems.append("a worker is missing")
        self._channel.close()

    def _repeat(self, act: Callable[[], None], pause_s: float, start: float, ends: float) -> None:
        for number in count(1):
            due = start + number * pause_s
            if due > ends - 0.5 * pause_s:
                return
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                act()
            except Exception as error:
                self.problems.append(f"{act.__name__}: {type(error).__name__}: {error}")

    def _swap(self) -> None:
        """In turn: a new version; the label to the latest; a new version; the label back to where it was."""
        with self._publishing:
            self._swap_alone(next(self._swaps) % 4)

    def _swap_alone(self, turn: int) -> None:
        if turn % 2 == 0:
            number, asked = next(self._numbers), time.monotonic()
            publish(self._bundles, self._models, number)
            self._enter(self.events.latest, number, asked, lambda: self._state(number) == "READY")
            return
        label = self.events.label
        number, asked = self.events.latest[-1].version if turn == 1 else label[-2].version, time.monotonic()
        path = self._models / NAME / "labels.json"
        path.with_suffix(".tmp").write_text(json.dumps({LABEL: number}))
        path.with_suffix(".tmp").rename(path)
        asking = pb.DescribeRequest(model=NAME, label=LABEL)
        self._enter(label, number, asked, lambda: self._ask(self._scorer.Describe, asking).version == number)
        self.labels_moved += 1

    def _enter(self, stays: list[Stay], number: int, asked: float, holds: Callable[[], bool]) -> None:
        """Note a version from before it can be seen until it must be."""
        stays.append(Stay(number, asked, float("inf")))
        self._eventually(holds, f"version {number} is served")
        stays[-2].left = stays[-1].served = self._unsettled = time.monotonic()

    def _publish_bad(self) -> None:
        with self._publishing:  # or a later version would spare the server a look at this one
            number, kind = next(self._numbers), BAD[next(self._bads) % len(BAD)]
            self.events.bad[number] = kind
            publish(self._bundles, self._models, number, bad=kind)
            self._eventually(lambda: self._state(number) == "UNAVAILABLE", f"version {number} with a {kind} is refused")

    def _kill(self) -> None:
        """Kill a worker, while another answers, and wait until there is a new one."""
        self._eventually(self._whole, "every worker answers")
        workers, sent = self._server.workers(), time.monotonic()
        victim = workers[len(self.events.kills) % len(workers)]
        os.kill(victim, signal.SIGKILL)
        self._unsettled = float("inf")
        self._eventually(lambda: _gone(victim), "a killed process ends")
        self.events.kills.append(Kill(sent, time.monotonic()))
        self._eventually(self._whole, "a killed worker is replaced")
        self._unsettled = time.monotonic()

    def _whole(self) -> bool:
        """Whether every worker listens."""
        workers = self._server.workers()
        return len(workers) == WORKERS and all(_listens(pid, self._server.address) for pid in workers)

    def _state(self, number: int) -> str:
        """The state of a version, as the server tells it; empty where it knows of none."""
        index: oip.RepositoryIndexResponse = self._ask(self._triton.RepositoryIndex, oip.RepositoryIndexRequest())
        states = {int(each.version): each.state for each in index.models if each.name == NAME}
        return states.get(number, "")

    def _ask(self, call: Callable[..., oip.RepositoryIndexResponse], request: object) -> oip.RepositoryIndexResponse:
        """A call that is made again where its worker was killed."""
        while True:
            try:
                return call(request, timeout=PATIENCE_S, wait_for_ready=True)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise

    def _eventually(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {PATIENCE_S:g} s: {what}")
            time.sleep(0.05)

    def _sample(self, ends: float) -> None:
        while (now := time.monotonic()) < ends:
            total = sum(pss_bytes(pid) or 0 for pid in _tree(self._server.process.pid))
            if self._unsettled + SETTLED_S < now and self._whole():
                self.samples.append(Sample(now, total))
            time.sleep(SAMPLE_S)


def _listens(pid: int, address: str) -> bool:
    port = f":{int(address.rpartition(':')[2]):04X}"
    lines = [Path(f"/proc/net/{kind}").read_text().splitlines()[1:] for kind in ("tcp", "tcp6")]
    fields = [line.split() for line in (*lines[0], *lines[1])]
    listening = {f"socket:[{each[9]}]" for each in fields if each[1].endswith(port) and each[3] == LISTENING}
    try:
        return any(os.readlink(each) in listening for each in Path(f"/proc/{pid}/fd").iterdir())  # noqa: PTH115  # no path
    except OSError:  # it ended, or closed one meanwhile
        return False


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    try:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from _tree(int(child))
    except (FileNotFoundError, ProcessLookupError):
        return


def _memory(samples: list[Sample], start: float, seconds: float) -> tuple[float, float]:
    """MiB after the first quarter and at the end: medians over a quarter of the time each."""
    early = [each.pss for each in samples if 0.25 <= (each.at - start) / seconds < 0.5]
    late = [each.pss for each in samples if (each.at - start) / seconds >= 0.75]
    after_a_quarter, at_the_end = (statistics.median(part or [float("nan")]) / 2**20 for part in (early, late))
    return after_a_quarter, at_the_end


def soak(seconds: float, transport: str) -> dict[str, object]:
    """Run over a transport; the report, its "violations" empty if all was well."""
    with tempfile.TemporaryDirectory(prefix="quorem-soak-") as name:
        root = Path(name)
        bundles, asked = make_variants(root)
        models = root / "models"
        publish(bundles, models, 1)
        (models / NAME / "labels.json").write_text(json.dumps({LABEL: 1}))
        options = ("--workers", str(WORKERS), "--watch", "0.5", "--transport", transport)
        with serving(models, root / "log", *options) as server:
            callers = Callers(server.address, asked, PROCESSES, THREADS)
            measured_s = min(10.0, 0.1 * seconds)
            for _ in range(2):  # the first time warms up
                callers.begin(measured_s / 2, None)
                first = callers.end()
            capacity = sum(first.right.values()) / (measured_s / 2)
            run = Soak(server, models, bundles)
            seconds -= measured_s
            start = time.monotonic()
            callers.begin(seconds, SHARE * capacity)
            run.during(seconds)
            heard = callers.end()
            elapsed = time.monotonic() - start
            callers.close()
            run.finish()
            log = (root / "log").read_text()
        return _report(run, heard, log, str(server.facts["transport"]), capacity, start, seconds, elapsed)


def _report(
    run: Soak, heard: Heard, log: str, transport: str, capacity: float, start: float, seconds: float, elapsed: float
) -> dict[str, object]:
    events = run.events
    early, late = _memory(run.samples, start, seconds)
    violations = [*run.problems, *events.judge(heard, PROCESSES * THREADS)]
    if not late / early - 1 <= MOST_GROWTH:  # NaN, too
        violations.append(f"memory went from {early:.1f} to {late:.1f} MiB")
    violations += [f"the server said: {line}" for line in log.splitlines() if "Traceback" in line or " ERROR " in line]
    if missing := sorted(set(BAD) - set(events.bad.values())):
        violations.append(f"the run was too short for {missing}")
    latencies = np.frombuffer(heard.latencies, np.float32)
    return {
        "transport": transport,
        "seconds": round(elapsed, 1),
        "capacity_per_s": round(capacity),
        "asked_per_s": round(SHARE * capacity),
        "answered_per_s": round(heard.right.total() / elapsed),
        "answered_right": heard.right.total(),
        "answered_wrong": heard.wrong_count,
        "failed": dict(Counter(each.status for each in heard.failed)),
        "failed_by_kill": kills_hit(heard.failed, events.kills),
        "not_made_in_time": heard.given_up,
        "latency_ms": {
            f"p{each:g}": round(1000 * float(np.percentile(latencies, each)), 1) for each in (50, 99, 99.9, 100)
        },
        "connections": len(heard.trails),
        "versions_published": len(events.latest) - 1,
        "labels_moved": run.labels_moved,
        "swap_s": [round(each.served - each.asked, 2) for each in (*events.latest[1:], *events.label[1:])],
        "workers_killed": len(events.kills),
        "bad_versions": {str(number): kind for number, kind in events.bad.items()},
        "answers_by_version": {str(version): heard.right[version] for version in sorted(heard.right)},
        "pss_mib": {"after_a_quarter": round(early, 1), "at_the_end": round(late, 1), "samples": len(run.samples)},
        "violations": violations[:TOLD],
        "violations_count": len(violations),
    }


def main() -> int:
    """Soak, and tell; exit status 1 if anything was not as it must be."""
    report = soak(float(os.environ.get("SOAK_SECONDS", "600")), os.environ.get("TRANSPORT", "auto"))
    print(json.dumps(report, indent=2))
    return 1 if report["violations_count"] else 0


if __name__ == "__main__":
    sys.exit(main())
