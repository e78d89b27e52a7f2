"""Notes: a result in sentences: what was found, and what a reader must know before believing it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .result import Cell, Result

LATE = 0.01  # of the calls of an open loop: the share of late sends above which they are told
FEW = 100  # calls: of fewer, none in a hundred is slower than p99
WIDE = 0.1  # of the median rate: the spread of repeats above which it is told
SEARCHES = ("slo", "offline", "mlperf")
SCENARIOS = {
    "closed": "closed loop",
    "open": "Poisson arrivals",
    "slo": "greatest rate under a bound",
    "offline": "offline",
    "mlperf": "MLPerf",
}


def title(result: Result) -> str:
    """Which model, where, and how it was measured."""
    facts = result.facts
    model = "/".join(str(facts[key]) for key in ("model", "version") if facts.get(key) not in (None, ""))
    where = " on ".join(each for each in (model, str(facts.get("endpoint", ""))) if each)
    how = [SCENARIOS.get(str(facts.get("scenario")), str(facts.get("scenario", ""))), str(facts.get("protocol", ""))]
    return ", ".join(each for each in (where, *how) if each)


def warnings(result: Result) -> Iterator[str]:
    """What speaks against the numbers, the gravest first."""
    cells = result.cells
    if result.partial or any(each.partial for each in cells):
        yield "The bench was interrupted. What stands here is what it had measured until then."
    yield from _loadgen_warnings(result.mlperf or {})
    if failing := [each for each in cells if each.failures]:
        statuses = [
            f"{sum(each.failures.get(status, 0) for each in failing):,} {status}"
            for status in sorted({status for each in failing for status in each.failures})
        ]
        failed = (
            "Calls failed where a search asked for too much"
            if result.facts.get("scenario") in SEARCHES
            else "Calls failed"
        )
        yield f"{failed}, and are no part of the latencies: {', '.join(statuses)} ({_where(failing, cells)})."
    if silent := [each for each in cells if not each.answered]:
        yield f"Nothing was answered: {_where(silent, cells)}."
    if limited := [each for each in cells if each.client_limited and late_share(each) <= LATE]:
        yield (
            f"The client was the bottleneck, and the server can do more than is told here: {_where(limited, cells)}. "
            "Give the bench more --processes or cores of its own, or take --driver h2load."
        )
    yield from _search_warnings(result)
    if late := [each for each in cells if late_share(each) > LATE]:
        worst = max(late, key=late_share)
        yield (
            f"Calls were sent late: of {worst.title}, {late_share(worst):.1%} more than 1 ms after their schedule (p99 "
            f"{ms(worst.late_us.get('p99', 0))}). The client could not keep the schedule, from which latencies count: "
            "this wait is in them, and is not the server's."
        )
    if unstable := [each for each in cells if not each.stable]:
        yield (
            f"The last windows still differed by more than the tolerance: {_where(unstable, cells)}. A longer --warmup "
            "or --window may settle them, or something else was running."
        )
    if few := [each for each in cells if 0 < each.answered < FEW]:
        yield (
            f"Fewer than {FEW} calls were answered, so that p99 is about the slowest of them: {_where(few, cells)}. A "
            "longer --window has more."
        )
    if wide := [each for each in cells if spread(each) > WIDE]:
        worst = max(wide, key=spread)
        yield f"Repeats disagree: rates of {_where(wide, cells)} lie up to {spread(worst):.0%} apart."


def headlines(result: Result) -> Iterator[str]:
    """What was found."""
    answered, slo = [each for each in result.cells if each.answered], result.slo
    if slo is not None:
        bound = f"p99 under {slo['bound_ms']:g} ms"
        if slo["rate"]:
            yield (
                f"{rate(slo['rate'])} calls a second, arriving at random, keep {bound}, without a failed call (p99 was "
                f"{slo['p99_ms']:.3g} ms)."
            )
        else:
            yield f"Not even the least rate tried keeps {bound}, without a failed call."
    if result.mlperf is not None:
        yield _loadgen(result.mlperf)
    if not answered:
        return
    lightest = min(answered, key=lambda each: (each.rows, each.offered or each.concurrency or 0))
    best = max(answered, key=lambda each: each.rows_per_s)
    if slo is None:
        yield (
            f"{rate(best.rate)} calls a second, which are {best.rows_per_s:,.0f} rows a second, at {best.title}: "
            f"half of the calls within {ms(best.latency_us['p50'])}, 99% within {ms(best.latency_us['p99'])}."
        )
    if slo is not None or lightest is not best:
        yield (
            f"At the lightest load, {lightest.title}: half of the calls within {ms(lightest.latency_us['p50'])}, "
            f"99% within {ms(lightest.latency_us['p99'])}."
        )
    if result.noop is not None and result.noop.latency_us:
        price = result.noop.latency_us["p50"]
        share = price / lightest.latency_us["p50"]
        yield (
            f"A call that computes nothing takes {ms(price)}: {share:.0%} of the lightest one is the price of RPC, "
            "this client's part in it (of --driver h2load it is less)."
        )
    spent = [each.server.cpu_us for each in answered if each.server.cpu_us is not None]
    held = [each.server.pss_bytes for each in answered if each.server.pss_bytes is not None]
    said = [
        *([f"spends {_span([ms(min(spent)), ms(max(spent))])} of processor time a call"] if spent else []),
        *([f"holds {max(held) / 1e6:,.0f} MB of memory"] if held else []),
    ]
    if said:
        yield f"The server {' and '.join(said)}."


def names(results: Sequence[Result]) -> list[str]:
    """What tells results apart: the endpoint, and where that is not enough the model, and then a number."""
    found = [str(each.facts.get("endpoint", "")) for each in results]
    if len(set(found)) < len(found):
        found = [title(each) for each in results]
    return [name if found.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(found, 1)]


def spread(cell: Cell) -> float:
    """Greatest less least rate of the repeats, as a share of the cell's."""
    rates = [each.rate for each in cell.repeats]
    return (max(rates) - min(rates)) / cell.rate if rates and cell.rate else 0.0


