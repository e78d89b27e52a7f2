"""Compare: endpoints, or results of benches, side by side: live ones take turns, so that ratios come from one minute.

A round measures every live endpoint once, in an order that rotates; the ratio of two is taken within a round. Files
were measured apart: theirs is the ratio of the medians, and its spread the widest that their repeats allow.
"""

import argparse
import base64
import json
import shlex
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...protos.errors import DataError, QuoremError
from ...protos.manifest import write_atomically
from .. import cores
from ..channel import access_of
from .client_machine import machine
from .drive import Arrivals, Drivers
from .h2load import H2load
from .load import Load, build
from .loops import Closed, Poisson
from .measure import Pace, measure
from .notes import ms, names, rate, warnings
from .prove import prove
from .result import Cell, Result, histogram
from .run import IN_FLIGHT, INTERRUPTED, ROWS, check_files, source_of
from .sizes import parse_size
from .target import Target, find
from .watch import Watch

FORMAT = "quorem.bench.compare/1"
NUMBERS = {"rate": "rate", "p50": "p50_us", "p99": "p99_us"}  # by what a Repeat calls them
WIDTH = 140  # columns of a table that no terminal shows


@dataclass(frozen=True)
class Ratio:
    """How many times the first one's a number of another is: median, least and greatest."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.least:.2f} {self.greatest:.2f}]"


@dataclass(frozen=True)
class Comparison:
    """A cell that the first result and another one have. ratios: by `NUMBERS`. paired: whether they took turns."""

    title: str
    first: str
    other: str
    paired: bool
    ratios: dict[str, Ratio]


def main(args: argparse.Namespace) -> int:
    """Compare `args.targets`, of which the first is the word; the exit status: 1 if any call failed, 130 by Ctrl-C.

    Raises:
        QuoremError: sides that cannot be compared, and as what measures them.
    """
    sides: list[str] = args.targets[1:]
    _check(args, sides)
    files = {number: Result.read(Path(side)) for number, side in enumerate(sides) if _is_file(side)}
    live = {number: side for number, side in enumerate(sides) if number not in files}
    measured, failed = _live(args, live) if live else ({}, None)
    results = [(files | measured)[number] for number in range(len(sides))]
    found = comparisons(results, paired=set(live))
    told = {
        "format": FORMAT,
        "results": [each.as_dict() for each in results],
        "ratios": [asdict(each) for each in found],
    }
    if args.json:
        print(json.dumps(told))
    else:
        _show(results, found, Console(width=None if sys.stdout.isatty() else WIDTH))
    if args.out is not None:
        write_atomically(args.out, f"{json.dumps(told)}\n".encode())
    if args.page is not None:
        from .page import render  # plots are drawn where they are asked for

        write_atomically(args.page, render(results, found).encode())
    if failed is not None:
        raise failed
    if any(each.partial for each in measured.values()):
        return INTERRUPTED
    cells = [cell for each in measured.values() for cell in each.cells]
    return 1 if any(cell.failures or not cell.answered for cell in cells) else 0


def comparisons(results: Sequence[Result], paired: set[int]) -> list[Comparison]:
    """Every other result's cells against the first one's of the same title.

    Args:
        results: two or more.
        paired: numbers of those that took turns: the repeats of their cells are rounds, in order.

    Raises:
        DataError: a result that has no answered cell in common with the first.
    """
    called, found = names(results), list[Comparison]()
    ours = {each.title: each for each in results[0].cells if each.answered}
    for number, (name, result) in enumerate(zip(called[1:], results[1:], strict=True), 1):
        common = [each for each in result.cells if each.title in ours and each.answered]
        if not common and not (result.partial or results[0].partial):
            raise DataError(
                "results are compared by cells of the same rows and calls in flight, or arrivals",
                found=f"{[each.title for each in result.cells]} beside {list(ours)}",
                where=name,
                remedy="Measure both with the same --rows, --concurrency and --rate",
            )
        together = {0, number} <= paired
        found += [
            Comparison(each.title, called[0], name, together, _ratios(ours[each.title], each, together))
            for each in common
        ]
    return found


def merged(cells: Sequence[Cell]) -> Cell:
    """The rounds of a cell as one: the round of median rate, with all rounds' repeats, latencies and failures."""
    middle = sorted(cells, key=lambda each: each.rate)[(len(cells) - 1) // 2]
    latencies, failures = histogram(), Counter[str]()
    for each in cells:
        latencies.add(each.latencies())
        failures.update(each.failures)
    return replace(
        middle,
        failures=dict(sorted(failures.items())),
        client_limited=any(each.client_limited for each in cells),
        stable=all(each.stable for each in cells),
        repeats=[repeat for each in cells for repeat in each.repeats],
        histogram=base64.b64encode(latencies.encode()).decode(),
    )


def _ratios(first: Cell, other: Cell, together: bool) -> dict[str, Ratio]:
    found = dict[str, Ratio]()
    for name, key in NUMBERS.items():
        below, above = ([float(getattr(repeat, key)) for repeat in each.repeats] for each in (first, other))
        if not all(below):
            continue
        if together:
            each = [theirs / mine for mine, theirs in zip(below, above, strict=True)]
            found[name] = Ratio(statistics.median(each), min(each), max(each))
        else:
            middle = statistics.median(above) / statistics.median(below)
            found[name] = Ratio(middle, min(above) / max(below), max(above) / min(below))
    return found


def _is_file(side: str) -> bool:
    return side.endswith(".json") or Path(side).is_file()


def _check(args: argparse.Namespace, sides: Sequence[str]) -> None:
    if len(sides) < 2:
        raise DataError(
            "compare takes two or more of host:port and files of `quorem bench --out`",
            found=str(len(sides)),
            where="compare",
            remedy="Name another",
        )
    if args.scenario not in ("closed", "open"):
        raise DataError(
            "live endpoints are compared in closed or open loops",
            found=args.scenario,
            where="--scenario",
            remedy="Measure each with --out, and compare the files",
        )
    if args.repeats > 1:
        raise DataError(
            "the repeats of a comparison are its rounds",
            found=f"--repeats {args.repeats}",
            where="bench compare",
            remedy="Say how many with --rounds",
        )
    if args.metrics is not None or args.pid is not None:
        raise DataError(
            "--metrics and --pid are of one server",
            found=f"{len(sides)} sides",
            where="bench compare",
            remedy="Bench each with --out, and compare the files",
        )
    if args.scenario == "open" and not args.rate and not all(map(_is_file, sides)):
        raise DataError("arrivals have a rate", found="none", where="--rate", remedy="Name some, as in --rate 100,200")
    if args.scenario == "closed" and args.rate:
        raise DataError(
            "--rate is of --scenario open", found="closed", where="--scenario", remedy="Name --scenario open"
        )
    check_files(args)


def _live(args: argparse.Namespace, sides: Mapping[int, str]) -> tuple[dict[int, Result], QuoremError | None]:
    """Measure the endpoints in turn; whole rounds until Ctrl-C, or until one fails, are partial results."""
    targets, loads = dict[int, Target](), dict[int, list[Load]]()
    sizes = args.rows or [parse_size(each) for each in ROWS.get(args.scenario, ("mlperf",))]
    for number, side in sides.items():
        access = access_of(argparse.Namespace(**{**vars(args), "endpoint": side}))
        targets[number] = target = find(access, args.model, args.protocol, args.bundle)
        loads[number] = [build(target, source_of(args), size, args.seed) for size in sizes]
        for load in loads[number]:
            prove(target, load)
    kinds: list[Arrivals] = [Closed(each) for each in args.concurrency or IN_FLIGHT]
    if args.scenario == "open":
        kinds = [Poisson(each, args.seed) for each in args.rate]
    cells, partial = dict[tuple[int, int, int], list[Cell]](), False  # by load, arrivals and side; a round each
    failed: QuoremError | None = None
    pace = Pace(args.warmup, args.window, args.windows, repeats=1, timeout_s=args.timeout)
    watches = {number: Watch(target, None, None) for number, target in targets.items()}
    processes = args.processes or max(1, cores.usable()[0] // 2)
    with nullcontext(H2load()) if args.driver == "h2load" else Drivers(processes) as drivers:
        try:
            for load, how, turn, number in _turns((len(sizes), len(kinds), args.rounds), list(sides)):
                arrivals = kinds[how]
                if isinstance(arrivals, Poisson):  # others in every round, the same for all sides of it
                    arrivals = replace(arrivals, seed=args.seed + turn)
                cell = measure(drivers, targets[number], loads[number][load], arrivals, pace, watches[number])
                _say(f"round {turn + 1} of {args.rounds}: {sides[number]}, {cell.title}: {rate(cell.rate)} calls/s")
                cells.setdefault((load, how, number), []).append(cell)
        except KeyboardInterrupt:
            partial = True
        except QuoremError as error:
            if not cells:
                raise
            partial, failed = True, error
    found: dict[int, list[Cell]] = {number: [] for number in sides}
    for load, how in dict.fromkeys(key[:2] for key in cells):
        whole = min(len(cells.get((load, how, number), ())) for number in sides)
        for number in sides if whole else ():
            found[number].append(merged(cells[load, how, number][:whole]))
    results = {
        number: Result(_facts(args, target), machine(processes), found[number], partial=partial)
        for number, target in targets.items()
    }
    return results, failed


def _turns(counts: tuple[int, int, int], sides: list[int]) -> Iterator[tuple[int, int, int, int]]:
    """Load, arrivals, round and side of every measurement, in order; `counts` are of the first three."""
    for load, how, turn in product(*map(range, counts)):
        start = turn % len(sides)
        for number in sides[start:] + sides[:start]:
            yield load, how, turn, number


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _facts(args: argparse.Namespace, target: Target) -> dict[str, Any]:
    return {
        "endpoint": target.access.endpoint,
        "model": target.model,
        "version": target.version,
        "scenario": args.scenario,
        "protocol": target.protocol,
        "rows_from": str(args.rows_file or args.bundle or "drawn from the schema"),
        "seed": args.seed,
        "driver": args.driver,
        "rounds": args.rounds,
        "warmup_s": args.warmup,
        "window_s": args.window,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["quorem", *sys.argv[1:]]),
    }


def _show(results: Sequence[Result], found: Sequence[Comparison], console: Console) -> None:
    """A row a result of every cell that several have: its numbers, and how many times the first one's they are."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("load", "endpoint", "calls/s", "p50", "p99", *(f"ratio of {name}" for name in NUMBERS)):
        table.add_column(name, justify="left" if name in ("load", "endpoint") else "right", overflow="fold")
    called = names(results)
    for name, result in zip(called, results, strict=True):
        for cell in result.cells:
            ratios = next((each.ratios for each in found if (each.title, each.other) == (cell.title, name)), {})
            if cell.answered:
                times = (ms(cell.latency_us[each]) for each in ("p50", "p99"))
                told = (str(ratios.get(each, "")) for each in NUMBERS)
                table.add_row(escape(cell.title), escape(name), rate(cell.rate), *times, *told)
    console.print(table)
    console.print("- ratios are to the first endpoint: median [least greatest]", markup=False)
    if not all(each.paired for each in found):
        console.print("! not measured in turn: their ratios hold what changed on the machine meanwhile", markup=False)
    for name, result in zip(called, results, strict=True):
        for sentence in warnings(result):
            console.print(f"! {name}: {sentence}", markup=False, highlight=False, style="yellow")
