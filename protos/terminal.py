"""The terminal: tables, lines and sizes for a reader; in a pipe nothing is drawn and no line is cut."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 100_000  # columns: a table that a script reads is never cut
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def plain_console() -> Console:
    """A console on stdout that takes text as it is: no markup, nothing highlighted."""
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def say(console: Console, line: str) -> None:
    """Print a line."""
    console.print(_clean(line, console.encoding), soft_wrap=True)


def print_table(console: Console, head: str, rows: Iterable[Sequence[str]]) -> None:
    """Print a table under an empty line; a column whose name begins with `>` holds numbers."""
    table = Table(box=None, pad_edge=False)
    for name in head.split():
        right = name.startswith(">")
        table.add_column(name.removeprefix(">"), justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in rows:
        table.add_row(*(_clean(text, console.encoding) for text in row))
    console.print()
    console.print(table)


def number(value: Any) -> Any:
    """The value, or null for a number that JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def told_bytes(count: int) -> str:
    """A number of bytes in the unit that suits it."""
    size, unit = float(count), 0
    while size >= 1024 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {UNITS[unit]}" if unit else f"{count} B"


def _clean(text: str, encoding: str) -> str:
    """The text without what a terminal would obey, and without what it cannot be sent."""
    seen = text if text.isprintable() else ascii(text)[1:-1]
    return seen.encode(encoding, "backslashreplace").decode(encoding)
