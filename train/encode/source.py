"""The source: rows of a cache as training reads them, mapped into memory, in an order of their own for each epoch.

The order: a split is blocks of BLOCK rows. An epoch shuffles the blocks, takes them WINDOW at a time, and shuffles the
rows of each window. Up to one window (1,048,576 rows) that is the very order of rows in memory, any order being
equally likely. Beyond it, rows that stood in one block meet in the same window in every epoch, so that a batch is drawn
from 256 places of the files instead of from everywhere: of rows that stand in the order of their time, each batch still
holds times from all over, but a batch's rows are as alike as blocks are, a little more than drawn at random.

Legend: N rows of a split; B rows of a batch; T ids and D numbers of a row.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...protos.ids import MISSING, Int64s
from ..batches import MIXER, WHOLE, Batch, batch_of, batches_of, generator_of, part_of, shuffled
from ..features import Rows
from .arrays import Arrays, map_arrays
from .cache import Cache
from .shards import ROWS, Slot

BLOCK, WINDOW = 2**12, 2**8  # rows; blocks
PIECE = 2**18  # rows that are widened at a time where all are


@dataclass(frozen=True)
class Order:
    """The order of N rows: blocks of `block` rows, `window` of them at a time."""

    rows: int
    block: int = BLOCK
    window: int = WINDOW

    @property
    def windows(self) -> int:
        """How many windows an epoch has."""
        return -(-self.rows // (self.block * self.window))

    def blocks(self, seed: int, epoch: int) -> list[Int64s]:
        """The blocks of each window, int64; of a single window they stand in the order of the files."""
        count = -(-self.rows // self.block)
        order = torch.arange(count) if self.windows == 1 else shuffled(count, seed, epoch)
        return [each.numpy() for each in order.split(self.window)]

    def places(self, blocks: Int64s) -> Int64s:
        """The rows of some blocks, one block after the other, int64."""
        starts = blocks[:, None] * self.block + np.arange(self.block)
        return starts[starts < self.rows]

    def shuffled(self, rows: int, seed: int, epoch: int, window: int) -> Tensor:
        """The order of the rows of a window, (rows,) int64."""
        if self.windows == 1:
            return shuffled(rows, seed, epoch)
        return torch.randperm(rows, generator=generator_of(seed * MIXER + epoch, window + 1))

    def whole(self, seed: int, epoch: int) -> Tensor:
        """The order of all rows, (N,) int64."""
        parts = list[Tensor]()
        for number, blocks in enumerate(self.blocks(seed, epoch)):
            places = torch.from_numpy(self.places(blocks))
            parts.append(places[self.shuffled(len(places), seed, epoch, number)])
        return torch.cat(parts)


class Cached:
    """A split of a cache; a `Source` (batches.py) on the CPU."""

    device = torch.device("cpu")

    def __init__(self, directory: Path, cache: Cache, split: str, order: Order | None = None) -> None:
        held = cache.splits[split]
        self.slots = cache.places()
        self.order = order or Order(held["rows"])
        self._shards: list[Arrays] = [map_arrays(directory / each["file"])[0] for each in held["shards"]]

    def __len__(self) -> int:
        """N."""
        return self.order.rows

    @property
    def bytes(self) -> int:
        """Of all its arrays."""
        return sum(array.nbytes for shard in self._shards for array in shard.values())

    def batches(
        self, seed: int, epoch: int, size: int, first: int = 0, part: tuple[int, int] = WHOLE
    ) -> Iterator[Batch]:
        """The batches of an epoch from number `first` on, as `Source` has it."""
        for arrays, rows, total in self.narrow_batches(seed, epoch, size, first, part):
            yield batch_from(self.slots, tensors_of(arrays), torch.from_numpy(rows), total)

    def narrow_batches(
        self, seed: int, epoch: int, size: int, first: int, part: tuple[int, int]
    ) -> Iterator[tuple[Arrays, Int64s, int]]:
        """The same as the arrays of the shards, with the rows' numbers, and how many the whole batch has."""
        count = batches_of(len(self), size)
        ends = [(number + 1) * size for number in range(first, count - 1)] + [len(self)] * (first < count)
        at = first * size
        held: list[tuple[Arrays, Int64s]] = []
        windows = self._windows(seed, epoch, at)
        for end in ends:
            while sum(len(rows) for _, rows in held) < end - at:
                held.append(next(windows))
            arrays, rows, held = _cut(held, end - at)
            mine = part_of(torch.arange(len(rows)), part)
            low, high = (int(mine[0]), int(mine[-1]) + 1) if len(mine) else (0, 0)
            yield {name: array[low:high] for name, array in arrays.items()}, rows[low:high], len(rows)
            at = end

    def _windows(self, seed: int, epoch: int, start: int) -> Iterator[tuple[Arrays, Int64s]]:
        """Shuffled windows, without the first `start` rows of the epoch; the next is read while one is in use."""
        windows, before = list[tuple[int, Int64s, int]](), 0
        for number, blocks in enumerate(self.order.blocks(seed, epoch)):
            rows = int(np.minimum(self.order.block, len(self) - blocks * self.order.block).sum())
            if before + rows > start:
                windows.append((number, blocks, max(start - before, 0)))
            before += rows

        def read(number: int, blocks: Int64s, skip: int) -> tuple[Arrays, Int64s]:
            places = self.order.places(blocks)
            order = self.order.shuffled(len(places), seed, epoch, number).numpy()[skip:]
            starts = (blocks * self.order.block).tolist()
            arrays = self._joined([(start, min(start + self.order.block, len(self))) for start in starts])
            return {name: array[order] for name, array in arrays.items()}, places[order]

        with ThreadPoolExecutor(1) as reader:
            waiting = [reader.submit(read, *window) for window in windows[:1]]
            for following in [*windows[1:], None]:
                if not waiting:
                    return
                current = waiting.pop().result()
                if following is not None:
                    waiting.append(reader.submit(read, *following))
                yield current

    def stretch(self, start: int, stop: int) -> Arrays:
        """Some rows, as they follow one another in the files; a copy."""
        return self._joined([(start, stop)])

    def _joined(self, stretches: Sequence[tuple[int, int]]) -> Arrays:
        """The rows of stretches, one after the other; a copy."""
        pieces = list[tuple[int, int, int]]()
        for start, stop in stretches:
            for shard in range(start // ROWS, (stop - 1) // ROWS + 1):
                pieces.append((shard, max(start - shard * ROWS, 0), min(stop - shard * ROWS, ROWS)))
        return {
            name: np.concatenate([self._shards[shard][name][low:high] for shard, low, high in pieces])
            for name in self._shards[0]
        }

    def in_memory(self) -> Rows:
        """All rows as the model takes them, in the order of the files."""
        ids = torch.empty((len(self), sum(slot.length for slot in self.slots)), dtype=torch.int64)
        for start in range(0, len(self), PIECE):
            stop = min(start + PIECE, len(self))
            ids[start:stop] = widened(self.slots, tensors_of(self.stretch(start, stop)))
        rest = {
            name: np.concatenate([shard[name] for shard in self._shards])
            for name in self._shards[0]
            if not name.startswith("ids.")
        }
        weights = torch.from_numpy(rest["weights"]) if "weights" in rest else None
        numbers, labels = torch.from_numpy(rest["numbers"]), torch.from_numpy(rest["labels"])
        groups = None
        if "groups" in rest:  # numbered as rows in memory are
            values = pa.array(rest["groups"], mask=rest["groups"] == MISSING)
            groups = values.dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)
        return Rows(ids, numbers, labels, weights, groups)

    def to(self, device: torch.device) -> "Cached | Resident | Pinned":
        """The same rows for another device, the whole of them on it where they take at most half of its free memory.

        Else they are copied to it batch by batch, each while the one before it is learned from.
        """
        if device.type == "cpu":
            return self
        if self.bytes <= torch.cuda.mem_get_info(device)[0] // 2:
            return Resident(self, device)
        return Pinned(self, device)


