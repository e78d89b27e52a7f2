"""The published quotient-remainder code's answers, worked out by hand, are ours: same rows, same weights, same vectors.

facebookresearch/dlrm, tricks/qr_embedding_bag.py: `num_collisions` c gives a quotient table of ceil(n / c) rows, row
x div c, and a remainder table of c rows, row x mod c; their vectors are multiplied, added, or stand side by side, the
quotient's first. In our arithmetic these are the pairs (c, ceil(n / c)) and (1, c): the radices c and ceil(n / c), or
`quotient_remainder` with m = c.

On purpose ours differ in four ways, so that for the same c the recipe's scheme `qr` is another plan, of no more rows:

* The remainder table is the large one: m = ceil(n / c) rows of x mod m, as a hashed table of c collisions has, beside
  quotients x div m. Ids m apart share a row of it; of the published code's large table c neighbours do, which in a
  vocabulary are about as frequent as one another.
* The remainder's table stands first, so what is side by side begins with it.
* Rows are exact at any size. The published code divides in float32: beyond 2^24 some ids take a neighbour's row.
* Items of a bag are composed, then pooled. The published code pools quotients and remainders apart, then joins them.

Legend: N ids; D = 2, the width of a vector.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import oracle
import pytest
import runs
import torch
from quorem.export.bundle import export
from quorem.protos import manifest_pb2 as pb
from quorem.protos import partitions, plan
from quorem.train.model import Model

Vectors = Mapping[int, Sequence[float]]

# 10 ids by c = 4. All products and sums can be checked by eye.
SMALL_ROWS = {
    0: (0, 0),
    1: (0, 1),
    2: (0, 2),
    3: (0, 3),
    4: (1, 0),
    5: (1, 1),
    6: (1, 2),
    7: (1, 3),
    8: (2, 0),
    9: (2, 1),
}
SMALL_QUOTIENTS = {0: (1, 2), 1: (3, 0.5), 2: (-1, 4)}
SMALL_REMAINDERS = {0: (2, 1), 1: (0.5, -2), 2: (-4, 3), 3: (4, 0.25)}
SMALL = {
    pb.MULT: {
        0: (2, 2),
        1: (0.5, -4),
        2: (-4, 6),
        3: (4, 0.5),
        4: (6, 0.5),
        5: (1.5, -1),
        6: (-12, 1.5),
        7: (12, 0.125),
        8: (-2, 4),
        9: (-0.5, -8),
    },
    pb.ADD: {
        0: (3, 3),
        1: (1.5, 0),
        2: (-3, 5),
        3: (5, 2.25),
        4: (5, 1.5),
        5: (3.5, -1.5),
        6: (-1, 3.5),
        7: (7, 0.75),
        8: (1, 5),
        9: (-0.5, 2),
    },
    pb.CONCAT: {  # of the tables' first columns
        0: (1, 2),
        1: (1, 0.5),
        2: (1, -4),
        3: (1, 4),
        4: (3, 2),
        5: (3, 0.5),
        6: (3, -4),
        7: (3, 4),
        8: (-1, 2),
        9: (-1, 0.5),
    },
}
# 2^24 ids by c = 3000: 5592 x 3000 = 16,776,000, and 4115 x 3000 = 12,345,000.
LARGE_ROWS = {
    0: (0, 0),
    1: (0, 1),
    2_999: (0, 2999),
    3_000: (1, 0),
    3_001: (1, 1),
    12_345_678: (4115, 678),
    16_777_215: (5592, 1215),
}
LARGE_QUOTIENTS = {0: (1, 2), 1: (3, 0.5), 4115: (-1, 4), 5592: (2, -0.5)}
LARGE_REMAINDERS = {0: (2, 1), 1: (0.5, -2), 678: (-4, 3), 1215: (8, -1), 2999: (4, 0.25)}
LARGE = {
    pb.MULT: {
        0: (2, 2),
        1: (0.5, -4),
        2_999: (4, 0.5),
        3_000: (6, 0.5),
        3_001: (1.5, -1),
        12_345_678: (4, 12),
        16_777_215: (16, 0.5),
    },
    pb.ADD: {
        0: (3, 3),
        1: (1.5, 0),
        2_999: (5, 2.25),
        3_000: (5, 1.5),
        3_001: (3.5, -1.5),
        12_345_678: (-5, 7),
        16_777_215: (10, -1.5),
    },
    pb.CONCAT: {
        0: (1, 2),
        1: (1, 0.5),
        2_999: (1, 4),
        3_000: (3, 2),
        3_001: (3, 0.5),
        12_345_678: (-1, -4),
        16_777_215: (2, 8),
    },
}
CASES = {
    "10 ids by 4": (10, 4, SMALL_ROWS, SMALL_QUOTIENTS, SMALL_REMAINDERS, SMALL),
    "2^24 ids by 3000": (2**24, 3000, LARGE_ROWS, LARGE_QUOTIENTS, LARGE_REMAINDERS, LARGE),
}
ELSEWHERE = 99.0  # in every row that no listed id has


def table(rows: int, width: int, known: Vectors) -> runs.Array:
    """Float32 [rows, width] with the known rows, of their first columns."""
    found = np.full((rows, width), ELSEWHERE, np.float32)
    for row, vector in known.items():
        found[row] = vector[:width]
    return found


def model_of(field: pb.Field) -> pb.Manifest:
    """One feature whose raw ids are ids, and a logit that keeps both numbers of a vector apart: v0 + 1024 v1."""
    feature = pb.Feature(name="x", side=pb.CANDIDATE, values=pb.INTEGER)
    feature.id.CopyFrom(pb.IdRange(size=field.cardinality - 1, out_of_range=pb.RARE))
    logit = pb.Layer(name="logit", inputs=["embeddings"], linear=pb.Linear(inputs=2, outputs=1))
    return pb.Manifest(
        format_version=1,
        schema=pb.Schema(features=[feature]),
        plan=pb.Plan(fields=[field]),
        net=pb.Net(model="vectors", layers=[logit]),
    )


def by_torch(manifest: pb.Manifest, weights: Mapping[str, runs.Array], ids: Sequence[int]) -> list[list[float]]:
    """The vectors of ids from train's tables, which keep some as deviations from a centre."""
    model = Model(manifest.schema, manifest.plan, manifest.net, {})
    model.reset(1)
    for group in model.embedding.packed():
        for partition in group.packed():
            for field, packed in partition.tables():
                stored = torch.from_numpy(weights[f"embedding.{field.feature}.{partition.number}"])
                packed.copy_(stored - group.centre if partition.number else stored)
    with torch.no_grad():
        return model.embedding(torch.tensor(ids).unsqueeze(1))[0].tolist()


