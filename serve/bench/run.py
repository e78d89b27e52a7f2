"""Run: what `quorem bench ENDPOINT` does: requests are built and proved, sent as the scenario says, and told of."""

import argparse
import json
import os
import shlex
import sys
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status

from ...protos.errors import DataError, NotFound, QuoremError, Unavailable
from ...protos.manifest import write_atomically
from .. import cores
from ..channel import access_of
from ..services import INFERENCE
from . import mlperf, offline, slo
from .client_machine import machine
from .drive import Arrivals, Drivers
from .h2load import H2load
from .load import Drawn, GoldenRows, Load, RowsFile, Source, build
from .loops import Closed, Poisson
from .measure import Interrupted, NoAnswer, Pace, measure
from .prove import prove
from .result import Cell, Result
from .sizes import parse_size
from .table import show
from .target import Target, find
from .watch import Watch

WIDTH = 120  # columns of a table that no terminal shows
INTERRUPTED = 130
NOOP = Load("no-op", (b"",), (0,), (None,))
IN_FLIGHT = [1, 8, 32]  # of a closed loop, where nobody says
ONLY = {  # options that other scenarios would not look at
    "concurrency": ("closed",),
    "rate": ("open", "mlperf"),
    "queries": ("mlperf",),
    "logs": ("mlperf",),
    "mlperf_offline": ("mlperf",),
}
CAPACITY_IN_FLIGHT = 8  # of the closed loop that a search begins with
SERVER_SHARE, OFFLINE_SHARE = 0.9, 1.1  # of what a search found, for LoadGen
ROWS = {"closed": ("1", "32", "128")}  # of a request, where nobody says; of the other scenarios MLPerf's


def main(args: argparse.Namespace) -> int:
    """Measure an endpoint; the exit status: 1 if a call failed or LoadGen calls the run invalid, 130 if interrupted.

    Raises:
        QuoremError: rows, options or a server that will not do.
    """
    _check(args)
    if args.page is not None:
        import matplotlib as _  # noqa: F401  # before the measurement, not after it
    (args.endpoint,) = args.targets
    access = access_of(args)
    target = find(access, args.model, args.protocol, args.bundle)
    with Console(stderr=True).status("building requests") as status:
        bench = _Bench(args, target, status)
        failed: QuoremError | None = None
        try:
            bench.run()
        except (KeyboardInterrupt, QuoremError) as error:
            found: Cell | None = getattr(error, "cell", None)
            if found is not None and found.answered:
                bench.cells.append(found)
            failed = error if isinstance(error, QuoremError) else None
            if failed is not None and not bench.cells:
                raise
            bench.partial = True
    result = bench.result()
    publish(args, result)
    if failed is not None:
        raise failed
    if bench.partial:
        return INTERRUPTED
    return 0 if _succeeded(result) else 1


def publish(args: argparse.Namespace, result: Result) -> None:
    """Print it, and write the files that were asked for."""
    if args.json:
        print(json.dumps(result.as_dict()), flush=True)
    else:
        show(result, Console(width=None if sys.stdout.isatty() else WIDTH))
    if args.out is not None:
        result.write(args.out)
    if args.page is not None:
        from .page import render

        write_atomically(args.page, render([result]).encode())


def _succeeded(result: Result) -> bool:
    """Whether all calls were answered; of a search, which ends where they are not, whether it found something."""
    if result.mlperf is not None:
        return bool(result.mlperf["valid"])
    if result.slo is not None:
        return result.slo["rate"] > 0
    whole = [each for each in result.cells if each.answered and not each.failures]
    if result.facts["scenario"] == "offline":
        return {each.load for each in whole} == {each.load for each in result.cells}
    return len(whole) == len(result.cells)


def source_of(args: argparse.Namespace) -> Source:
    """Where the rows of requests come from."""
    if args.rows_file is not None:
        return RowsFile(args.rows_file, tuple(args.ignore))
    return Drawn(args.id_range) if args.bundle is None else GoldenRows(args.bundle)


