"""The table: what was measured, as Markdown."""

from typing import Any

from .race import medians, ratio
from .shapes import BATCH

Cells = dict[str, dict[str, Any]]


def step_table(cells: Cells) -> str:
    """Samples per second of each variant, and how many times as fast as it the first of its design is."""
    lines = [
        "| variant | samples/s | least, greatest | CPU ms a step | the first, times as fast | least, greatest |",
        "|---|---:|---|---:|---:|---|",
    ]
    for name, cell in cells.items():
        first = next(each for other, each in cells.items() if other.split("/")[0] == name.split("/")[0])
        middle, least, greatest = medians(cell, "wall")
        times, low, high = ratio(first, cell, "wall")
        own = 1e3 * medians(cell, "cpu")[0]
        lines.append(
            f"| {name} | {BATCH / middle:,.0f} | {BATCH / greatest:,.0f}, {BATCH / least:,.0f} | {own:.1f} "
            f"| {times:.2f} | {low:.2f}, {high:.2f} |"
        )
    return "\n".join(lines) + "\n"


def growth_table(cells: Cells) -> str:
    """Time of a step and memory by number of ids, beside the first size and beside tables and state."""
    lines = [
        "| ids | ms a step | CPU ms | times the first | least, greatest | tables and state, MB | more than the first "
        "| resident, more than the first |",
        "|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    first = next(iter(cells.values()))
    for name, cell in cells.items():
        times, low, high = ratio(first, cell, "wall")
        wall, own = 1e3 * medians(cell, "wall")[0], 1e3 * medians(cell, "cpu")[0]
        held, resident = cell["held"] - first["held"], cell["resident"] - first["resident"]
        share = f" ({resident / held:.3f} of it)" if held else ""
        lines.append(
            f"| {int(name):,} | {wall:.1f} | {own:.1f} | {times:.2f} | {low:.2f}, {high:.2f} "
            f"| {cell['held'] / 1e6:,.0f} | {held / 1e6:,.0f} | {resident / 1e6:,.0f}{share} |"
        )
    return "\n".join(lines) + "\n"
