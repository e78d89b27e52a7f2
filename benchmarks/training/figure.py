"""The figure: time and memory of a step against the number of ids."""

from pathlib import Path
from typing import Any

from .race import medians


def draw_growth(cells: dict[str, dict[str, Any]], path: Path) -> None:
    """Write an SVG of two panels: milliseconds a step, and megabytes held beside those resident."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "growth"
    ids, found = [int(name) for name in cells], list(cells.values())
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    told = [[1e3 * value for value in medians(cell, "wall")] for cell in found]
    middle = [each[0] for each in told]
    spread = [[each[0] - each[1] for each in told], [each[2] - each[0] for each in told]]
    left.errorbar(ids, middle, yerr=spread, marker="o", capsize=3)
    left.set(xscale="log", xlabel="ids", ylabel="ms a step: median, least, greatest", ylim=(0, None))
    right.plot(ids, [cell["held"] / 1e6 for cell in found], marker="o", label="tables and optimizer state")
    right.plot(ids, [cell["resident"] / 1e6 for cell in found], marker="x", label="resident")
    right.set(xscale="log", yscale="log", xlabel="ids", ylabel="MB")
    right.legend()
    figure.savefig(path, metadata={"Date": None})
