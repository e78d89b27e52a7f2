"""Batching: requests of several threads become one batch; it knows neither the transport nor the model."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from .call import Call
from .refusals import unwanted

NAP_S = 1e-4  # in which other threads bring their calls here; to yield without a nap costs more than it gains
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
    """Entries that are computed together."""

    entries: list[_Entry] = field(default_factory=list)
    rows: int = 0
    done: Event = field(default_factory=Event)


@dataclass
class _Lane:
    """The callers of one key. turn: held by whoever computes. open: the batch that gathers meanwhile."""

    turn: Lock = field(default_factory=Lock)
    open: _Batch | None = None
    callers: int = 0


class Batcher:
    """Joins the rows of callers that are there at the same time: who comes alone is computed at once.

    The first caller of a batch waits for those that have arrived and are not here yet, and computes for all: there is
    no thread beside those that call, and nobody waits for a call that may never come.
    """

    def __init__(self, run: Run, max_rows: int, max_delay_s: float, arrived: Callable[[], int]) -> None:
        """Prepare to batch.

        Args:
            run: computes the arrays of one key: each result has a row for each of theirs.
            max_rows: of a batch; a single caller may have more, and is then alone.
            max_delay_s: that a batch gathers for at most.
            arrived: how many calls have arrived and are not over; those that are here are some of them.
        """
        self._run, self._max_rows, self._max_delay_s, self._arrived = run, max_rows, max_delay_s, arrived
        self._lock, self._here = Lock(), 0
        self._lanes = dict[Hashable, _Lane]()

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
        with self._lock:
            lane = self._lanes.setdefault(key, _Lane())
            lane.callers += 1
            self._here += 1
        try:
            self._answer(key, lane, entry)
        finally:
            with self._lock:
                lane.callers -= 1
                self._here -= 1
                if not lane.callers:
                    del self._lanes[key]  # it holds a model that may be served no longer
        if entry.error is not None:
            raise entry.error
        return entry.results

    def _answer(self, key: Hashable, lane: _Lane, entry: _Entry) -> None:
        batch, leads = self._join(lane, entry)
        if not leads:
            batch.done.wait()
            return
        try:
            self._gather(batch)
            with lane.turn:
                with self._lock:
                    self._close(lane, batch)
                self._compute(key, batch.entries)
        finally:
            batch.done.set()

    def _gather(self, batch: _Batch) -> None:
        """Let those run that are on their way here."""
        until = time.monotonic() + self._max_delay_s
        while batch.rows < self._max_rows and self._arrived() > self._here and time.monotonic() < until:
            time.sleep(NAP_S)

    def _join(self, lane: _Lane, entry: _Entry) -> tuple[_Batch, bool]:
        """The batch that the entry belongs to, and whether it is the batch's first."""
        with self._lock:
            batch = lane.open
            if batch is not None and batch.rows + entry.rows > self._max_rows:
                self._close(lane, batch)
                batch = None
            leads = batch is None
            if batch is None:
                batch = lane.open = _Batch()
            batch.entries.append(entry)
            batch.rows += entry.rows
            if batch.rows >= self._max_rows:
                self._close(lane, batch)
            return batch, leads

    def _close(self, lane: _Lane, batch: _Batch) -> None:
        if lane.open is batch:
            lane.open = None

    def _compute(self, key: Hashable, entries: Sequence[_Entry]) -> None:
        wanted = list[_Entry]()
        for entry in entries:
            entry.error = unwanted(entry.call, time.monotonic())
            if entry.error is None:
                wanted.append(entry)
        if not wanted:
            return
        try:
            results = self._run(key, _joined(wanted))
            if len(wanted) == 1:
                wanted[0].results += results
                return
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
