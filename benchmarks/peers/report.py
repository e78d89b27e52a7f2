"""The report: what the rounds of a race come to, as JSON, as a table and against what was asked for."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..graphs.clock import Spread
from .race import Cell, Round
from .rows import CANDIDATES
from .servers import OURS

ONE_CORE, ALL_CORES = "one core", "all cores"
CLIENT_LIMIT = 0.9  # of a core: above it the client, not the server, may be what holds calls up


@dataclass(frozen=True)
class Target:
    """What the ratio of rates to a peer ought to reach on one core."""

    cells: tuple[Cell, ...]
    peer: str
    least: float


RANKED = tuple(Cell(CANDIDATES, each) for each in (1, 8, 32))
TARGETS = (
    Target(RANKED, "kserve", 3.0),
    Target(RANKED, "mlserver", 5.0),
    Target((Cell(1, 32),), "kserve", 2.5),
    Target((Cell(1, 32),), "mlserver", 5.0),
)


def ratio(ours: Sequence[Round], theirs: Sequence[Round]) -> Spread:
    """How many times a peer's rate, round by round."""
    found = [mine.rate / other.rate for mine, other in zip(ours, theirs, strict=True)]
    return Spread(statistics.median(found), min(found), max(found))


def cell_json(cell: Cell, found: Mapping[str, Sequence[Round]]) -> list[dict[str, Any]]:
    """A cell of every server: medians over the rounds, the ratio to it, and the rounds themselves."""
    told = list[dict[str, Any]]()
    for name, rounds in found.items():
        medians = {key: _median([asdict(each)[key] for each in rounds]) for key in asdict(rounds[0])}
        ours = {} if name == OURS else {"quorem_rate_ratio": _rounded(asdict(ratio(found[OURS], rounds)))}
        every = [_rounded(asdict(each)) for each in rounds]
        told.append({"server": name, **cell._asdict(), **_rounded(medians), **ours, "rounds": every})
    return told


def table(report: Mapping[str, Any]) -> str:
    """A Markdown table a mode: cells down, servers across; below it memory and start."""
    parts = list[str]()
    for mode in report["modes"]:
        names = list(dict.fromkeys(cell["server"] for cell in mode["cells"]))
        lines = [f"### {mode['name']}", ""]
        lines += ["| rows | in flight | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
        for rows, in_flight in dict.fromkeys((cell["rows"], cell["in_flight"]) for cell in mode["cells"]):
            own = {
                each["server"]: each for each in mode["cells"] if (each["rows"], each["in_flight"]) == (rows, in_flight)
            }
            lines.append(f"| {rows} | {in_flight} | " + " | ".join(_cell(own[name]) for name in names) + " |")
        lines.append("| PSS, MB | | " + " | ".join(_number(mode["servers"][name]["pss_mb"]) for name in names) + " |")
        lines.append("| ready, s | | " + " | ".join(_number(mode["servers"][name]["start_s"]) for name in names) + " |")
        parts.append("\n".join(lines))
    limited = any(each["client_cores"] > CLIENT_LIMIT for mode in report["modes"] for each in mode["cells"])
    told = "requests a second, p50/p99 ms [CPU us], **quorem's rate / the peer's** [least greatest]"
    star = (
        "\n\n`*` the client used more than nine tenths of a core: the server may have had more to give"
        if limited
        else ""
    )
    return "\n\n".join(parts) + f"\n\nA cell: {told}.{star}\n"


def verdicts(report: Mapping[str, Any]) -> list[str]:
    """Every target whose cells were measured, and whether the ratio's median reaches it."""
    told = list[str]()
    cells = [cell for mode in report["modes"] if mode["name"] == ONE_CORE for cell in mode["cells"]]
    for target in TARGETS:
        for cell in cells:
            if cell["server"] == target.peer and Cell(cell["rows"], cell["in_flight"]) in target.cells:
                found = Spread(**cell["quorem_rate_ratio"])
                verdict = "reached" if found.median >= target.least else "MISSED"
                what = f"{cell['rows']} rows, {cell['in_flight']} in flight, one core"
                told.append(f"{verdict}: {what}: {found} x {target.peer}, asked for {target.least:g}")
    return told


def _cell(found: Mapping[str, Any]) -> str:
    star = "*" if found["client_cores"] > CLIENT_LIMIT else ""
    cpu = "" if found["cpu_us"] is None else f" [{found['cpu_us']:,.0f}]"
    text = f"{found['rate']:,.0f}{star} {found['p50_us'] / 1e3:.2f}/{found['p99_us'] / 1e3:.2f}{cpu}"
    if "quorem_rate_ratio" not in found:
        return text
    each = Spread(**found["quorem_rate_ratio"])
    return f"{text}, **{each.median:.2f}** [{each.least:.2f} {each.greatest:.2f}]"


def _median(values: Sequence[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return statistics.median(known) if known else None


def _rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Four digits."""
    return {name: None if value is None else float(f"{value:.4g}") for name, value in values.items()}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"
