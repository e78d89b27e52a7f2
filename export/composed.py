"""The inputs of a net on a tape: rows of tables that are kept in some code become vectors, and numbers are transformed.

Each row of a table that a row of the model's reads is a leaf of the tape, off by what its code rounds; one that several
items of a bag share is one leaf, as its error is one.
Legend: R rows; N items of a field in all rows; D width of a vector.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..protos import manifest_pb2 as pb
from ..protos import packing
from ..protos.ids import MISSING, VocabularyValues, bucket_ids, ids_of
from ..protos.manifest import class_name
from ..protos.nets import DENSE, EMBEDDINGS, FIRST_ORDER
from ..protos.plan import SIDE_BY_SIDE, path_steps
from ..protos.schema import dense_features, layout
from .codes import LEVELS, STEP, STEPS, Codes, Kept
from .graph import Array
from .grids import Grid
from .tape import FUNCTION, ROUNDING, Float64s, Int64s, Node, Tape

RowsOf = Callable[[str, Int64s], Array]  # rows of a tensor of the run's weights, by name and numbers
HALF_BITS, HALF_LEAST = 11, -24  # float16: of a number in [2^e, 2^(e+1)) the last place is 2^(e-10), never below 2^-24


@dataclass(frozen=True)
class Items:
    """The items of a feature in all rows, [N]: the row of each, rising, its id, and its share in its row's vector."""

    owners: Int64s
    ids: Int64s
    shares: Float64s
    bag: bool


def items_of(schema: pb.Schema, ids: Array, dense: Array, read: Callable[[str], Array]) -> dict[str, Items]:
    """The items of every feature that has ids.

    Args:
        schema: of the features.
        ids: raw64 values int64 [R, S].
        dense: float32 [R, D].
        read: a tensor of the run's weights, by name: vocabularies.
    """
    places, found = layout(schema), dict[str, Items]()
    for feature in schema.features:
        kind, name = feature.WhichOneof("encoding"), feature.name
        if kind == "bucket":
            boundaries = np.array(feature.bucket.boundaries, np.float32)
            numbers = bucket_ids(boundaries, dense[:, places.dense[name]])
            found[name] = Items(np.arange(len(dense)), numbers, np.ones(len(dense)), bag=False)
        elif kind != "dense":
            first, slots = places.slots[name]
            raw, bag = np.ascontiguousarray(ids[:, first : first + slots]), feature.HasField("bag")
            vocabulary = None
            if kind == "vocabulary":
                vocabulary = VocabularyValues(*(read(f"vocabulary.{name}.{role}") for role in ("values", "ids")))
            real = raw != MISSING if bag else np.ones_like(raw, bool)
            owners = np.nonzero(real)[0]
            counts = np.bincount(owners, minlength=len(raw)) if feature.bag.pooling == pb.MEAN else np.ones(len(raw))
            found[name] = Items(owners, ids_of(feature, raw, vocabulary)[real], 1 / counts[owners], bag)
    return found


def inputs(
    tape: Tape, manifest: pb.Manifest, items: Mapping[str, Items], dense: Array, rows_of: RowsOf, codes: Codes
) -> dict[str, Node]:
    """The net's inputs, [R, width] each, in float64; `dense` float32 [R, D] is not transformed yet."""
    found = dict[str, Node]()
    for name, prefix, fields in (
        (EMBEDDINGS, "embedding", manifest.plan.fields),
        (FIRST_ORDER, "first_order", manifest.plan.first_order),
    ):
        vectors = list[Node]()
        for g, group in enumerate(packing.groups(fields)):
            for field in (fields[position] for position in group.fields):
                kept = [codes.of(f"{prefix}.{g}", j) for j in range(len(field.tables))]
                vectors.append(_vectors(tape, prefix, field, items[field.feature], len(dense), rows_of, kept))
        if vectors:
            found[name] = tape.concat(vectors)
    if features := dense_features(manifest.schema):
        columns = [layout(manifest.schema).dense[feature.name] for feature in features]
        found[DENSE] = _dense(tape, [feature.dense for feature in features], dense[:, columns].astype(np.float64))
    return found


