"""Table: a result as a reader at a terminal gets it."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .notes import headlines, late_share, rate, spread, title, warnings
from .result import Cell, Result

SHARES = ("p50", "p90", "p99", "p99.9", "max")


def show(result: Result, console: Console) -> None:
    """Print a row a cell (latencies in milliseconds), then what was found and what speaks against it, in sentences."""
    cells = [*([result.noop] if result.noop else []), *result.cells]
    if cells:
        console.print(_table(result, cells))
    if result.mlperf is not None:
        console.print(str(result.mlperf.get("summary", "")).strip(), markup=False, highlight=False)
    for sentence in headlines(result):
        console.print(f"- {sentence}", markup=False, highlight=False)
    for sentence in warnings(result):
        console.print(f"! {sentence}", markup=False, highlight=False, style="yellow")


def _table(result: Result, cells: list[Cell]) -> Table:
    """Columns that no cell has anything for are left out."""
    table = Table(title=escape(title(result)), title_justify="left", box=SIMPLE_HEAD, collapse_padding=True)
    table.pad_edge = False
    columns: dict[str, list[str]] = {
        "rows": ["no-op" if each is result.noop else escape(each.load) for each in cells],
        **_loads(cells),
        "calls/s": [rate(each.rate) for each in cells],
        "spread": [f"{spread(each):.0%}" if len(each.repeats) > 1 else "" for each in cells],
        "rows/s": [f"{each.rows_per_s:,.0f}" if each.rows else "" for each in cells],
        **{f"{share}\nms": [_ms(each.latency_us.get(share)) for each in cells] for share in SHARES},
        "failed": [f"{sum(each.failures.values()):,}" for each in cells],
        "late": [f"{late_share(each):.1%}" if each.late_us else "" for each in cells],
        "queue\nms": [_ms(each.server.queue_us) for each in cells],
        "model\nms": [_ms(each.server.compute_us) for each in cells],
        "CPU\nms": [_ms(each.server.cpu_us) for each in cells],
        "MB": ["" if each.server.pss_bytes is None else f"{each.server.pss_bytes / 1e6:,.0f}" for each in cells],
        "client\ncores": [f"{each.client_cores:.2f}" for each in cells],
    }
    told = {name: values for name, values in columns.items() if any(values)}
    for name in told:
        table.add_column(name, justify="left" if name == "rows" else "right", overflow="fold")
    for row in zip(*told.values(), strict=True):
        table.add_row(*row)
    return table


def _loads(cells: list[Cell]) -> dict[str, list[str]]:
    """One column: arrivals a second of open loops, else calls in flight."""
    if any(each.offered for each in cells):
        return {"due\n/s": [rate(each.offered) if each.offered else "" for each in cells]}
    return {"in\nflight": [str(each.concurrency or "") for each in cells]}


def _ms(us: float | None) -> str:
    return "" if us is None else f"{us / 1e3:,.{2 if us < 1e4 else 1 if us < 1e5 else 0}f}"
