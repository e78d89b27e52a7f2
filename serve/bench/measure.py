"""Measure: a cell of a bench: warm-up, windows until they agree, and all of it again for the spread."""

import base64
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from ...protos.errors import Unavailable
from .drive import Arrivals, Closed, Drivers, Silent, Window
from .h2load import H2load
from .load import Load
from .result import Cell, Repeat, Server, histogram, percentiles
from .target import Target
from .watch import Watch

WINDOWS = 3  # that must agree, and are the measurement
BUSY_CORE = 0.9  # of a core: a client process above it, which Python's lock keeps to one, may be what holds calls up
LATE_SHARE = 0.01  # of sends over a millisecond late: above it the schedule was not kept


@dataclass(frozen=True)
class Pace:
    """How long a cell is measured.

    most_windows: of a repeat that does not become stable. tolerance: by which stable windows may differ, a share.
    timeout_s: of a call.
    """

    warmup_s: float
    window_s: float
    most_windows: int
    repeats: int
    tolerance: float = 0.1
    timeout_s: float = 30.0


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with the cell of what was measured until then, or None."""

    def __init__(self, cell: Cell | None) -> None:
        super().__init__()
        self.cell = cell


class NoAnswer(Unavailable):
    """The endpoint answers no more; with the cell of all windows, the silent one included, or None without any."""

    def __init__(self, error: Unavailable, cell: Cell | None) -> None:
        super().__init__(error.rule, found=error.found, where=error.where, remedy=error.remedy)
        self.cell = cell


@dataclass
class _Run:
    """One repeat."""

    windows: list[Window] = field(default_factory=list)
    server: Server = field(default_factory=Server)

    def measurement(self) -> Window:
        """Its last windows as one."""
        total = Window()
        for window in self.windows[-WINDOWS:]:
            total.add(window)
        return total

    def stable(self, arrivals: Arrivals, tolerance: float) -> bool:
        """Whether the last windows agree in p50 and in rate: of an open loop, in the share of arrivals answered."""
        last = self.windows[-WINDOWS:]
        if len(last) < WINDOWS or not all(window.answered for window in last):
            return False
        rates = [window.rate for window in last]
        if not isinstance(arrivals, Closed):
            rates = [window.answers / (window.answered + window.failures.total()) for window in last]
        medians = [window.latencies.get_value_at_percentile(50) for window in last]
        return all(max(each) <= min(each) * (1 + tolerance) for each in (rates, medians))


def measure(
    drivers: Drivers | H2load, target: Target, load: Load, arrivals: Arrivals, pace: Pace, watch: Watch | None = None
) -> Cell:
    """Measure one load at one concurrency or rate.

    watch: looks at the server from the first window's end to the last one's.

    Raises:
        NoAnswer: a window without an answer but with failures.
        Unavailable: the server takes no connection, or a client process died.
        Interrupted: Ctrl-C.
    """
    runs = list[_Run]()
    try:
        for number in range(pace.repeats):
            runs.append(_Run())
            _fill(runs[-1], drivers, target, load, _anew(arrivals, number), pace, watch)
    except KeyboardInterrupt:
        raise Interrupted(_cell(load, arrivals, pace, runs, partial=True)) from None
    except Unavailable as error:
        if isinstance(error, Silent):
            runs[-1].windows.append(error.window)
        raise NoAnswer(error, _cell(load, arrivals, pace, runs, partial=True)) from None
    cell = _cell(load, arrivals, pace, runs, partial=False)
    assert cell is not None
    return cell


def _fill(
    run: _Run,
    drivers: Drivers | H2load,
    target: Target,
    load: Load,
    arrivals: Arrivals,
    pace: Pace,
    watch: Watch | None,
) -> None:
    mark = None
    windows = drivers.windows(target.access, target.path, load, arrivals, pace.warmup_s, pace.window_s, pace.timeout_s)
    with closing(windows):
        for window in islice(windows, pace.most_windows):
            run.windows.append(window)
            if watch is not None and mark is None:
                mark = watch.begin()
            if run.stable(arrivals, pace.tolerance):
                break
        if watch is not None and mark is not None:
            run.server = watch.end(mark, sum(window.answers for window in run.windows[1:]))


def _anew(arrivals: Arrivals, repeat: int) -> Arrivals:
    """Other arrivals of the same rate for every repeat, so that the spread is that of chance too."""
    return arrivals if isinstance(arrivals, Closed) else replace(arrivals, seed=arrivals.seed + repeat)


def _cell(load: Load, arrivals: Arrivals, pace: Pace, runs: Sequence[_Run], *, partial: bool) -> Cell | None:
    """The repeat of median rate; failures and the histogram are of all repeats: none are hidden."""
    runs = [run for run in runs if run.windows]
    if not runs:
        return None
    measured = [run.measurement() for run in runs]
    middle = sorted(range(len(runs)), key=lambda number: measured[number].rate)[(len(runs) - 1) // 2]
    run, found = runs[middle], measured[middle]
    latencies, failed, failures = histogram(), histogram(), Counter[str]()
    for each in measured:
        latencies.add(each.latencies)
    for each in runs:
        for window in each.windows:
            failed.add(window.failed)
            failures.update(window.failures)
    sends = found.late.get_total_count()
    return Cell(
        load=load.name,
        rows=float(np.mean(load.counts)),
        concurrency=arrivals.concurrency if isinstance(arrivals, Closed) else None,
        offered=None if isinstance(arrivals, Closed) else arrivals.rate,
        seconds=round(found.wall_s, 3),
        answered=found.answered,
        rate=round(found.rate, 1),
        rows_per_s=round(found.rows / found.wall_s, 1),
        latency_us=percentiles(found.latencies),
        failures=dict(sorted(failures.items())),
        failed_us=percentiles(failed),
        late_us=percentiles(found.late),
        late=found.overdue,
        client_cores=round(found.cpu_s / found.wall_s, 2),
        client_limited=found.busiest > BUSY_CORE or found.overdue > LATE_SHARE * sends,
        windows=[round(window.rate, 1) for window in run.windows],
        stable=all(each.stable(arrivals, pace.tolerance) for each in runs),
        repeats=[_repeat(each) for each in measured],
        server=run.server,
        histogram=base64.b64encode(latencies.encode()).decode(),
        partial=partial,
    )


def _repeat(found: Window) -> Repeat:
    told = percentiles(found.latencies)
    return Repeat(round(found.rate, 1), told.get("p50", 0.0), told.get("p99", 0.0))
