"""Batching: requests of several threads become one batch; it knows neither the transport nor the model."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from ..protos.errors import Gone, TooLate
from .call import Call

Arrays = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Any, Arrays], Sequence[npt.NDArray[Any]]]


@dataclass
class _Entry:
    """One caller's rows, and what became of them."""

    arrays: Arrays
    rows: int
    call: Call
    results: list[npt.NDArray[Any]] = field(default_factory=list)
    error: BaseException | None = None


@dataclass
class _Batch:
    """Entries that are computed together, once the batch is full or its first caller has waited for long enough."""

    entries: list[_Entry] = field(default_factory=list)
    rows: int = 0
    full: Event = field(default_factory=Event)
    done: Event = field(default_factory=Event)


class Batcher:
    """Joins the rows of callers that come within a short time of one another.

    The first caller of a batch waits for others and computes for all: there is no thread beside those that call.
    """

    def __init__(self, run: Run, max_rows: int, max_delay_s: float) -> None:
        """Prepare to batch.

        Args:
            run: computes the arrays of one key: each result has a row for each of theirs.
            max_rows: of a batch; a single caller may have more, and is then alone.
            max_delay_s: that the first caller waits for others.
        """
        self._run, self._max_rows, self._max_delay_s = run, max_rows, max_delay_s
        self._lock = Lock()
        self._open = dict[Hashable, _Batch]()

    def run(self, key: Hashable, arrays: Arrays, rows: int, call: Call) -> list[npt.NDArray[Any]]:
        """The results of this caller's rows.

        Args:
            key: callers with equal keys are computed together; their arrays have equal names, dtypes and widths.
            arrays: each (rows, width).
            rows: at least one.
            call: who waits, and until when.

        Raises:
            TooLate, Gone: the call was not computed, because nobody waits for it any longer.
            Exception: what `run` raised, for every caller of the batch.
        """
        entry = _Entry(arrays, rows, call)
        batch, leads = self._join(key, entry)
        if leads:
            batch.full.wait(self._max_delay_s)
            with self._lock:
                self._close(key, batch)
            try:
                self._compute(key, batch)
            finally:
                batch.done.set()
        else:
            batch.done.wait()
        if entry.error is not None:
            raise entry.error
        return entry.results

    def _join(self, key: Hashable, entry: _Entry) -> tuple[_Batch, bool]:
        """The batch that the entry belongs to, and whether it is the batch's first."""
        with self._lock:
            batch = self._open.get(key)
            if batch is not None and batch.rows + entry.rows > self._max_rows:
                self._close(key, batch)
                batch = None
            leads = batch is None
            if batch is None:
                batch = self._open[key] = _Batch()
            batch.entries.append(entry)
            batch.rows += entry.rows
            if batch.rows >= self._max_rows:
                self._close(key, batch)
            return batch, leads

    def _close(self, key: Hashable, batch: _Batch) -> None:
        if self._open.get(key) is batch:
            del self._open[key]
        batch.full.set()

    def _compute(self, key: Hashable, batch: _Batch) -> None:
        wanted = list[_Entry]()
        for entry in batch.entries:
            entry.error = _refusal(entry.call)
            if entry.error is None:
                wanted.append(entry)
        if not wanted:
            return
        try:
            results = self._run(key, _joined(wanted))
            ends = np.cumsum([entry.rows for entry in wanted])[:-1]
            for result in results:
                for entry, part in zip(wanted, np.split(result, ends), strict=True):
                    entry.results.append(part)
        except BaseException as error:  # whatever it is, the others must not wait for ever
            for entry in wanted:
                entry.error = error


def _joined(entries: Sequence[_Entry]) -> Arrays:
    if len(entries) == 1:
        return entries[0].arrays
    return {name: np.concatenate([entry.arrays[name] for entry in entries]) for name in entries[0].arrays}


def _refusal(call: Call) -> TooLate | Gone | None:
    if call.left_s is not None and call.left_s <= 0:
        return TooLate("a call is computed before its deadline", remedy="Allow it more time, or send fewer at once")
    if not call.is_wanted():
        return Gone("a call's caller waits for the answer", found="one that has cancelled it, or gone")
    return None
