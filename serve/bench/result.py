"""Result: what a bench found, as one JSON document that a script reads, a page draws and another bench is held against.

Legend: us are microseconds; a rate is calls a second.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from hdrh.histogram import HdrHistogram

from ...protos.errors import Malformed, MissingFile
from ...protos.manifest import write_atomically

FORMAT = "quorem.bench/1"
LEAST_NS, MOST_NS, DIGITS = 1_000, 600_000_000_000, 3
PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


def histogram() -> HdrHistogram:
    """Of nanoseconds: 1 microsecond to 10 minutes, to 3 digits, which is what its percentiles may be off by."""
    return HdrHistogram(LEAST_NS, MOST_NS, DIGITS)


def decoded(data: bytes) -> HdrHistogram:
    """A histogram from its own `encode`."""
    found = histogram()
    found.decode_and_add(data)
    return found


def percentiles(latencies: HdrHistogram) -> dict[str, float]:
    """p50 to p99.9, max and mean in microseconds; empty where nothing was counted."""
    if not latencies.get_total_count():
        return {}
    found = {f"p{share:g}": latencies.get_value_at_percentile(share) / 1e3 for share in PERCENTILES}
    found |= {"max": latencies.get_max_value() / 1e3, "mean": latencies.get_mean_value() / 1e3}
    return {name: round(value, 1) for name, value in found.items()}


@dataclass(frozen=True)
class Server:
    """The server's own view of a cell, of calls that it answered; None where it does not tell.

    queue_us, compute_us: mean of a call: waiting for its turn, in the model. cpu_us: processor time of all its
    processes, a call. pss_bytes: their memory at the cell's end, pages they share counted once.
    """

    queue_us: float | None = None
    compute_us: float | None = None
    cpu_us: float | None = None
    pss_bytes: int | None = None


@dataclass(frozen=True)
class Repeat:
    """One measurement of a cell: what the spread is told from."""

    rate: float
    p50_us: float
    p99_us: float


@dataclass(frozen=True)
class Cell:
    """One load and what came of it; of several repeats, the one of median rate, with the spread beside it.

    load: what a request holds, as asked for: "128", or "mlperf" for 100 to 700 candidates.
    rows: rows of a mean request.
    concurrency: calls in flight of a closed loop. offered: arrivals a second of an open one. One of them is None.
    seconds: measured, without warm-up.
    rate, rows_per_s: answered.
    latency_us: `percentiles` of answered calls: from the send in a closed loop, from the scheduled send in an open one.
    failures: calls by the status they ended with, in all windows of all repeats, so that none is hidden; failed_us:
        `percentiles` of those.
    late_us: `percentiles` of how long after their schedule calls were sent (open loop); late: of them, over 1 ms late.
    client_cores: processors that the bench used; client_limited: whether it, not the server, was what held calls up.
    windows: rates of all windows; stable: whether the last three were within the tolerance.
    histogram: base64 of the HDR histogram of `latency_us` in nanoseconds, all repeats together.
    """

    load: str
    rows: float
    concurrency: int | None
    offered: float | None
    seconds: float
    answered: int
    rate: float
    rows_per_s: float
    latency_us: dict[str, float]
    failures: dict[str, int]
    failed_us: dict[str, float]
    late_us: dict[str, float]
    late: int
    client_cores: float
    client_limited: bool
    windows: list[float]
    stable: bool
    repeats: list[Repeat]
    server: Server = field(default_factory=Server)
    histogram: str = ""
    partial: bool = False

    @property
    def title(self) -> str:
        """How a reader tells cells apart."""
        offered = self.offered or 0
        told = f"{offered:,.0f}" if offered >= 100 else f"{offered:.3g}"
        how = f"{self.concurrency} in flight" if self.concurrency else f"{told}/s offered"
        return f"{self.load} {'row' if self.load == '1' else 'rows'}, {how}"

    def latencies(self) -> HdrHistogram:
        """The histogram, decoded."""
        return decoded(base64.b64decode(self.histogram))


@dataclass(frozen=True)
class Result:
    """All cells of one endpoint.

    facts: endpoint, model, version, scenario, protocol, rows_from, seed, driver, command, date, …: text and numbers.
    machine: of the client: processor, cores, pinning, memory, versions.
    noop: the cell of a call that computes nothing, on the same connections: the price of an RPC.
    slo: of scenario `slo`: {"bound_ms", "rate", "p99_ms", "disproved"}; rate 0: not even the least one stays under the
        bound; disproved: rates that failed once and held when they were measured again.
    mlperf: of scenario `mlperf`: {"scenario", "valid", "summary" (LoadGen's own text), …}.
    partial: it was interrupted; the cells are those measured until then.
    """

    facts: dict[str, Any]
    machine: dict[str, Any]
    cells: list[Cell]
    noop: Cell | None = None
    slo: dict[str, float] | None = None
    mlperf: dict[str, Any] | None = None
    partial: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"format": FORMAT, **asdict(self)}

    def write(self, path: Path) -> None:
        """Write it, atomically."""
        write_atomically(path, (json.dumps(self.as_dict()) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote.

        Raises:
            MissingFile, Malformed: no such file, or not a bench's result.
        """
        try:
            found = json.loads(path.read_bytes())
        except OSError as error:
            raise MissingFile(
                "a result of `quorem bench --out` is there",
                found=error.strerror or str(error),
                where=str(path),
                remedy="Name another file, or an endpoint as host:port",
            ) from None
        except ValueError as error:
            raise _malformed(path, str(error)) from None
        try:
            if found.pop("format") != FORMAT:
                raise ValueError("another format")
            cells = [_cell(each) for each in found.pop("cells")]
            noop = found.pop("noop")
            return cls(cells=cells, noop=None if noop is None else _cell(noop), **found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _malformed(path, str(error)) from None


def _cell(found: Mapping[str, Any]) -> Cell:
    unknown = found.keys() - {each.name for each in fields(Cell)}
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    repeats: Sequence[Any] = found["repeats"]
    parts = {"server": Server(**found["server"]), "repeats": [Repeat(**each) for each in repeats]}
    return Cell(**{**found, **parts})


def _malformed(path: Path, found: str) -> Malformed:
    return Malformed(
        f"a result of a bench is JSON of the format {FORMAT}",
        found=found,
        where=str(path),
        remedy="Make it with `quorem bench ENDPOINT --out FILE`",
    )