class _Bench:
    """One run: what it measures, and what it has measured so far."""

    def __init__(self, args: argparse.Namespace, target: Target, status: Status) -> None:
        self.cells, self.partial = list[Cell](), False
        self._args, self._target, self._status = args, target, status
        self._noop: Cell | None = None
        self._slo: dict[str, float] | None = None
        self._mlperf: dict[str, Any] | None = None
        self._processes = args.processes or max(1, cores.usable()[0] // 2)
        self._pace = Pace(args.warmup, args.window, args.windows, args.repeats, timeout_s=args.timeout)
        self._watch = Watch(target, args.metrics, args.pid)
        self._watch.check()
        sizes = args.rows or [parse_size(each) for each in ROWS.get(args.scenario, ("mlperf",))]
        self._loads = [build(target, source_of(args), size, args.seed) for size in sizes]
        self._drivers: Any = None

    def run(self) -> None:
        """Prove every load, then measure as the scenario says."""
        for load in self._loads:
            self._status.update(f"{load.name} rows: are the scores right?")
            prove(self._target, load)
        drivers = nullcontext(H2load()) if self._args.driver == "h2load" else Drivers(self._processes)
        with drivers as self._drivers:
            if self._args.noop and self._args.driver != "h2load":
                self._price_a_call()
            scenarios = {
                "closed": self._closed,
                "open": self._open,
                "slo": self._search_slo,
                "offline": self._offline,
                "mlperf": self._loadgen,
            }
            scenarios[self._args.scenario]()

    def result(self) -> Result:
        """What was measured so far."""
        args, target = self._args, self._target
        rows_from = args.rows_file or args.bundle or "drawn from the schema"
        facts = {
            "endpoint": args.endpoint,
            "model": target.model,
            "version": target.version,
            "scenario": args.scenario,
            "protocol": target.protocol,
            "rows_from": str(rows_from),
            "seed": args.seed,
            "driver": args.driver,
            "warmup_s": args.warmup,
            "window_s": args.window,
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "command": shlex.join(["quorem", *sys.argv[1:]]),
        }
        about = machine(self._processes)
        return Result(facts, about, self.cells, self._noop, self._slo, self._mlperf, self.partial)

    def _measure(self, load: Load, arrivals: Arrivals, of: str = "") -> Cell:
        how = f"{arrivals.concurrency} in flight" if isinstance(arrivals, Closed) else f"{arrivals.rate:,.1f} calls/s"
        self._status.update(f"{load.name} rows, {how}{of}")
        return measure(self._drivers, self._target, load, arrivals, self._pace, self._watch)

    def _keep(self, load: Load, arrivals: Arrivals, of: str = "") -> Cell:
        self.cells.append(self._measure(load, arrivals, of))
        return self.cells[-1]

    def _price_a_call(self) -> None:
        """Time calls that compute nothing; a server that will not answer them is not told of."""
        self._status.update("calls without work")
        target = replace(self._target, path=f"/{INFERENCE}/ServerLive")
        lightest = min(self._args.concurrency or IN_FLIGHT) if self._args.scenario == "closed" else 1
        in_flight = Closed(lightest)
        pace = replace(self._pace, repeats=1)
        try:
            self._noop = measure(self._drivers, target, NOOP, in_flight, pace, self._watch)
        except Interrupted:
            raise KeyboardInterrupt from None  # it is no cell of what was asked for
        except Unavailable:
            self._noop = None

    def _closed(self) -> None:
        asked = [(load, number) for load in self._loads for number in self._args.concurrency or IN_FLIGHT]
        for position, (load, number) in enumerate(asked, 1):
            self._keep(load, Closed(number), f" ({position} of {len(asked)})")

    def _open(self) -> None:
        asked = [(load, rate) for load in self._loads for rate in self._args.rate]
        for position, (load, rate) in enumerate(asked, 1):
            self._keep(load, Poisson(rate, self._args.seed), f" ({position} of {len(asked)})")

    def _search_slo(self) -> None:
        try:
            self._greatest_rate()
        finally:  # a search that is cut short has found something too
            if self.cells:
                self._slo = slo.told(self.cells, self._args.bound)

    def _greatest_rate(self) -> float:
        load, seeds = self._loads[0], count(self._args.seed)  # no two measurements have the same arrivals
        capacity = self._measure(load, Closed(CAPACITY_IN_FLIGHT), ", to begin with")
        start = max(1.0, capacity.rate / 2)
        return slo.search(lambda rate: self._probe(load, Poisson(rate, next(seeds))), start, 1000 * self._args.bound)[0]

    def _probe(self, load: Load, arrivals: Arrivals) -> Cell:
        """A cell of a search, which asks for too much at times: a window in which all calls failed is such a cell.

        Raises:
            NoAnswer: the server answers no more at all, or takes no connection.
        """
        try:
            return self._keep(load, arrivals)
        except NoAnswer as error:
            was_silent = bool(self.cells) and not self.cells[-1].answered
            if error.cell is None or not error.cell.failures or was_silent:
                raise
            self.cells.append(replace(error.cell, partial=False))
            return self.cells[-1]

    def _offline(self) -> None:
        for load in self._loads:
            offline.search(lambda number, load=load: self._probe(load, Closed(number)))

    def _loadgen(self) -> None:
        """Run LoadGen; what nobody said of its rate is found by a search, whose cells are told too."""
        args, load = self._args, self._loads[0]
        kind = "offline" if args.mlperf_offline else "server"
        rate, in_flight = (args.rate or [0.0])[0], mlperf.MlPerf.in_flight
        if kind == "offline":  # a rate that is too low makes LoadGen's run too short
            best, _ = offline.search(lambda number: self._probe(load, Closed(number)))
            if best is not None and best.concurrency is not None:
                rate, in_flight = rate or OFFLINE_SHARE * best.rate, best.concurrency
        elif not rate:
            rate = SERVER_SHARE * self._greatest_rate()
        if not rate:
            raise Unavailable(
                "LoadGen is given a rate that the server keeps",
                found="none in the search",
                where=args.endpoint,
                remedy="Name one with --rate, or a longer --bound",
            )
        self._status.update(f"LoadGen, {kind}, {rate:,.1f} samples/s, for {args.seconds:g} s")
        asked = mlperf.MlPerf(
            kind, rate, args.bound, args.seconds, args.queries, in_flight=in_flight, warmup_s=args.warmup
        )
        self._mlperf = mlperf.run(self._target, load, asked, args.logs, args.timeout)
        self.partial = self._mlperf["partial"]


def check_files(args: argparse.Namespace) -> None:
    """Whether what is measured can be written down: to be known before, not after.

    Raises:
        NotFound, DataError: no directory to write to, or a directory in the place of a file.
    """
    for name in ("out", "page", "logs"):
        path: Path | None = getattr(args, name)
        if path is None:
            continue
        if not path.parent.is_dir():
            raise NotFound(
                f"--{name} stands in a directory", found="none", where=str(path.parent), remedy="Make it first"
            )
        if name != "logs" and path.is_dir():
            raise DataError(
                f"--{name} is a file", found="a directory", where=str(path), remedy="Name a file, in it for example"
            )
        if not os.access(path.parent, os.W_OK):
            raise DataError(
                f"--{name} can be written", found="no permission", where=str(path.parent), remedy="Name another place"
            )


def _check(args: argparse.Namespace) -> None:
    """What argparse cannot see: options that belong together."""
    check_files(args)
    if len(args.targets) > 1:
        raise _refusal("a bench has one ENDPOINT", " ".join(args.targets), "To hold several: quorem bench compare A B")
    if args.scenario == "open" and not args.rate:
        raise _refusal("--scenario open has a --rate", "none", "Name one, or let --scenario slo find it")
    for name, scenarios in ONLY.items():
        if getattr(args, name) and args.scenario not in scenarios:
            option, among = name.replace("_", "-"), " and ".join(scenarios)
            raise _refusal(f"--{option} is of --scenario {among}", f"--scenario {args.scenario}", "Leave it out")
    if args.scenario == "mlperf":
        mlperf.check_installed()
    if args.scenario == "mlperf" and len(args.rate or ()) > 1:
        raise _refusal("LoadGen takes one --rate", f"{len(args.rate)}", "Name one")
    if args.scenario in ("slo", "mlperf") and args.rows is not None and len(args.rows) > 1:
        raise _refusal(f"--scenario {args.scenario} takes one size", f"{len(args.rows)}", "Name one with --rows")
    if args.driver == "h2load" and args.scenario not in ("closed", "offline"):
        raise _refusal("h2load sends a closed loop", f"--scenario {args.scenario}", "Leave --driver out")


def _refusal(rule: str, found: str, remedy: str) -> DataError:
    return DataError(rule, found=found, where="bench", remedy=remedy)
