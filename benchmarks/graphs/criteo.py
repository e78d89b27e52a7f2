"""Criteo's 26 columns with random rows and random weights: the size of what is measured here, and none of its data.

Legend: B rows; F fields.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from quorem.protos import packing, partitions, plan

Ids = npt.NDArray[np.int64]
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]

# Of Criteo Kaggle, the rare id of each column included (train/recipes/cardinalities.toml has the sizes without it).
CARDINALITIES = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
CANDIDATE_COLUMNS = (12, 21, 24, 26, 10, 15, 7, 11, 8, 6)  # the other 16 are the context's
NUMBERS = 13
COLLISIONS, THRESHOLD, DIM = 4, 200, 16
STRETCH_ROWS = 500_000
POOL_ROWS = 600_000


def schema(candidate_numbers: int) -> pb.Schema:
    """I1 … I13, the last `candidate_numbers` of them the candidates', then C1 … C26."""
    found = pb.Schema()
    for k in range(1, NUMBERS + 1):
        side = pb.CANDIDATE if k > NUMBERS - candidate_numbers else pb.CONTEXT
        found.features.add(name=f"I{k}", side=side, values=pb.FLOAT, dense=pb.Dense(transform=pb.NONE, scale=1))
    for k, n in enumerate(CARDINALITIES, 1):
        side = pb.CANDIDATE if k in CANDIDATE_COLUMNS else pb.CONTEXT
        ids = pb.IdRange(size=n - 1, out_of_range=pb.RARE)
        found.features.add(name=f"C{k}", side=side, values=pb.INTEGER, id=ids)
    return found


def fields() -> list[pb.Field]:
    """Quotient and remainder, multiplied, at four collisions; whole tables for columns of up to 200 ids."""
    found = list[pb.Field]()
    for k, n in enumerate(CARDINALITIES, 1):
        whole = n <= THRESHOLD
        tables = partitions.full(n) if whole else partitions.quotient_remainder(n, -(-n // COLLISIONS))
        scheme = pb.FULL if whole else pb.QUOTIENT_REMAINDER
        found.append(plan.build_field(f"C{k}", n, tables, scheme=scheme, combine=pb.MULT, dim=DIM))
    return packing.pack(found)


def random_ids(rng: np.random.Generator, cardinalities: Sequence[int], rows: int) -> Ids:
    """Uniform ids, [rows, F]."""
    return np.stack([rng.integers(0, n, rows) for n in cardinalities], axis=1)


def table_shapes(found: Sequence[pb.Field]) -> Shapes:
    """Name -> (dtype, shape) of the fields' tables."""
    return manifests.tensor_shapes(pb.Manifest(plan=pb.Plan(fields=found)))


def write_weights(path: Path, shapes: Shapes, scale_of: Callable[[str, tuple[int, ...]], float]) -> None:
    """A safetensors file of random float32 tensors, a stretch of rows at a time: no table is ever in memory.

    Numbers of embeddings are ± (0.5 … 1), all others normal, times what `scale_of` says of a tensor's name and shape.
    """
    header, end = dict[str, object](), 0
    for name, (dtype, shape) in shapes.items():
        assert dtype == "float32", name
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, (_, shape) in shapes.items():
            left, columns = shape[0], int(np.prod(shape[1:]))
            while left:
                rows = min(left, STRETCH_ROWS)
                if name.startswith("embedding."):
                    numbers = rng.random((rows, columns), np.float32) - np.float32(0.5)
                    numbers += np.copysign(np.float32(0.5), numbers)
                else:
                    numbers = rng.standard_normal((rows, columns), np.float32)
                numbers *= np.float32(scale_of(name, shape))
                file.write(numbers.data)
                left -= rows