def late_share(cell: Cell) -> float:
    """Of all calls, those sent late."""
    return cell.late / max(1, cell.answered + sum(cell.failures.values()))


def ms(us: float) -> str:
    """A duration for a reader, with its unit."""
    if us < 1000:
        return f"{us:,.0f} us"
    return f"{us / 1e3:,.{2 if us < 1e4 else 1 if us < 1e5 else 0}f} ms"


def rate(value: float) -> str:
    """Of something a second."""
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _search_warnings(result: Result) -> Iterator[str]:
    """Whether the greatest rate that was found is the server's."""
    if result.slo is None:
        return
    above = [each for each in result.cells if (each.offered or 0) > result.slo["rate"]]
    least = min(above, key=lambda each: each.offered or 0, default=None)
    if least is not None and least.client_limited:
        yield (
            f"At the least rate that failed, {least.title}, the client was at its limit too: the server may keep more. "
            "Give the bench cores of its own."
        )
    if times := result.slo.get("disproved"):
        yield (
            f"Of the rates that failed, {times:g} held when measured again: something else was running, and the answer "
            "may be too low."
        )


def _loadgen(found: Mapping[str, Any]) -> str:
    """What LoadGen measured, and its verdict."""
    verdict = "VALID" if found.get("loadgen_valid", found["valid"]) else "INVALID"
    told = f"MLPerf's {found['scenario']} scenario: LoadGen calls the run {verdict}"
    if found.get("scheduled_per_s"):
        told += f", {rate(found['scheduled_per_s'])} queries a second as scheduled"
    if found.get("rows_per_s"):
        told += f", {found['rows_per_s']:,.0f} rows a second"
    if found.get("latency_ms") and found.get("bound_ms"):
        told += f", p99 {found['latency_ms']['p99']:.3g} ms of {found['bound_ms']:g} allowed"
    return f"{told}."


def _loadgen_warnings(found: Mapping[str, Any]) -> Iterator[str]:
    if found and not found["valid"]:
        yield f"The MLPerf run does not count: {'; '.join(found.get('reasons', ())) or 'its summary says why'}."
    if lowered := found.get("lowered"):
        told = ", ".join(f"{name} {each['used']:g} for {each['mlperf']:g}" for name, each in lowered.items())
        yield f"LoadGen was asked for less than MLPerf's rules ask for: {told}. It is no result to submit."
    if found.get("client_limited"):
        yield "The process that runs LoadGen was the bottleneck: the server can do more than it measured."


def _span(told: list[str]) -> str:
    return told[0] if told[0] == told[-1] else f"{told[0]} to {told[-1]}"


def _where(some: Sequence[Cell], cells: Sequence[Cell]) -> str:
    """Names of cells, so far as a sentence holds them."""
    if len(some) == len(cells) > 1:
        return "in all cells"
    told = "; ".join(each.title for each in some[:3])
    return told if len(some) <= 3 else f"{told} and {len(some) - 3} more"
