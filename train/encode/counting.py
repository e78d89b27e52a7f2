"""Counting: how often each value of a feature stands in the training rows, exactly, in memory that is bounded.

The parts hold their distinct values in order. They are merged as they come; where what is merged grows beyond `most`
values, the range of raw64 is cut in two at its median and each half is counted alone, from the parts again. So counts
are exact however many values there are: what is paid beyond the bound is time, not memory, and no sketch is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...protos.ids import MISSING, Int64s, VocabularyValues, grow_vocabulary, number_vocabulary
from .arrays import map_arrays, write_arrays
from .parts import Part, Rows

_FIRST = 2**20  # values that are gathered before they are merged, at least


@dataclass(frozen=True)
class Known:
    """A vocabulary that is there already, of which no id changes, and the ids that new values may take.

    weights: the file of the run that it is of. feature: its name.
    """

    weights: Path
    feature: str
    room: int

    def values(self) -> VocabularyValues:
        """It, mapped."""
        arrays = map_arrays(self.weights)[0]
        return VocabularyValues(*(arrays[f"vocabulary.{self.feature}.{role}"] for role in ("values", "ids")))


@dataclass(frozen=True)
class Counted:
    """How many values a vocabulary has, in how many ranges they were counted, how many new ones found no id."""

    values: int
    ranges: int
    turned_away: int


def count_feature(
    parts: Sequence[Part], feature: int, min_count: int, most: int, path: Path, known: Known | None = None
) -> Counted:
    """Count a feature's values in the training rows of the parts, and write its vocabulary.

    Args:
        parts: all.
        feature: its place in the schema.
        min_count: how often a value that is kept was seen, at least.
        most: distinct values that are held at a time, about.
        path: the file of `values` (V,) int64, rising, and `ids` (V,) int32, numbered as `count_vocabulary` does.
        known: what it grows from, as `grow_vocabulary` does; else it is new.
    """
    held, room = (known.values(), known.room) if known else (None, 0)
    ranges = [(-(2**63), 2**63 - 1)]
    kept, counted, away = list[tuple[Int64s, Int64s]](), 0, 0
    while ranges:
        low, high = ranges.pop()
        values, counts, whole = _count(parts, feature, low, high, most)
        if not whole and low < high:
            middle = min(max(int(values[len(values) // 2]), low), high - 1)
            ranges += [(middle + 1, high), (low, middle)]
            continue
        counted += 1
        chosen = counts >= min_count
        if held is not None:
            chosen &= ~np.isin(values, held.values)  # of the new ones, those that find no room here find none at all
            chosen[chosen] = fits = number_vocabulary(values[chosen], counts[chosen]).ids <= room
            away += int((~fits).sum())
        kept.append((values[chosen], counts[chosen]))
    values, counts = (np.concatenate(each) for each in zip(*kept, strict=True))
    if held is not None:
        found, turned_away = grow_vocabulary(held, values, counts, room)
        away += turned_away
    else:
        found = number_vocabulary(values, counts)
    write_arrays(path, {"values": found.values, "ids": found.ids}, {})
    return Counted(len(found.values), counted, away)


def _count(parts: Sequence[Part], feature: int, low: int, high: int, most: int) -> tuple[Int64s, Int64s, bool]:
    """Distinct values from `low` to `high`, rising, and their counts; false where there were too many to go on."""
    merged = np.empty(0, np.int64), np.empty(0, np.int64)
    waiting, size = [merged], 0
    for part in parts:
        rows = Rows(part, "train")
        if not len(rows):
            continue
        all_values, codes = rows.arrays[f"values.{feature}"], rows.take(f"codes.{feature}")
        counts = np.bincount(codes.ravel(), minlength=len(all_values))
        if codes.ndim == 2 and len(all_values) and all_values[0] == MISSING:
            counts[0] = 0  # padding of a bag is no value
        first, last = np.searchsorted(all_values, low), np.searchsorted(all_values, high, side="right")
        seen = first + np.flatnonzero(counts[first:last])
        waiting.append((all_values[seen], counts[seen]))
        size += len(seen)
        if size > max(_FIRST, len(merged[0])):
            merged = _merge([merged, *waiting])
            waiting, size = [], 0
            if len(merged[0]) > most:
                return *merged, False
    return *_merge([merged, *waiting]), True


def _merge(runs: Sequence[tuple[Int64s, Int64s]]) -> tuple[Int64s, Int64s]:
    values, counts = (np.concatenate(each) for each in zip(*runs, strict=True))
    order = np.argsort(values, kind="stable")  # which merges runs that rise
    values, counts = values[order], counts[order]
    firsts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]][: len(values)])
    return values[firsts], np.add.reduceat(counts, firsts) if len(firsts) else counts
