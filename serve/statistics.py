"""Statistics: what one worker counts of its calls, by model and version, in numbers that add up over workers.

A snapshot is JSON with text for keys, and nothing in it is cumulative over buckets:

    {"models": {                                 versions by name, then by number as text; calls that named no version
        "ctr": {"3": {                           that is served (bad requests, questions about the server): "" and "0"
            "calls": {"Score": {"OK": 7, …}, …}, calls by method and name of the status
            "rows": 70,                          rows that were scored; this and all below but failed_ns: of OK calls
            "queue_ns": …, "encode_ns": …, "compute_ns": …, "total_ns": …, "failed_ns": total of the others,
            "executions": 7,                     calls that scored rows
            "last_ms": …,                        the last of them, milliseconds since 1970; the greatest, not a sum
            "latency": {"0.0001": 2, …, "+Inf": 0}, OK calls by the least bound in seconds that their total is within
            "batches": {"16": {"count": 7, "encode_ns": …, "compute_ns": …, "output_ns": …}, …},
                                                 executions by rows, rounded up to a power of two
            "scores": {"count": 70, "sum": …, "squares": …, "invalid": 0, "bins": {"0": …, …, "9": …}},
                                                 probabilities; bin 3 holds [.3, .4); invalid ones are NaN
            "fields": {"user": {"values": 70, "missing": 3, "unseen": 1}, …}
        }}}}                                     of a sample of the calls; "unseen" only where it can be told

"fields" and "scores" are there once a version has been observed.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..protos.encode import Encoded, Float32s
from .call import Call
from .observed import Fields, Scores
from .sides import Apart
from .statuses import Status

if TYPE_CHECKING:
    from .model import Model

BOUNDS_NS = tuple(100_000 << power for power in range(16))  # 100 microseconds to 3.3 seconds
Fed = Callable[[], Encoded | Apart]  # what a call fed a model, asked for if the call is of the sample
LAST = "last_"  # what begins so is a moment, of which the greatest is kept


class Statistics:
    """The counters of one worker; safe to share between threads."""

    def __init__(self) -> None:
        self._versions = dict[tuple[str, int], _Version]()

    def record(
        self,
        call: Call,
        method: str,
        status: Status,
        queue_ns: int = 0,
        encode_ns: int = 0,
        compute_ns: int = 0,
        total_ns: int = 0,
    ) -> None:
        """Count a call that is over; `total_ns` includes the other times, and what was spent on the reply."""
        self._version(call.model, call.version).record(
            method, status, call.rows, queue_ns, encode_ns, compute_ns, total_ns
        )

    def observe(self, model: "Model", fed: Sequence[Fed], scores: Sequence[Float32s], *, logits: bool) -> None:
        """Count what a version was fed by calls, and what it said by runs: (K,) probabilities each, or their logits."""
        self._version(model.version.name, model.version.number).observe(model, fed, scores, logits=logits)

    def keep(self, versions: Collection[tuple[str, int]]) -> None:
        """Forget all versions but these, and the calls that named none."""
        for key in list(self._versions):
            if key != ("", 0) and key not in versions:
                self._versions.pop(key, None)

    def snapshot(self) -> dict[str, Any]:
        """The counts until now, as the module says."""
        models = dict[str, dict[str, Any]]()
        for (name, number), version in list(self._versions.items()):
            models.setdefault(name, {})[str(number)] = version.snapshot()
        return {"models": models}

    def _version(self, name: str, number: int) -> "_Version":
        key = (name, number)
        return self._versions.get(key) or self._versions.setdefault(key, _Version())


def add(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """The sum of two snapshots, key by key."""
    total = dict(left)
    for key, value in right.items():
        if key not in total:
            total[key] = value
        elif isinstance(value, dict):
            total[key] = add(total[key], value)
        else:
            total[key] = max(total[key], value) if key.startswith(LAST) else total[key] + value
    return total


def only(snapshot: dict[str, Any], versions: Collection[tuple[str, int]]) -> dict[str, Any]:
    """A snapshot without all versions but these, and the calls that named none."""
    kept = {("", 0), *versions}
    models = {
        name: {number: counts for number, counts in numbers.items() if (name, int(number)) in kept}
        for name, numbers in snapshot.get("models", {}).items()
    }
    return snapshot | {"models": {name: numbers for name, numbers in models.items() if numbers}}


class _Version:
    """The counters of one version."""

    def __init__(self) -> None:
        self._guard = Lock()
        self._calls = dict[str, list[int]]()  # by method, then by the number of the status
        self._rows = self._executions = self._last_ms = 0
        self._queue_ns = self._encode_ns = self._compute_ns = self._total_ns = self._failed_ns = 0
        self._latency = [0] * (len(BOUNDS_NS) + 1)
        self._batches = dict[int, list[int]]()
        self._fields, self._scores = None, Scores()

    def record(
        self,
        method: str,
        status: Status,
        rows: int,
        queue_ns: int,
        encode_ns: int,
        compute_ns: int,
        total_ns: int,
    ) -> None:
        with self._guard:
            if method not in self._calls:
                self._calls[method] = [0] * len(Status)
            self._calls[method][status] += 1
            if status:
                self._failed_ns += total_ns
                return
            self._queue_ns += queue_ns
            self._total_ns += total_ns
            self._latency[bisect_left(BOUNDS_NS, total_ns)] += 1
            if not rows:
                return
            self._rows += rows
            self._executions += 1
            self._encode_ns += encode_ns
            self._compute_ns += compute_ns
            self._last_ms = time.time_ns() // 1_000_000
            if (power := (rows - 1).bit_length()) not in self._batches:
                self._batches[power] = [0, 0, 0, 0]
            batch = self._batches[power]
            batch[0] += 1
            batch[1] += encode_ns
            batch[2] += compute_ns
            output_ns = total_ns - queue_ns - encode_ns - compute_ns
            if output_ns > 0:
                batch[3] += output_ns

    def observe(self, model: "Model", fed: Sequence[Fed], scores: Sequence[Float32s], *, logits: bool) -> None:
        with self._guard:
            if self._fields is None:
                self._fields = Fields(model.schema)
            for place in self._fields.sample(len(fed)):
                self._fields.take(fed[place]())
            for each in scores:
                self._scores.take(each, logits=logits)

    def snapshot(self) -> dict[str, Any]:
        bounds = [*(f"{bound / 1e9:g}" for bound in BOUNDS_NS), "+Inf"]
        parts = ("count", "encode_ns", "compute_ns", "output_ns")
        with self._guard:
            calls = {
                method: {Status(number).name: count for number, count in enumerate(counts) if count}
                for method, counts in self._calls.items()
            }
            found: dict[str, Any] = {
                "calls": calls,
                "rows": self._rows,
                "queue_ns": self._queue_ns,
                "encode_ns": self._encode_ns,
                "compute_ns": self._compute_ns,
                "total_ns": self._total_ns,
                "failed_ns": self._failed_ns,
                "executions": self._executions,
                "last_ms": self._last_ms,
                "latency": dict(zip(bounds, self._latency, strict=True)),
                "batches": {
                    str(1 << power): dict(zip(parts, batch, strict=True))
                    for power, batch in sorted(self._batches.items())
                },
            }
            if self._fields is not None:
                found |= {"scores": self._scores.snapshot(), "fields": self._fields.snapshot()}
            return found
