"""Results as Markdown tables."""

from collections.abc import Sequence
from typing import Any


def lookup_table(cells: Sequence[dict[str, Any]]) -> str:
    """A table for each way to end and number of threads: rows of a call down, variants across."""
    parts = list[str]()
    for end, threads in dict.fromkeys((cell["end"], cell["threads"]) for cell in cells):
        own = [cell for cell in cells if (cell["end"], cell["threads"]) == (end, threads)]
        told = "read by a sum" if end == "sum" else "as the graph's output"
        parts.append(f"### Vectors {told}, {threads} thread{'s' * (threads > 1)}\n\n{_grid(own, 'rows')}")
    return "\n\n".join(parts) + "\n"


def ids_table(cells: Sequence[dict[str, Any]]) -> str:
    """Microseconds of the stage by encoding, rows of a call down; `none` is the call itself."""
    variants = list(dict.fromkeys(cell["variant"] for cell in cells))
    lines = ["| rows | " + " | ".join(variants) + " |", "|---" * (len(variants) + 1) + "|"]
    for count in dict.fromkeys(cell["rows"] for cell in cells):
        us = [cell["us"] for cell in cells if cell["rows"] == count]
        told = [f"{each['median']:.4g} us [{each['least']:.4g} {each['greatest']:.4g}]" for each in us]
        lines.append(f"| {count:,} | " + " | ".join(told) + " |")
    return "\n".join(lines) + "\n"


def bits_table(cells: Sequence[dict[str, Any]]) -> str:
    """The lookup at each width, then the ways to unpack a byte of each."""
    parts = list[str]()
    for what in dict.fromkeys(cell["what"] for cell in cells):
        told = "Vectors read by a sum" if what == "lookup" else f"One Gather of {what}, unpacked in each way"
        parts.append(f"### {told}, 1 thread\n\n{_grid([cell for cell in cells if cell['what'] == what], 'rows')}")
    return "\n\n".join(parts) + "\n"


def rank_table(cells: Sequence[dict[str, Any]], deviations: Sequence[dict[str, Any]]) -> str:
    """A table for each net, then how far scores are from the float32 row-wise graph's."""
    parts = list[str]()
    for net in dict.fromkeys(cell["net"] for cell in cells):
        own = [cell for cell in cells if cell["net"] == net]
        parts.append(f"### {net}, 1 thread\n\n{_grid(own, 'candidates')}")
    if deviations:
        keys = list(deviations[0])
        lines = ["| " + " | ".join(keys) + " |", "|---" * len(keys) + "|"]
        lines += ["| " + " | ".join(_number(each[key]) for key in keys) + " |" for each in deviations]
        parts.append("### Logits against those of the float32 row-wise graph\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _grid(cells: Sequence[dict[str, Any]], key: str) -> str:
    variants = list(dict.fromkeys(cell["variant"] for cell in cells))
    lines = [f"| {key} | " + " | ".join(variants) + " |", "|---" * (len(variants) + 1) + "|"]
    for count in dict.fromkeys(cell[key] for cell in cells):
        own = {cell["variant"]: cell for cell in cells if cell[key] == count}
        texts = [_cell(own[variant]) if variant in own else "" for variant in variants]
        lines.append(f"| {count:,} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _cell(cell: dict[str, Any]) -> str:
    us, speedup = cell["us"], cell["speedup"]
    ratio = f"**{speedup['median']:.2f}x** [{speedup['least']:.2f} {speedup['greatest']:.2f}]"
    return f"{us['median']:.4g} us [{us['least']:.4g} {us['greatest']:.4g}], {ratio}"


def _number(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
