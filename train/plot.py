"""The plot of a run: loss and AUC by epoch, as one SVG file."""

import io
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib.figure import Figure

from ..protos.manifest import write_atomically
from .record import read_record, validations

NAME = "learning.svg"


def plot_learning(directory: Path) -> None:
    """Draw `learning.svg` from the validations in the run's record."""
    lines = validations(read_record(directory))
    epochs = [line["epoch"] for line in lines]
    with mpl.rc_context({"svg.hashsalt": "quorem", "font.size": 9}):
        figure = Figure(figsize=(8, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(epochs, [line["train_loss"] for line in lines], marker=".", label="training")
        left.plot(epochs, [line["logloss"] for line in lines], marker=".", label="validation")
        left.set(xlabel="epoch", ylabel="logloss")
        left.legend(frameon=False)
        right.plot(epochs, [line["auc"] for line in lines], marker=".", color="tab:green")
        best = max(lines, key=lambda line: line["auc"])
        right.annotate(f"best {best['auc']:.4f}", (best["epoch"], best["auc"]))
        right.set(xlabel="epoch", ylabel="validation AUC")
        drawn = io.BytesIO()
        figure.savefig(drawn, metadata={"Date": None})
    write_atomically(directory / NAME, drawn.getvalue())
