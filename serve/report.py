"""Report: what a bench found, as numbers for a script and as a table for a reader."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from .drive import Measured

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True)
class Cell:
    """One measurement: rows per call, calls in flight, and what came of it."""

    rows: int
    concurrency: int
    answered: int
    rate: float  # answered calls a second
    latency_us: dict[str, float]  # p50, p90, p99, p99.9, max, mean; empty where nothing was answered
    failures: dict[str, int]  # calls by status
    client_cores: float  # processor seconds a second

    def as_dict(self) -> dict[str, object]:
        """The cell for a script."""
        return {
            "rows": self.rows,
            "concurrency": self.concurrency,
            "answered": self.answered,
            "rate": round(self.rate, 1),
            "rows_per_s": round(self.rate * self.rows, 1),
            "latency_us": self.latency_us,
            "failures": self.failures,
            "client_cores": round(self.client_cores, 2),
        }


def cell(rows: int, concurrency: int, measured: Measured) -> Cell:
    """Sum a measurement up."""
    latencies, latency_us = measured.latencies, dict[str, float]()
    answered = latencies.get_total_count()
    if answered:
        latency_us = {f"p{share:g}": latencies.get_value_at_percentile(share) / 1e3 for share in PERCENTILES}
        latency_us |= {"max": latencies.get_max_value() / 1e3, "mean": latencies.get_mean_value() / 1e3}
    wall_s = measured.wall_s or 1.0
    return Cell(
        rows=rows,
        concurrency=concurrency,
        answered=answered,
        rate=answered / wall_s,
        latency_us={name: round(value, 1) for name, value in latency_us.items()},
        failures=dict(sorted(measured.failures.items())),
        client_cores=measured.cpu_s / wall_s,
    )


def show(cells: list[Cell], title: str, caption: str, console: Console) -> None:
    """Print the table."""
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.pad_edge = False
    names = [*(f"p{share:g}" for share in PERCENTILES), "max"]
    for name in ("rows", "in flight", "calls/s", "rows/s", *(f"{name} ms" for name in names), "failed", "client cores"):
        table.add_column(name, justify="right", overflow="fold")
    for each in cells:
        failed = ", ".join(f"{count} {status}" for status, count in each.failures.items()) or "0"
        latencies = [f"{each.latency_us[name] / 1e3:.2f}" if each.latency_us else "-" for name in names]
        table.add_row(
            str(each.rows),
            str(each.concurrency),
            f"{each.rate:,.0f}",
            f"{each.rate * each.rows:,.0f}",
            *latencies,
            failed,
            f"{each.client_cores:.2f}",
        )
    console.print(table)
