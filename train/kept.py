"""Kept: rows of a split that a run directory keeps as a graph takes them."""

from dataclasses import dataclass

import numpy as np

from ..protos.encode import Encoded
from ..protos.ids import Int64s

CALIBRATION_ROWS, VALIDATION_ROWS, REFERENCE_ROWS = 4096, 65_536, 2048


@dataclass(frozen=True)
class Kept:
    """Rows of a split that stay as a graph takes them, evenly spaced, in order.

    places: (R,) int64, their numbers in the split. raw: R rows.
    """

    places: Int64s
    raw: Encoded


def spaced(count: int, most: int) -> Int64s:
    """The numbers of at most so many rows, evenly spaced from the first to the last, (R,) int64."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).astype(np.int64))


def keep(raw: Encoded, most: int) -> Kept:
    """At most so many rows, from the first to the last."""
    places = spaced(len(raw.ids), most)
    return Kept(places, Encoded(raw.ids[places], raw.dense[places]))
