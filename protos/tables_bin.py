"""`tables.bin`: how its constants lie in the file, and how many bytes a plan takes of it, to the byte.

Constants of 4096 bytes and more come first, each from a multiple of 64 on: rows of 64 bytes straddle no cache lines.
Smaller ones come after them, from multiples of 16 on. Each takes up a multiple of what it begins at, so the file is as
large in whatever order constants are named.
Legend: n values of a vocabulary; D width of a row.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from . import manifest_pb2 as pb
from .low_bits import GRID_BYTES, stride
from .packing import groups
from .plan import CLASS_BYTES, FLOAT_BYTES, path_steps

LARGE, LINE, SMALL_LINE = 4096, 64, 16
BUCKET_BYTES, ENTRY_BYTES = 4, 8
PARTS = ("tables", "first_order", "classes", "vocabularies", "alignment")
TABLES, FIRST_ORDER, CLASSES, VOCABULARIES, ALIGNMENT = PARTS


def padded(size: int) -> int:
    """Bytes that a constant of `size` bytes takes up."""
    line = LINE if size >= LARGE else SMALL_LINE
    return -(-size // line) * line


def lay_out(sizes: Mapping[str, int]) -> dict[str, int]:
    """Name -> bytes of a constant become name -> where it begins, in the order of the file."""
    offsets, end = dict[str, int](), 0
    for name in sorted(sizes, key=lambda name: sizes[name] < LARGE):
        offsets[name] = end
        end += padded(sizes[name])
    return offsets


def part_bytes(constants: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The bytes of a file's parts, of which the first four may be absent: (part, bytes) of every constant."""
    found: dict[str, int] = dict.fromkeys(PARTS, 0)
    for part, size in constants:
        found[part] += size
        found[ALIGNMENT] += padded(size) - size
    return {part: size for part, size in found.items() if size or part == ALIGNMENT}


def plan_bytes(schema: pb.Schema, plan: pb.Plan) -> dict[str, int]:
    """Bytes of the parts of `tables.bin`, which add up to the file, where tables are in float32 or in their few bits.

    Args:
        schema: of the features; its vocabularies have their sizes.
        plan: in packing order, as a net that reads it whole has it.
    """
    return part_bytes(_constants(schema, plan))


def bucket_count(n: int) -> int:
    """Buckets of a vocabulary's perfect hash; odd: bucket and slot tell of different bits where n is a power of two."""
    return (n * 3 // 8 + 32) | 1


def entry_count(n: int) -> int:
    """Entries of a vocabulary's perfect hash; an empty one has one."""
    return max(n, 1)


def _constants(schema: pb.Schema, plan: pb.Plan) -> Iterator[tuple[str, int]]:
    for part, fields in ((TABLES, plan.fields), (FIRST_ORDER, plan.first_order)):
        yield from ((part, size) for size in _tables(fields))
    classes = {
        (field.feature, j): field.cardinality * CLASS_BYTES
        for field in (*plan.fields, *plan.first_order)
        for j, table in enumerate(field.tables)
        if table.classes
    }
    if classes:
        yield CLASSES, sum(classes.values())
    sizes = [each.vocabulary.size for each in schema.features if each.WhichOneof("encoding") == "vocabulary"]
    if sizes:
        yield VOCABULARIES, sum(map(bucket_count, sizes)) * BUCKET_BYTES
        yield VOCABULARIES, sum(map(entry_count, sizes)) * ENTRY_BYTES


def _tables(fields: Sequence[pb.Field]) -> Iterator[int]:
    """Bytes of every constant of packed tables: a group's partition is one; with its scales, or of PATH, several."""
    for group in groups(fields):
        members = [fields[position] for position in group.fields]
        for j, bits in enumerate(group.bits):
            tables = [field.tables[j] for field in members if len(field.tables) > j]
            neutral, dim = len(tables) < len(members), tables[0].dim  # a row for fields that take no part
            rows = sum(table.rows for table in tables) + neutral
            if bits:
                yield rows * stride(bits, dim)
                yield (len(tables) + neutral) * dim * GRID_BYTES
            elif group.combine == pb.PATH and j:
                for inputs, outputs in path_steps(group.dim, group.hidden):
                    yield rows * outputs * inputs * FLOAT_BYTES
                    yield rows * outputs * FLOAT_BYTES
            else:
                yield rows * dim * FLOAT_BYTES
