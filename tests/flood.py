"""Flood: what means a server harm, on its wire, while somebody asks for its health: `python tests/flood.py --full`.

Each flood is sent by a process of its own until it is over, however often its connection is closed; the server has one
worker, on a core of its own where there are two, so that health is asked of whom the flood meets. Told are, for each,
the connections that it took, how long health took, over a connection that was there before and over new ones in turn,
and the memory of the worker before and a while after it. It is judged that health took 100 ms at most, but for what the
machine had the worker or the asker wait for a core that others used; that the worker lived and said nothing; and that
its memory came back to within 5 %. Without `--full` everything is a hundredth.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from floods import FLOODS
from frames import Connection, framed
from quorem.serve.metrics import cpu_seconds
from served import Served, make_repository, serving

MOST_S, MOST_GROWTH, MOST_SETTLE_S = 0.1, 0.05, 15.0
FULL, SHORT = 100_000, 1000
PAUSE_S, NEW_EVERY = 0.01, 20  # between two questions for health, and how often one is asked over a new connection
NICE = 10  # of who floods, where it shares a core with who asks


@dataclass
class Watched:
    """Health as it was told while something else happened: seconds of every answer, and what was none.

    own: the same without the seconds that this process and the threads of a worker waited for a core.
    """

    worker: int
    took: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def ask(self, connection: Connection, since: float, waited: float) -> None:
        """Ask once; `waited` is what the machine had had them wait before."""
        reply = connection.call(framed(b""))
        self.took.append(time.monotonic() - since)
        self.own.append(max(0.0, self.took[-1] - (self.waited() - waited)))
        if reply.status != 0:
            self.failures.append(f"health ended with {reply.status}, {reply.reset}, closed {connection.closed}")

    def waited(self) -> float:
        """Seconds that this process and the worker's threads have stood ready while others had their cores."""
        found = 0
        for pid in ("self", self.worker):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(OSError):  # a thread that has just ended
                    found += int((task / "schedstat").read_text().split()[1])
        return 1e-9 * found

    def __str__(self) -> str:
        p50, p99 = 1000 * np.percentile(self.took, (50, 99))
        told = f"health {len(self.took)} x, {p50:.1f} ms, p99 {p99:.1f}, most {1000 * max(self.took):.1f}"
        return f"{told}, {1000 * max(self.own):.1f} without waits for a core"


def watch(server: Served, goes_on: Callable[[], bool]) -> Watched:
    """Ask for health for as long as something goes on, and once more."""
    watched, number, address = Watched(server.worker_pids[0]), 0, server.address
    with Connection(address) as old:
        while not watched.took or goes_on():
            number, waited, since = number + 1, watched.waited(), time.monotonic()
            try:
                if old.closed or number % NEW_EVERY == 0:
                    with Connection(address) as new:
                        watched.ask(new, since, waited)
                else:
                    watched.ask(old, since, waited)
            except OSError as error:
                watched.failures.append(f"health is not told: {error}")
            time.sleep(PAUSE_S)
    if old.closed:
        watched.failures.append("the connection of one that asks for health was closed")
    return watched


def memory(server: Served) -> int:
    """Of the worker, bytes that are no file's."""
    status = Path(f"/proc/{server.worker_pids[0]}/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def settled(server: Served, before: int, patience_s: float = MOST_SETTLE_S) -> int:
    """The worker's memory once it has come back to what it was, or the time for that is over."""
    until = time.monotonic() + patience_s
    while (found := memory(server)) > (1 + MOST_GROWTH) * before and time.monotonic() < until:
        time.sleep(0.2)
    return found


def _attack(name: str, address: str, count: int, core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
        os.nice(NICE)
    print(f"{FLOODS[name](address, count):7} connections  ", end="", flush=True)


def judge(server: Served, names: list[str], count: int, core: int | None) -> list[str]:
    """Flood, tell, and say what was not as it must be."""
    violations, spawn = list[str](), multiprocessing.get_context("spawn")
    for name in FLOODS:  # a little of each first: code is loaded, and tables that stay have grown
        FLOODS[name](server.address, SHORT)
    first = before = memory(server)
    calm = time.monotonic() + 3
    print(f"{'(none)':20}{'':7}              {watch(server, lambda: time.monotonic() < calm)}", flush=True)
    for name in names:
        print(f"{name:20}", end="", flush=True)
        attack = spawn.Process(target=_attack, args=(name, server.address, count, core), daemon=True)
        begun, used = time.monotonic(), cpu_seconds(server.worker_pids[0]) or 0
        attack.start()
        watched = watch(server, attack.is_alive)
        took, used = time.monotonic() - begun, (cpu_seconds(server.worker_pids[0]) or 0) - used
        after = settled(server, before)
        print(f"{watched}; {took:.1f} s, {used:.1f} of CPU; {before / 1e6:.1f} to {after / 1e6:.1f} MB", flush=True)
        violations += [f"{name}: {each}" for each in watched.failures[:5]]
        if max(watched.own) > MOST_S:
            late = sum(each > MOST_S for each in watched.own)
            violations.append(f"{name}: health took {1000 * max(watched.own):.0f} ms ({late} of {len(watched.own)})")
        if after > (1 + MOST_GROWTH) * before:
            violations.append(f"{name}: memory went from {before} to {after} bytes")
        if attack.exitcode != 0:
            violations.append(f"{name}: the flood itself failed")
        if server.workers() != server.worker_pids:
            return [*violations, f"{name}: the worker died"]
        before = after
    if before > (1 + MOST_GROWTH) * first:
        violations.append(f"all: memory went from {first} to {before} bytes")
    if said := server.log.read_text():
        violations.append(f"the server said: {said[:3000]}")
    return violations


def main() -> int:
    """Judge; exit status 1 if something was not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="as much as a release needs")
    parser.add_argument("--transport", default="auto", help="of the server, %(default)s")
    parser.add_argument("--only", choices=FLOODS, action="append", help="this flood (repeatable)")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory(prefix="quorem-flood-") as name:
        root = Path(name)
        make_repository(root)
        with serving(root / "models", root / "log", "--workers", "1", "--transport", args.transport) as server:
            core = cores[1] if len(cores) > 1 else None
            if core is not None:
                for task in Path(f"/proc/{server.worker_pids[0]}/task").iterdir():
                    os.sched_setaffinity(int(task.name), {cores[0]})
                os.sched_setaffinity(0, {core})
            print(f"transport {server.facts['transport']}", flush=True)
            violations = judge(server, args.only or list(FLOODS), FULL if args.full else SHORT, core)
    for each in violations:
        print(f"FAILED {each}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
