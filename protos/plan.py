"""Plans: the fields of a model with the tables that compose their embeddings, checked, proved, counted in bytes.

Source: Shi et al., KDD'20, sections 3 and 4. Legend: n ids of a field; k tables; D width of a composed vector.
"""

from collections.abc import Callable, Mapping, Sequence

from . import manifest_pb2 as pb
from .collisions import Int32s, count_class_collisions, count_collisions
from .errors import NotComplementary, Overflow, PlanError, TooManyRows, WrongClasses, WrongDims, WrongShape
from .low_bits import BITS, GRID_BYTES, stride
from .partitions import LARGEST_ID, MAX_TABLES, Pairs, check_count

FLOAT_BYTES, CLASS_BYTES = 4, 4
TABLES_OF = {pb.FULL: 1, pb.HASHED: 1, pb.QUOTIENT_REMAINDER: 2}
SCHEMES = (*TABLES_OF, pb.MIXED_RADIX, pb.CHINESE_REMAINDER, pb.SEMANTIC)
COMBINES = (pb.ALONE, pb.MULT, pb.ADD, pb.CONCAT, pb.PATH, pb.FEATURE)
SIDE_BY_SIDE = (pb.CONCAT, pb.FEATURE)  # the composed vector is the tables' vectors one after the other


def pairs(field: pb.Field) -> list[tuple[int, int]]:
    """The (divide, rows) of a field's tables."""
    return [(table.divide, table.rows) for table in field.tables]


def vector_dims(field: pb.Field) -> list[int]:
    """The widths of the vectors that the field gives to a net: one, or with FEATURE one a table."""
    return [table.dim for table in field.tables] if field.combine == pb.FEATURE else [field.dim]


def class_tables(field: pb.Field) -> list[int]:
    """The numbers of the field's tables whose classes are given id by id."""
    return [j for j, table in enumerate(field.tables) if table.classes]


def path_width(dim: int, hidden: int) -> int:
    """How many weights a function of PATH has: of a linear map, or of an MLP with one hidden layer."""
    return sum(inputs * outputs + outputs for inputs, outputs in path_steps(dim, hidden))


def path_steps(dim: int, hidden: int) -> list[tuple[int, int]]:
    """The linear maps of a function of PATH, in order: how many numbers each reads, and how many it gives."""
    return [(dim, hidden), (hidden, dim)] if hidden else [(dim, dim)]