def by_onnx(
    directory: Path, manifest: pb.Manifest, weights: Mapping[str, runs.Array], ids: Sequence[int]
) -> list[float]:
    """The logits of an exported bundle, which was compared with the oracle's as it was written."""
    column = np.array(ids, np.int64)[:, None]
    logits = oracle.logits(manifest, weights, column, np.zeros((len(ids), 0), np.float32)).astype(np.float32)
    reference = {"ids": column, "logit": logits, "label": np.zeros(len(ids), np.float32)}
    runs.write(directory / "run", manifest, weights, reference)
    bundle = export(directory / "run", directory / "model")
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logit"], {"ids": column})[0]).tolist()


def expect(directory: Path, field: pb.Field, tables: Sequence[runs.Array], expected: Vectors) -> None:
    """The vectors of the oracle, of torch and of ONNX Runtime are the expected ones, to the bit."""
    manifest, ids = model_of(field), list(expected)
    weights = {f"embedding.x.{j}": each for j, each in enumerate(tables)}
    weights |= {"logit.weight": np.array([[1, 1024]], np.float32), "logit.bias": np.zeros(1, np.float32)}
    vectors = [list(vector) for vector in expected.values()]
    assert [oracle.compose(field, weights, "embedding", each).tolist() for each in ids] == vectors
    assert by_torch(manifest, weights, ids) == vectors
    assert by_onnx(directory, manifest, weights, ids) == [first + 1024 * second for first, second in vectors]


@pytest.mark.parametrize("case", CASES)
def test_rows_are_the_published_ones(case: str) -> None:
    n, c, rows, *_ = CASES[case]
    quotients = -(-n // c)
    pairs = [(c, quotients), (1, c)]
    assert partitions.rows_of(pairs, np.array(list(rows))).tolist() == [list(each) for each in rows.values()]
    assert partitions.given_radices(n, [c, quotients]) == partitions.quotient_remainder(n, c) == pairs[::-1]


@pytest.mark.parametrize("combine", [pb.MULT, pb.ADD, pb.CONCAT], ids=["mult", "add", "concat"])
@pytest.mark.parametrize("case", CASES)
def test_vectors_are_the_published_ones(tmp_path: Path, case: str, combine: pb.Combine) -> None:
    n, c, _, quotients, remainders, vectors = CASES[case]
    width = 1 if combine == pb.CONCAT else 2
    pairs = [(c, -(-n // c)), (1, c)]
    tables = [table(-(-n // c), width, quotients), table(c, width, remainders)]
    theirs = plan.build_field("x", n, pairs, scheme=pb.MIXED_RADIX, combine=combine, dim=2)
    assert theirs.complementary
    expect(tmp_path / "theirs", theirs, tables, vectors[combine])

    ours = plan.build_field("x", n, pairs[::-1], scheme=pb.QUOTIENT_REMAINDER, combine=combine, dim=2)
    turned = {x: vector[::-1] for x, vector in vectors[combine].items()}
    expect(tmp_path / "ours", ours, tables[::-1], turned if combine == pb.CONCAT else vectors[combine])


def test_where_the_recipes_plan_differs() -> None:
    """10 ids by c = 4: rows 3 + 4 as the published 4 + 3, but ids 0 to 2 do not share a row of the table that grows."""
    m = partitions.remainder_rows(10, 4)
    assert partitions.quotient_remainder(10, m) == [(1, 3), (3, 4)]
    assert partitions.rows_of([(1, m)], np.arange(10))[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert partitions.rows_of([(4, 3)], np.arange(10))[:, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_beyond_what_float32_counts_rows_stay_exact() -> None:
    """2^25 - 1 by 4 is 8,388,607 and 3 over; in float32 it is 8,388,608."""
    assert partitions.rows_of([(4, 2**23 + 1), (1, 4)], np.array([2**25 - 1])).tolist() == [[8_388_607, 3]]
    assert int(np.float32(2**25 - 1) / np.float32(4)) == 8_388_608
