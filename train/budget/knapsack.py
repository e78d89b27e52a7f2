"""The knapsack: of each field one option, of least total loss, within so many bytes.

Legend: F fields; R steps in which bytes are counted.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

STEPS = 8192  # R: what a field takes is rounded up to a step
Key = TypeVar("Key")


def pack(losses: Sequence[Mapping[Key, float]], sizes: Sequence[Mapping[Key, int]], room: int) -> list[Key] | None:
    """The option of each field, (F,), whose losses add up to the least; None where none fit.

    Args:
        losses: of each field, the loss of each option.
        sizes: of each field, the bytes of the same options.
        room: bytes that all take together at most.
    """
    if room < 1:
        return None
    step = -(-room // STEPS)
    width = room // step + 1
    best, taken = np.zeros(width), list[np.ndarray]()
    for field, own in enumerate(losses):
        keys = list(own)
        table = np.full((len(keys), width), np.inf)
        for row, key in enumerate(keys):
            need = -(-sizes[field][key] // step)
            if need < width:
                table[row, need:] = best[: width - need] + own[key]
        taken.append(table.argmin(0))
        best = table.min(0)
    if not np.isfinite(best[-1]):
        return None
    left, found = width - 1, list[Key]()
    for field in reversed(range(len(losses))):
        key = list(losses[field])[taken[field][left]]
        found.append(key)
        left -= -(-sizes[field][key] // step)
    return found[::-1]