class Resident:
    """A cache's split on a GPU, whole and as narrow as it is on the disk; a `Source`."""

    def __init__(self, cached: Cached, device: torch.device) -> None:
        self.cached, self.device = cached, device
        length, step = len(cached), PIECE
        self._tensors = dict[str, Tensor]()
        for start in range(0, length, step):
            for name, piece in tensors_of(cached.stretch(start, min(start + step, length))).items():
                if name not in self._tensors:
                    self._tensors[name] = torch.empty((length, *piece.shape[1:]), dtype=piece.dtype, device=device)
                self._tensors[name][start : start + len(piece)] = piece.to(device)

    def __len__(self) -> int:
        """N."""
        return len(self.cached)

    def batches(
        self, seed: int, epoch: int, size: int, first: int = 0, part: tuple[int, int] = WHOLE
    ) -> Iterator[Batch]:
        """The batches that the rows on the CPU would give."""
        order = self.cached.order.whole(seed, epoch).to(self.device)
        for number in range(first, batches_of(len(self), size)):
            whole = batch_of(order, number, size)
            rows = part_of(whole, part)
            yield batch_from(
                self.cached.slots, {key: each[rows] for key, each in self._tensors.items()}, rows, len(whole)
            )


class Pinned:
    """A cache's split on the CPU whose batches go to a GPU through pinned memory, one ahead; a `Source`."""

    def __init__(self, cached: Cached, device: torch.device) -> None:
        self.cached, self.device = cached, device

    def __len__(self) -> int:
        """N."""
        return len(self.cached)

    def batches(
        self, seed: int, epoch: int, size: int, first: int = 0, part: tuple[int, int] = WHOLE
    ) -> Iterator[Batch]:
        """The batches that the rows on the CPU would give."""
        stream, waiting = torch.cuda.Stream(self.device), list[tuple[dict[str, Tensor], torch.Event, int]]()
        for arrays, rows, total in self.cached.narrow_batches(seed, epoch, size, first, part):
            with torch.cuda.stream(stream):
                tensors = tensors_of({**arrays, "rows": rows})
                moved = {key: each.pin_memory().to(self.device, non_blocking=True) for key, each in tensors.items()}
                waiting.append((moved, stream.record_event(), total))
            if len(waiting) == 2:
                yield self._ready(*waiting.pop(0))
        for last in waiting:
            yield self._ready(*last)

    def _ready(self, moved: dict[str, Tensor], event: torch.Event, total: int) -> Batch:
        current = torch.cuda.current_stream(self.device)
        current.wait_event(event)
        for tensor in moved.values():
            tensor.record_stream(current)
        return batch_from(self.cached.slots, moved, moved.pop("rows"), total)