def table_dims(combine: pb.Combine, dim: int, hidden: int, k: int) -> list[int]:
    """The widths of the rows of k tables that are joined to vectors of a dim; see `build_field`."""
    if combine == pb.CONCAT:
        return [dim // k + (j < dim % k) for j in range(k)]
    if combine == pb.PATH:
        return [path_width(dim, hidden) if j else dim for j in range(k)]
    return [dim] * k


def build_field(
    feature: str,
    n: int,
    tables: Pairs,
    *,
    scheme: pb.Scheme,
    combine: pb.Combine,
    dim: int,
    hidden: int = 0,
    classes: Sequence[Int32s | None] = (),
    allow_collisions: bool = False,
    bits: int = 0,
) -> pb.Field:
    """A field with its tables, checked and proved.

    Args:
        feature: its name.
        n: its number of ids.
        tables: (divide, rows) of each.
        scheme: what the tables are called.
        combine: how they are joined; ALONE is taken for a single table.
        dim: width of the composed vector; with CONCAT each table has its share of it, the first ones rounded up; with
            FEATURE each table has all of it.
        hidden: PATH only: width of each function's hidden layer, 0 for linear functions.
        classes: for each table None or the class of every id, int32 (n,); empty where no table has classes.
        allow_collisions: whether ids may share every row; the hashing trick needs no leave.
        bits: of the tables' values, PATH's functions apart; 0 for float32.

    Raises:
        PlanError, and those below it in errors.py. WrongShape: classes of another number than n.
    """
    where = f"field {feature!r}"
    _check_ids(n, where)
    if len(tables) == 1:
        combine = pb.ALONE
    dims, given = table_dims(combine, dim, hidden, len(tables)), list(classes) or [None] * len(tables)
    field = pb.Field(feature=feature, cardinality=n, scheme=scheme, combine=combine, allow_collisions=allow_collisions)
    field.dim = sum(dims) if combine == pb.FEATURE else dim
    field.hidden = hidden if combine == pb.PATH else 0
    for (divide, rows), width, each in zip(tables, dims, given, strict=True):
        field.tables.add(divide=divide, rows=rows, dim=width, classes=each is not None, bits=bits)
    for function in field.tables[1:] if combine == pb.PATH else ():
        function.bits = 0
    _check_shape(field, where)
    if any(each is not None for each in given):
        _check_class_arrays(field, given, where)
        field.collisions = count_class_collisions(tables, given, n)
    else:
        field.collisions = count_collisions(n, tables, where)
    field.complementary = field.collisions == 0
    _check_leave(field, where)
    return field


def check_field(field: pb.Field, where: str) -> None:
    """Refuse a field whose tables cannot be, or whose proof does not hold.

    A field with classes is proved by `check_classes`, where their arrays are at hand.

    Raises:
        PlanError: no ids, no tables, rows or divide below 1, dims that the combine cannot join.
        NotComplementary: the field says that it is complementary (or must be) and is not.
    """
    _check_shape(field, where)
    if not any(table.classes for table in field.tables):
        _check_proof(field, count_collisions(field.cardinality, pairs(field), where), where)
    _check_leave(field, where)


def check_classes(field: pb.Field, arrays: Mapping[int, Int32s], where: str) -> None:
    """Prove a field with classes again; `arrays` has the classes of every such table, by the table's number.

    Raises:
        WrongShape: an array of another length, or with classes that the table has no row for.
        NotComplementary: see `check_field`.
    """
    given = [arrays.get(j) if table.classes else None for j, table in enumerate(field.tables)]
    _check_class_arrays(field, given, where)
    _check_proof(field, count_class_collisions(pairs(field), given, field.cardinality), where)


def _check_ids(n: int, where: str) -> None:
    try:
        check_count(n)
    except PlanError as error:
        raise type(error)(error.rule, found=error.found, where=where, remedy=error.remedy) from None


def _check_shape(field: pb.Field, where: str) -> None:
    def refuse(rule: str, found: str, remedy: str = "Build the plan again", kind: type[PlanError] = PlanError) -> None:
        raise kind(rule, found=found, where=where, remedy=remedy)

    n, tables = field.cardinality, field.tables
    _check_ids(n, where)
    if not 1 <= len(tables) <= MAX_TABLES:
        refuse(f"a field has 1 to {MAX_TABLES} tables", f"{len(tables)} tables")
    if any(table.rows < 1 or table.divide < 1 for table in tables):
        refuse("a field has tables of at least one row and divide", f"{pairs(field)}")
    if any(table.divide > LARGEST_ID for table in tables):
        refuse("an id is divided by at most 2^63 - 1", f"{pairs(field)}", kind=Overflow)
    if any(table.rows > n for table in tables):
        refuse(
            f"no table has more rows than the field has ids ({n})",
            f"{pairs(field)}",
            "Ask for fewer rows, or leave the field full",
            TooManyRows,
        )
    if field.scheme not in SCHEMES:
        refuse("a field names its scheme", f"scheme {field.scheme}")
    if field.combine not in COMBINES:
        refuse("a field says how its tables are joined", f"combine {field.combine}", "Name a combine")
    if (len(tables) == 1) != (field.combine == pb.ALONE):
        refuse("one table stands ALONE, several are joined", pb.Combine.Name(field.combine), "Name a combine")
    if len(tables) != TABLES_OF.get(field.scheme, len(tables)):
        refuse(
            "a full or hashed field has one table, a quotient-remainder field two",
            f"{len(tables)} of scheme {pb.Scheme.Name(field.scheme)}",
        )
    if any(table.classes and (field.scheme != pb.SEMANTIC or table.divide != 1) for table in tables):
        refuse("classes belong to a semantic field, and their ids are not divided", f"{pairs(field)}")
    if field.tables[0].bits not in (0, *BITS):
        found = f"{field.tables[0].bits} bits"
        refuse(f"a table's values have {', '.join(map(str, BITS))} bits, or are float32", found, "Set `bits` to one")
    if any(table.bits != (0 if field.combine == pb.PATH else field.tables[0].bits) for table in field.tables[1:]):
        rule = "the tables of a field have the same bits, and a path's functions none"
        refuse(rule, f"bits {[table.bits for table in field.tables]}")
    _check_dims(field, refuse)


def _check_dims(field: pb.Field, refuse: Callable[..., None]) -> None:
    dims, k = [table.dim for table in field.tables], len(field.tables)
    told, again = f"dims {dims} for dim {field.dim}", "Build the plan again"
    if field.combine == pb.CONCAT and 0 < field.dim < k:
        rule, found = "concatenated tables have a dimension each", f"dim {field.dim} for {k} tables"
        refuse(rule, found, f"Set `dim` to {k} or more, or join by mult or add", WrongDims)
    if field.dim < 1 or min(dims) < 1:
        refuse("a dimension is at least 1", told, "Raise `dim`", WrongDims)
    if field.hidden and field.combine != pb.PATH:
        rule = "functions with a hidden layer belong to path"
        refuse(rule, f"hidden {field.hidden}", "Leave `hidden` out", WrongDims)
    if field.combine in SIDE_BY_SIDE and sum(dims) != field.dim:
        refuse("dims that stand side by side add up to the field's", told, again, WrongDims)
    if field.combine in (pb.ALONE, pb.MULT, pb.ADD) and set(dims) != {field.dim}:
        rule = "mult and add join tables of the field's dim"
        refuse(rule, told, "Give them one dim, or join by concat", WrongDims)
    if field.combine == pb.FEATURE and len(set(dims)) != 1:
        refuse("features of one field have one dim", told, "Give them one dim", WrongDims)
    if field.combine == pb.PATH and dims != table_dims(pb.PATH, field.dim, field.hidden, k):
        rule = "a path's first table is of the field's dim, its later ones hold the weights of functions"
        refuse(rule, f"{told} and hidden {field.hidden}", again, WrongDims)


def _check_class_arrays(field: pb.Field, arrays: Sequence[Int32s | None], where: str) -> None:
    for j, (table, classes) in enumerate(zip(field.tables, arrays, strict=True)):
        if not table.classes:
            continue
        if classes is None or classes.shape != (field.cardinality,):
            raise WrongShape(
                "every id of a semantic field has a class",
                found="none" if classes is None else f"{len(classes)} classes for {field.cardinality} ids",
                where=f"{where}, table {j}",
                remedy="Train the model again",
            )
        if classes.min() < 0 or classes.max() >= table.rows:
            raise WrongClasses(
                "a class is the number of a row",
                found=f"classes from {classes.min()} to {classes.max()} for {table.rows} rows",
                where=f"{where}, table {j}",
                remedy="Train the model again",
            )


def _check_proof(field: pb.Field, collisions: int, where: str) -> None:
    if field.collisions != collisions or field.complementary != (collisions == 0):
        raise NotComplementary(
            "a field says rightly whether every id has its own tuple of rows, and how many have not",
            found=f"complementary = {field.complementary}, collisions = {field.collisions}; counted {collisions} "
            f"of {field.cardinality} ids on tables {pairs(field)}",
            where=where,
            remedy="Build the plan again",
        )


def _check_leave(field: pb.Field, where: str) -> None:
    if field.collisions and field.scheme != pb.HASHED and not field.allow_collisions:
        raise NotComplementary(
            "every id has its own tuple of rows, but for the hashing trick and where the recipe says allow_collisions",
            found=f"{field.collisions} of {field.cardinality} ids share every row with a smaller one on {pairs(field)}",
            where=where,
            remedy="Ask for more rows or tables, or say allow_collisions",
        )


def weight_bytes(field: pb.Field) -> int:
    """Bytes of the field's tables: in float32; or of few bits, as packed codes with a scale a column."""
    return sum(_bytes_of(table, table.dim) for table in field.tables)


def _bytes_of(table: pb.Table, dim: int, bits: int | None = None) -> int:
    own = table.bits if bits is None else bits
    return table.rows * stride(own, dim) + dim * GRID_BYTES if own else table.rows * dim * FLOAT_BYTES


def float_bytes(field: pb.Field) -> int:
    """Bytes of the field's tables while they learn, in float32 whatever their bits, and of its classes."""
    return parameters([field]) * FLOAT_BYTES + class_bytes(field)


def table_bytes(field: pb.Field) -> int:
    """Bytes of the field's tables and of its classes, of which a first-order twin stores no second copy."""
    return weight_bytes(field) + class_bytes(field)


def class_bytes(field: pb.Field) -> int:
    """Bytes of the field's classes."""
    return sum(CLASS_BYTES * field.cardinality for table in field.tables if table.classes)


def full_bytes(field: pb.Field) -> int:
    """Bytes that one full table of the same dimension would take; with FEATURE, of one of its vectors."""
    return field.cardinality * vector_dims(field)[0] * FLOAT_BYTES


def parameters(fields: Sequence[pb.Field]) -> int:
    """Numbers held by the tables of these fields."""
    return sum(table.rows * table.dim for field in fields for table in field.tables)


def parameters_at(field: pb.Field, dim: int) -> int:
    """Numbers that the field's tables would hold if its vectors had another dim."""
    return sum(table.rows * width for table, width in zip(field.tables, _dims_at(field, dim), strict=True))


def bytes_at(field: pb.Field, dim: int, bits: int | None = None) -> int:
    """`table_bytes` if the field's vectors had another dim, and its numbers other `bits`; 0 for float32."""
    dims = _dims_at(field, dim)
    held = sum(_bytes_of(table, width, bits) for table, width in zip(field.tables, dims, strict=True))
    return held + class_bytes(field)


def _dims_at(field: pb.Field, dim: int) -> list[int]:
    return table_dims(field.combine, dim, field.hidden, len(field.tables))
