"""Tune: measure, on this machine, from how many candidates on the ranking graph pays, and which batches do.

What is found goes to `tuning.json` in the version's directory, outside the digests; serve reads `rank_from`, and
`config.pbtxt` takes the batch sizes if it is written then.
"""

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from ..protos import exported
from ..protos import manifest as manifests
from ..protos import manifest_pb2 as pb
from .build import GOLDEN, MODEL, RANK
from .graph import Array
from .model import LOGIT
from .parity import inputs_of, session
from .run_directory import read_rows
from .side import context_and_candidates

NAME, FORMAT_VERSION = "tuning.json", 1
CANDIDATES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512)
BATCHES = (8, 16, 32, 64, 128, 256, 512)
ROUNDS = 31
ENOUGH = (0.8, 0.95)  # of the best rate: the batch sizes that are worth waiting for, and worth filling


@dataclass(frozen=True)
class Tuning:
    """What `tuning.json` holds.

    rank_from: the fewest candidates of one context that the ranking graph should score; None: it should score none.
    preferred_batch_sizes: in rows, of the row-wise graph.
    machine: where that was measured.
    """

    rank_from: int | None
    preferred_batch_sizes: list[int]
    machine: str


def tune(directory: Path) -> Tuning:
    """Measure a bundle and write its `tuning.json`.

    Raises:
        ArtifactError: a bundle that cannot be trusted.
    """
    manifest = manifests.read(directory)
    exported.check(manifest, str(directory / manifests.NAME))
    golden = read_rows(directory / GOLDEN, manifest)
    rows = {name: golden[name] for name in ("ids", "dense") if name in golden}
    found = Tuning(
        _rank_from(directory, manifest.schema, rows) if RANK in exported.graphs(manifest) else None,
        _batches(directory, rows),
        _machine(),
    )
    kept = {"format_version": FORMAT_VERSION, **asdict(found)}
    manifests.write_atomically(directory / NAME, json.dumps(kept, indent=1).encode() + b"\n")
    return found


def _rank_from(directory: Path, schema: pb.Schema, rows: Mapping[str, Array]) -> int | None:
    """The fewest candidates from which on the ranking graph is the faster one, whatever more there are; None: never."""
    row_wise, ranking = session(directory / MODEL), session(directory / RANK)
    context, candidates = (inputs_of(side, schema, rows) for side in context_and_candidates(schema))
    least = None
    for count in CANDIDATES:
        whole, each = _taken(rows, count), _taken(candidates, count)
        once = {name: array[:1] for name, array in context.items()}
        flat, ranked = _medians(
            lambda inputs=whole: row_wise.run([LOGIT], inputs), lambda inputs=once | each: ranking.run([LOGIT], inputs)
        )
        least = (least or count) if ranked < flat else None
    return least


def _batches(directory: Path, rows: Mapping[str, Array]) -> list[int]:
    """The smallest batches that reach most of the best rate, and nearly all of it."""
    opened = session(directory / MODEL)
    batches = [_taken(rows, count) for count in BATCHES]
    calls = [lambda inputs=each: opened.run([LOGIT], inputs) for each in batches]
    rates = [count / seconds for count, seconds in zip(BATCHES, _medians(*calls), strict=True)]
    return sorted({next(n for n, rate in zip(BATCHES, rates, strict=True) if rate >= e * max(rates)) for e in ENOUGH})


def _medians(*calls: Callable[[], object]) -> list[float]:
    """Median seconds of each call, in turns."""
    seconds = np.empty((ROUNDS, len(calls)))
    for turn in range(-2, ROUNDS):  # the first turns warm up
        for number, call in enumerate(calls):
            started = perf_counter()
            call()
            seconds[turn, number] = perf_counter() - started
    return np.median(seconds, axis=0).tolist()


def _taken(arrays: Mapping[str, Array], count: int) -> dict[str, Array]:
    """So many rows, the given ones over and over."""
    return {name: array[np.arange(count) % len(array)] for name, array in arrays.items()}


def _machine() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, one thread"