def tensors_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Arrays as tensors of the same bytes: uint16 as int16, which torch can index."""
    return {
        name: torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array)
        for name, array in arrays.items()
    }


def widened(slots: Sequence[Slot], tensors: Mapping[str, Tensor]) -> Tensor:
    """(B, T) int64 ids, in the order of the schema, from those of each type."""
    some = tensors[f"ids.{slots[0].type}"]
    ids = torch.empty((len(some), sum(slot.length for slot in slots)), dtype=torch.int64, device=some.device)
    for slot in slots:
        narrow = tensors[f"ids.{slot.type}"][:, slot.column : slot.column + slot.length]
        ids[:, slot.first : slot.first + slot.length] = narrow.long() & 0xFFFF if slot.type == "uint16" else narrow
    return ids


def batch_from(slots: Sequence[Slot], tensors: Mapping[str, Tensor], rows: Tensor, total: int) -> Batch:
    """A batch from the arrays of a shard."""
    return Batch(widened(slots, tensors), tensors["numbers"], tensors["labels"], tensors.get("weights"), rows, total)


def _cut(held: Sequence[tuple[Arrays, Int64s]], count: int) -> tuple[Arrays, Int64s, list[tuple[Arrays, Int64s]]]:
    """The first `count` rows of windows, and what is left of them."""
    taken, left = list[tuple[Arrays, Int64s]](), list[tuple[Arrays, Int64s]]()
    for arrays, rows in held:
        here = min(count, len(rows))
        count -= here
        if here:
            taken.append(({name: array[:here] for name, array in arrays.items()}, rows[:here]))
        if here < len(rows):
            left.append(({name: array[here:] for name, array in arrays.items()}, rows[here:]))
    if len(taken) == 1:
        return *taken[0], left
    joined = {name: np.concatenate([arrays[name] for arrays, _ in taken]) for name in taken[0][0]}
    return joined, np.concatenate([rows for _, rows in taken]), left
