"""The race: servers that are all up take turns under the same load, a round each, in an order that rotates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from quorem.serve.bench.drive import Closed
from quorem.serve.bench.h2load import H2load
from quorem.serve.bench.load import Load
from quorem.serve.channel import Access

from .rows import Pair, Request
from .servers import Server

WARMUP_S, TIMEOUT_S = 0.3, 30.0


class Cell(NamedTuple):
    """A load: rows of a request, calls in flight."""

    rows: int
    in_flight: int


@dataclass(frozen=True)
class Round:
    """What a server did in a round: calls a second, microseconds of a call and of processors, the client's cores."""

    rate: float
    p50_us: float
    p99_us: float
    cpu_us: float | None
    client_cores: float


def race(
    servers: Sequence[Server], requests: Mapping[int, Pair], cells: Sequence[Cell], rounds: int, seconds: float
) -> Iterator[tuple[Cell, dict[str, list[Round]]]]:
    """Cell by cell, the rounds of every server."""
    for cell in cells:
        found: dict[str, list[Round]] = {server.name: [] for server in servers}
        for number in range(rounds):
            start = number % len(servers)
            for server in [*servers[start:], *servers[:start]]:
                pair = requests[cell.rows]
                request = pair.ours if server.is_ours else pair.theirs
                found[server.name].append(one_round(server, request, cell.in_flight, seconds))
        yield cell, found


def one_round(server: Server, request: Request, in_flight: int, seconds: float) -> Round:
    """One round; the tree's processor time is that of its middle third, whose ends are this process's own."""
    rows = len(request.logits)
    load = Load(str(rows), (request.body,), (rows,), (request.logits,))
    windows = H2load().windows(
        Access(server.address), request.path, load, Closed(in_flight), WARMUP_S, seconds / 3, TIMEOUT_S
    )
    total = next(windows)
    before = server.cpu_s()
    middle = next(windows)
    used = server.cpu_s() - before
    total.add(middle)
    total.add(next(windows))
    windows.close()
    return Round(
        rate=total.answered / total.wall_s,
        p50_us=total.latencies.get_value_at_percentile(50) / 1e3,
        p99_us=total.latencies.get_value_at_percentile(99) / 1e3,
        cpu_us=1e6 * used / middle.answered if server.pid else None,
        client_cores=total.cpu_s / total.wall_s,
    )
