"""Tables of few bits: the lookup at each width beside float32, float16 and int8, and the ways to unpack a byte.

Fields and ids as in lookup.py, at 40 collisions: tables of 54 MB in float32.
Legend: B rows of a call; C columns; S bytes of a kept row; D width of a vector.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from quorem.export import tables
from quorem.export.codes import choose
from quorem.export.graph import TABLES, Graph
from quorem.export.ids import Ids
from quorem.export.lookup import in_order, look_up
from quorem.export.rows import classes_of, dtype_of
from quorem.export.side import whole_rows
from quorem.export.tensors import open_tensors
from quorem.export.values import flat
from quorem.protos import low_bits, packing, partitions, plan
from quorem.protos import manifest_pb2 as pb
from safetensors.numpy import save_file

from . import criteo
from .clock import calls_for, race
from .ends import finish
from .lookup import Ready, fresh, session, variant

BATCHES = (1, 32, 270)
COLLISIONS, DIM, ROWS = 40, criteo.DIM, 100_000
NUMBERS = {"fp32": pb.FP32, "fp16": pb.FP16, "int8": pb.INT8}
WAYS = ("shifted", "cut", "looked up")


def measure(work: Path, rounds: int) -> list[dict[str, Any]]:
    """All cells. `work` gets tables and graphs of 300 MB."""
    ready = {name: _written(work / f"bits.{name}", 0, number) for name, number in NUMBERS.items()}
    ready |= {_told(bits): _written(work / f"bits.{bits}", bits, pb.FP32) for bits in low_bits.BITS}
    names = [field.cardinality for field in in_order(_fields(0))]
    pool = criteo.random_ids(np.random.default_rng(1), names, criteo.POOL_ROWS)
    cells = _timed("lookup", ready, pool, rounds)
    pool %= ROWS
    for bits in (bits for bits in low_bits.BITS if bits < 8):
        ways = {way: _way(work, bits, way) for way in WAYS}
        cells += _timed(_told(bits), ways, pool, rounds)
    return cells


def _told(bits: int) -> str:
    return f"{bits} bit{'s' * (bits > 1)}"


def _timed(what: str, ready: Mapping[str, Ready], pool: criteo.Ids, rounds: int) -> list[dict[str, Any]]:
    cells = list[dict[str, Any]]()
    for rows in BATCHES:
        feeds = fresh(pool, rows)
        for timed in race({name: variant(each, feeds) for name, each in ready.items()}, rounds, calls_for(rows)):
            cells.append({"what": what, "rows": rows, **timed.as_json()})
            print(f"{what:<8} {rows:5} rows  {timed.variant:<10} {timed.us} us", flush=True)
    return cells


def _fields(bits: int) -> list[pb.Field]:
    found = list[pb.Field]()
    for k, n in enumerate(criteo.CARDINALITIES, 1):
        whole = n <= criteo.THRESHOLD
        pairs = partitions.full(n) if whole else partitions.quotient_remainder(n, -(-n // COLLISIONS))
        scheme = pb.FULL if whole else pb.QUOTIENT_REMAINDER
        found.append(plan.build_field(f"C{k}", n, pairs, scheme=scheme, combine=pb.MULT, dim=DIM, bits=bits))
    return packing.pack(found)


def _written(directory: Path, bits: int, number: pb.Number) -> Ready:
    """The product's graph over tables of its own; ids are encoded already."""
    directory.mkdir(exist_ok=True)
    fields, rng, weights = _fields(bits), np.random.default_rng(0), dict[str, np.ndarray]()
    for field in fields:
        for j, table in enumerate(field.tables):
            levels = rng.integers(0, 2 ** (bits or 16), (table.rows, DIM)).astype(np.float32)
            scale = np.full(DIM, 2.0 ** -(bits or 16), np.float32)
            offset = low_bits.offsets(scale, bits or 16, 1)
            weights[f"embedding.{field.feature}.{j}"] = levels * scale + offset
            if bits:
                weights[low_bits.scale_name(field.feature, j)] = scale
                weights[low_bits.offset_name(field.feature, j)] = offset
    save_file(weights, directory / "weights.safetensors")
    graph, classes, dtype = Graph(), classes_of(fields), dtype_of(fields, classes_of(fields))
    encoded = graph.node("ids/encoded", "Cast", "ids", to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    columns = {field.feature: (k, 1) for k, field in enumerate(in_order(fields))}
    with open_tensors(directory / "weights.safetensors") as opened:
        codes = choose(number, {"embedding": fields}, opened)
        ids = Ids(encoded, columns, dtype)
        (piece,) = look_up(graph, "embedding", whole_rows(criteo.schema(0))[0], fields, ids, classes, codes)
        onnx.save(finish(graph, flat(graph, piece), "sum"), str(directory / "lookup.onnx"))
        tables.write(directory / TABLES, list(graph.store.packed.values()), opened)
    (directory / "weights.safetensors").unlink()
    return session(directory / "lookup.onnx", 1)


def _way(work: Path, bits: int, way: str) -> Ready:
    """One Gather, unpacked in a way, times scales plus offsets."""
    graph, planes, found, below = Graph(), low_bits.PLANES[bits], list[str](), 0
    sizes = [low_bits.stride(plane, DIM) for plane in planes]
    packed = np.random.default_rng(0).integers(0, 256, (ROWS, sum(sizes))).astype(np.uint8)
    kept = graph.node("kept", "Gather", graph.constant("packed", packed), "ids")
    for plane, part, size in zip(planes, graph.split("planes", kept, sizes, axis=2), sizes, strict=True):
        found.append(_unpacked(graph, way, part, plane, below, size))
        below += plane
    codes = found[0] if len(found) == 1 else graph.node("codes", "Add", *found)
    levels = np.linspace(0.5, 1, 26 * DIM, dtype=np.float32).reshape(26, DIM)
    scaled = graph.node("scaled", "Mul", codes, graph.constant("scales", levels))
    vectors = graph.node("vectors", "Add", scaled, graph.constant("offsets", -levels))
    path = work / f"way.{bits}.{way.replace(' ', '_')}.onnx"
    onnx.save(finish(graph, graph.node("flat", "Flatten", vectors), "sum"), str(path))
    return session(path, 1)


def _unpacked(graph: Graph, way: str, kept: str, plane: int, below: int, size: int) -> str:
    """Bytes [B, C, S] of a plane as codes times 2^below, float32 [B, C, D].

    shifted: every byte by all shifts, by broadcasting. cut: all bytes by each shift, side by side. looked up: each byte
    in a table of its neighbours.
    """
    name, together = f"plane.{plane}", 8 // plane
    shifts = np.arange(0, 8, plane, dtype=np.uint8)
    mask = graph.constant(f"{name}/mask", np.array(2**plane - 1, np.uint8))
    if way == "looked up":
        known = (np.arange(256)[:, None] >> shifts & (2**plane - 1)) << below
        index = graph.node(f"{name}/index", "Cast", kept, to=TensorProto.INT32)
        found = graph.node(f"{name}/found", "Gather", graph.constant(f"{name}/known", known.astype(np.float32)), index)
        return graph.node(f"{name}/flat", "Reshape", found, graph.integers(0, 0, size * together))
    if way == "shifted":
        each = graph.node(f"{name}/each", "Reshape", kept, graph.integers(0, 0, size, 1))
        shifted = graph.node(
            f"{name}/shifted", "BitShift", each, graph.constant(f"{name}/shifts", shifts), direction="RIGHT"
        )
        found = graph.node(f"{name}/masked", "BitwiseAnd", shifted, mask)
        bytewise = graph.node(f"{name}/flat", "Reshape", found, graph.integers(0, 0, size * together))
    else:
        bytewise = graph.concat(f"{name}/cut", _cuts(graph, name, kept, plane, shifts.tolist(), mask), axis=2)
    codes = graph.node(f"{name}/codes", "Cast", bytewise, to=TensorProto.FLOAT)
    return (
        graph.node(f"{name}/raised", "Mul", codes, graph.constant(f"{name}/two", np.array(2**below, np.float32)))
        if below
        else codes
    )


def _cuts(graph: Graph, name: str, kept: str, plane: int, shifts: Sequence[int], mask: str) -> list[str]:
    found = list[str]()
    for shift in shifts:
        part = kept
        if shift:
            by = graph.constant(f"{name}/by.{shift}", np.array(shift, np.uint8))
            part = graph.node(f"{name}/by.{shift}/shifted", "BitShift", kept, by, direction="RIGHT")
        last = shift + plane == 8  # nothing stands above it
        found.append(part if last else graph.node(f"{name}/by.{shift}/masked", "BitwiseAnd", part, mask))
    return found
