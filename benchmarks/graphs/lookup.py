"""The lookup alone, ids to vectors: the product's graph against the per-field graph, torch and fbgemm.

Ids are encoded (int64 [B, 26]); every call has ids of its own from 600,000 rows. Legend: B rows of a call.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from quorem.export import tables
from quorem.export.codes import FLOATS
from quorem.export.graph import TABLES, Graph
from quorem.export.ids import Ids
from quorem.export.lookup import in_order, look_up
from quorem.export.rows import classes_of, dtype_of
from quorem.export.side import whole_rows
from quorem.export.tensors import open_tensors
from quorem.export.values import flat
from quorem.protos import manifest_pb2 as pb

from . import criteo
from .clock import Prepare, Timed, calls_for, race
from .ends import OUTPUT, End, finish
from .per_field import per_field, places

BATCHES = (1, 16, 128, 256, 512, 1024, 2048, 4096)
BATCHES_OF_TWO = (16, 128, 1024, 4096)
PER_FIELD, FUSED = "per field", "quorem"
ERRORS_ONLY = 3
Ready = Callable[[criteo.Ids], Callable[[], Any]]  # ids -> a call that looks them up


def measure(work: Path, rounds: int, *, torch_too: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """All cells, and notes on what could not be measured. `work` gets tables and graphs of 1.1 GB, once."""
    fields = in_order(criteo.fields())  # whose columns the encoded ids have
    packed = _write(work, fields)
    starts = places(packed, fields)
    _write_per_field(work, fields, starts)
    pool = criteo.random_ids(np.random.default_rng(1), [field.cardinality for field in fields], criteo.POOL_ROWS)
    cells, notes = list[dict[str, Any]](), list[str]()
    for threads, batches in ((1, BATCHES), (2, BATCHES_OF_TWO)):
        peers, told = _peers(work, fields, starts, threads) if torch_too else ({}, [])
        notes.extend(note for note in told if note not in notes)
        for end in ("sum", "vectors"):
            graphs = {name: session(work / f"{_file(name, end)}.onnx", threads) for name in _NAMES}
            ready = graphs | (peers if end == "vectors" else {})
            _warm(ready, pool)
            for rows in batches:
                feeds = fresh(pool, rows)
                variants = {name: variant(each, feeds) for name, each in ready.items()}
                for timed in race(variants, rounds, calls_for(rows)):
                    cells.append({"end": end, "threads": threads, "rows": rows, **timed.as_json()})
                    print(_line(end, threads, rows, timed), flush=True)
    return cells, notes


_NAMES = (PER_FIELD, f"{PER_FIELD}, careful", FUSED)


def _write(work: Path, fields: Sequence[pb.Field]) -> Sequence[Any]:
    """tables.bin and the product's graphs; the packed constants."""
    schema, weights = criteo.schema(0), work / "lookup.safetensors"
    side, columns = whole_rows(schema)[0], {field.feature: (k, 1) for k, field in enumerate(fields)}
    packed = list[Any]()
    for end in ("sum", "vectors"):
        graph, classes = Graph(), classes_of(fields)
        dtype = dtype_of(fields, classes)
        encoded = graph.node("ids/encoded", "Cast", "ids", to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        pieces = look_up(graph, "embedding", side, criteo.fields(), Ids(encoded, columns, dtype), classes, FLOATS)
        (piece,) = pieces
        model = finish(graph, piece.tensor if end == "vectors" else flat(graph, piece), end)
        onnx.save(model, str(work / f"{_file(FUSED, end)}.onnx"))
        packed = list(graph.store.packed.values())
    if not (work / TABLES).is_file():
        criteo.write_weights(weights, criteo.table_shapes(fields), lambda name, shape: 1)
        with open_tensors(weights) as opened:
            tables.write(work / TABLES, packed, opened)
        weights.unlink()
    return packed


def _write_per_field(work: Path, fields: Sequence[pb.Field], starts: dict[str, int]) -> None:
    for name, every in ((PER_FIELD, True), (f"{PER_FIELD}, careful", False)):
        for end in ("sum", "vectors"):
            model = per_field(fields, starts, end, every=every)
            onnx.save(model, str(work / f"{_file(name, end)}.onnx"))


def _file(name: str, end: End) -> str:
    return f"{name}.{end}".replace(", ", "_").replace(" ", "_")


def session(path: Path, threads: int) -> Ready:
    """A graph, opened."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY
    # Threads of a session that waits for its turn would spin away the cores of the one that runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    opened = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda ids: partial(opened.run, [OUTPUT], {"ids": ids})


def _peers(
    work: Path, fields: Sequence[pb.Field], starts: dict[str, int], threads: int
) -> tuple[dict[str, Ready], list[str]]:
    """The peers in torch, and what is not there."""
    try:
        import torch
    except ImportError:
        return {}, ["torch is not measured: it is not installed"]
    from . import peers

    torch.set_num_threads(threads)
    known = peers.tables(work / TABLES, fields, starts)
    eager = {"torch per field": peers.per_field(fields, known), "torch fused": peers.fused(fields, known)}
    functions, notes = dict(eager), list[str]()
    for name, function in eager.items():
        compiled = torch.compile(function, dynamic=True)
        try:
            with torch.no_grad():
                compiled(torch.zeros(2, len(fields), dtype=torch.int64))
            functions[f"{name}, compiled"] = compiled
        except Exception as error:  # a compiler that is absent, a backend that fails: told, not fatal
            notes.append(f"{name}, compiled is not measured: {type(error).__name__}")
    batched = peers.fbgemm(fields, known)
    if isinstance(batched, str):
        notes.append(batched)
    else:
        functions["fbgemm tables in batch"] = batched

    def ready(function: peers.Lookup) -> Ready:
        return lambda ids: partial(torch.no_grad()(function), torch.from_numpy(ids))

    return {name: ready(function) for name, function in functions.items()}, notes


def _warm(variants: Mapping[str, Ready], pool: criteo.Ids) -> None:
    """Map the tables' pages, and see that all give the same vectors."""
    first = None
    for name, ready in variants.items():
        found = ready(pool[:64])()
        found = np.asarray(found[0] if isinstance(found, list) else found).reshape(64, -1)
        first = found if first is None else first
        if not np.allclose(found, first, rtol=1e-4, atol=1e-4):
            raise AssertionError(f"{name} gives other vectors")
        for start in range(0, 10 * 8192, 8192):
            ready(pool[start : start + 8192])()


def fresh(pool: criteo.Ids, rows: int) -> Iterator[criteo.Ids]:
    """Rows of the pool in turn, so that no call sees what the one before it brought into the caches."""
    start = 0
    while True:
        if start + rows > len(pool):
            start = 0
        yield np.ascontiguousarray(pool[start : start + rows])
        start += rows


def variant(ready: Ready, feeds: Iterator[criteo.Ids]) -> Prepare:
    """Calls on the next rows of `feeds`."""
    return lambda: ready(next(feeds))


def _line(end: str, threads: int, rows: int, timed: Timed) -> str:
    return f"{end:<8} {threads} thread(s) {rows:5} rows  {timed.variant:<28} {timed.us} us  {timed.speedup} x"
