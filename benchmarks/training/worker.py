"""The worker: one variant in a process of its own; for every line it reads it takes so many steps and says their time.

`python -m benchmarks.training.worker VARIANT ROWS IDS THREADS`: VARIANT is design/peer/…, see `make`; ROWS the
directory of ids.npy and its likes; IDS the columns' sizes, by commas.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .shapes import BATCH, Step

WARM = 4  # steps before the first that is timed


def make(variant: str, sizes: Sequence[int]) -> tuple[Step, int]:
    """The step of a variant, and the bytes of its tables and their optimizer's state where they are known (else 0)."""
    design, name, *more = variant.split("/")
    if name == "quorem":
        from . import ours

        compressed, optimizer, frozen = more[0] == "c4", more[1], more[-1] == "frozen"
        return ours.make_step(design, sizes, compressed=compressed, optimizer=optimizer, frozen=frozen)
    if name == "plain":
        from . import plain

        return plain.make_step(design, sizes, frozen=more == ["frozen"]), 0
    from . import peers

    if name == "torchrec":
        return peers.torchrec(design, sizes), 0
    return (peers.fuxictr if name == "fuxictr" else peers.deepctr)(sizes), 0


def resident() -> int:
    """Bytes that this process holds for itself now, shared pages left out."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return 1024 * int(line.split()[1])
    return 0


def batches(directory: Path) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches without end."""
    arrays = [torch.from_numpy(np.load(directory / f"{name}.npy")) for name in ("ids", "numbers", "labels")]
    while True:
        for start in range(0, len(arrays[0]) - BATCH + 1, BATCH):
            ids, numbers, labels = (each[start : start + BATCH] for each in arrays)
            yield ids, numbers, labels


def main(variant: str, rows: str, sizes: str, threads: str) -> None:
    """Serve the standard input."""
    torch.set_num_threads(int(threads))
    torch.set_num_interop_threads(1)
    coming = batches(Path(rows))
    next(coming)
    before = resident()
    step, held = make(variant, [int(n) for n in sizes.split(",")])
    for _ in range(WARM):
        step(*next(coming))
    print(json.dumps({"held": held, "resident": resident() - before}), flush=True)
    for line in sys.stdin:
        count = int(line)
        wall, own = time.perf_counter(), time.process_time()
        for _ in range(count):
            step(*next(coming))
        told = {"wall": (time.perf_counter() - wall) / count, "cpu": (time.process_time() - own) / count}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