def ranges(kept: Kept | Grid, feature: str, rows: Float64s) -> Float64s:
    """How wide the range is in which a code's error of each number of some rows [N, D] lies: a step of the code.

    Zeros are exact, and so are numbers of few bits. HALF: the last place. FIELD_SCALE: the scale. ROW_SCALE: a scale
    that is at most a step of the ladder above the one that maps the row's greatest number to the last level, but never
    below the ladder's last.
    """
    if isinstance(kept, Grid):
        return np.zeros(rows.shape)
    if kept.code == pb.HALF:
        _, exponents = np.frexp(rows)  # |x| in [2^(e-1), 2^e)
        steps = np.ldexp(1.0, np.maximum(exponents - HALF_BITS, HALF_LEAST))
    elif kept.code == pb.FIELD_SCALE:
        steps = np.float64(np.float32(kept.scales[feature]))
    elif kept.code == pb.ROW_SCALE:
        wanted = np.abs(rows).max(axis=1, keepdims=True, initial=0) / LEVELS
        steps = np.maximum(STEP * wanted, float(kept.ladder[STEPS - 1]))
    else:
        steps = 0.0
    return np.where(rows == 0, 0.0, steps)


def _vectors(
    tape: Tape, prefix: str, field: pb.Field, items: Items, rows: int, rows_of: RowsOf, kept: list[Kept | Grid]
) -> Node:
    """A field's composed and pooled vectors, [R, D]."""
    vector: Node | None = None
    parts = list[Node]()
    for j, table in enumerate(field.tables):
        numbers = items.ids // table.divide % table.rows
        if table.classes:
            numbers = rows_of(class_name(field.feature, j), items.ids).astype(np.int64)
        name = f"{prefix}.{field.feature}.{j}"
        if field.combine == pb.PATH and vector:
            distinct, places = np.unique(numbers, return_inverse=True)
            vector = _step(tape, field, vector, rows_of(name, distinct).astype(np.float64)[places])
            continue
        part = _rows(tape, items, numbers, name, field.feature, rows_of, kept[j])
        parts.append(part)
        if vector is None or field.combine in SIDE_BY_SIDE:
            vector = part
        else:
            vector = tape.product("nd,nd->nd", vector, part) if field.combine == pb.MULT else tape.total(vector, part)
    assert vector, "a field has tables"
    if field.combine in SIDE_BY_SIDE:
        vector = tape.concat(parts)
    return tape.pool(vector, items.owners, items.shares, rows) if items.bag else vector


def _rows(
    tape: Tape, items: Items, numbers: Int64s, name: str, feature: str, rows_of: RowsOf, kept: Kept | Grid
) -> Node:
    """Each item's row of a table, [N, D]: one leaf for all items of one of the R rows that share a row of the table."""
    distinct, places = np.unique(numbers, return_inverse=True)
    keys, leaves = np.unique(items.owners * len(distinct) + places, return_inverse=True)
    owners, places = np.divmod(keys, max(len(distinct), 1))
    known = rows_of(name, distinct).astype(np.float64)
    squares = ranges(kept, feature, known)[places] ** 2
    return tape.gather(tape.leaf(known[places], squares, owners), leaves, items.owners)


def _step(tape: Tape, field: pb.Field, vector: Node, weights: Float64s) -> Node:
    """Each item's vector through its function of PATH, whose weights [N, numbers] stand one after the other."""
    start = 0
    for last, (reads, gives) in enumerate(path_steps(field.dim, field.hidden)):
        matrices = weights[:, start : start + gives * reads].reshape(-1, gives, reads)
        start += gives * reads + gives
        if last:
            vector = tape.relu(vector)
        # The matrices are constants of the items': exact, as a path's tables stay float32.
        vector = tape.total(_apply(tape, vector, matrices), weights[:, start - gives : start])
    return vector


def _apply(tape: Tape, vector: Node, matrices: Float64s) -> Node:
    return tape.product("nj,nij->ni", vector, matrices)


def _dense(tape: Tape, rules: list[pb.Dense], numbers: Float64s) -> Node:
    """(f(x) - mean) / scale, and what float32 rounds: a sum and a logarithm, or a difference and a quotient."""
    missing, mean, scale = (
        np.array([getattr(rule, name) for rule in rules], np.float64) for name in ("missing", "mean", "scale")
    )
    logarithmic = np.array([rule.transform == pb.LOG1P for rule in rules])
    known = np.where(np.isnan(numbers), missing, numbers)
    value = (np.where(logarithmic, np.log1p(np.maximum(known, 0)), known) - mean) / scale
    standard = np.array([rule.transform == pb.STANDARD for rule in rules])
    squares = np.where(logarithmic, 1 + (FUNCTION * value) ** 2, np.where(standard, 2 * value**2, 0))
    return tape.leaf(value, ROUNDING * squares)
