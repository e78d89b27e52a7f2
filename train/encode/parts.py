"""Parts: rows between the two passes: of each column the distinct values once, and a small code a row for them.

A part is a file of arrays, S slots of ids and D' numbers a row as the graph takes them:

    values.J   (V,) int64: the distinct raw64 of feature J of the schema, rising
    codes.J    (n,), or (n, L) of a bag: uint8, uint16 or uint32, their places in it
    numbers    (n, D') float32, NaN = missing
    labels     (n,) float32; weights (n,) float32 and groups (n,) int64 where the recipe has such
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protos.ids import Int64s
from .arrays import Arrays, map_arrays

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Part:
    """A file of rows.

    split: of all of its rows; or all, and then the file `<path>.split` has a byte a row, a place in SPLITS.
    rows: so many of its rows count, the first ones.
    """

    path: str
    split: str
    rows: int

    def places(self, split: str) -> Int64s | None:
        """The rows of a split, rising, (n,) int64; None for all of them."""
        if self.split != "all":
            return None if self.split == split else np.empty(0, np.int64)
        return np.flatnonzero(np.fromfile(splits_of(self.path), np.uint8) == SPLITS.index(split)).astype(np.int64)


def splits_of(path: str) -> Path:
    """The file that says which split each row of a part is in."""
    return Path(f"{path}.split")


def times_of(path: str) -> Path:
    """The file of the times that the rows of a part are split by."""
    return Path(f"{path}.times")


class Rows:
    """The rows of a split that are in a part, its arrays mapped."""

    def __init__(self, part: Part, split: str) -> None:
        self.part = part
        self.places = part.places(split)

    def __len__(self) -> int:
        """How many."""
        return self.part.rows if self.places is None else len(self.places)

    @cached_property
    def arrays(self) -> Arrays:
        """All of the part's."""
        return map_arrays(Path(self.part.path))[0]

    def take(self, name: str, first: int = 0, last: int | None = None) -> NDArray[Any]:
        """An array's rows from `first` on and before `last`, counted among the split's rows of this part."""
        last = len(self) if last is None else last
        array = self.arrays[name][: self.part.rows]
        return array[first:last] if self.places is None else array[self.places[first:last]]

    def at(self, name: str, rows: Int64s) -> NDArray[Any]:
        """An array's rows of these numbers."""
        return self.arrays[name][rows if self.places is None else self.places[rows]]


def narrow(codes: NDArray[Any], distinct: int) -> NDArray[Any]:
    """Codes below `distinct` as the smallest unsigned integers."""
    kind = np.uint8 if distinct <= 2**8 else np.uint16 if distinct <= 2**16 else np.uint32
    return codes.astype(kind)


def counts_by_part(parts: Sequence[Part], split: str) -> list[int]:
    """How many rows of a split each part has."""
    return [len(Rows(part, split)) for part in parts]
