"""Plans: which tables compose a field's embedding, proved complementary, counted in rows and bytes.

Row of id x in table j: (x // divide_j) % rows_j. Source: Shi et al., KDD'20, sections 3 and 4.
Legend: n ids of a field; m rows; c = collisions, the ids that share a row of the remainder table.
All arithmetic is in Python's integers: exact at any size.
"""

import math
from collections.abc import Sequence

import numpy as np

from . import manifest_pb2 as pb
from .errors import NotComplementary, PlanError
from .ids import Int64s

FLOAT_BYTES = 4
LARGEST_ID = 2**63 - 1  # ids are int64
MAX_TABLES = 63  # of two rows each reach every id
SCHEMES = (pb.FULL, pb.HASHED, pb.QUOTIENT_REMAINDER, pb.MIXED_RADIX, pb.CHINESE_REMAINDER)


def full(n: int) -> list[tuple[int, int]]:
    """One row an id."""
    return [(1, n)]


def hashed(n: int, rows: int) -> list[tuple[int, int]]:
    """The hashing trick: ids that are equal modulo `rows` share a vector."""
    return [(1, min(rows, n))]


def quotient_remainder(n: int, m: int) -> list[tuple[int, int]]:
    """x mod m and x div m (KDD'20, section 3.1, example 2): m + ceil(n / m) rows.

    Raises:
        PlanError: m outside 1 to n.
    """
    if not 1 <= m <= n:
        raise PlanError(
            "the remainder table has 1 to n rows", found=f"m = {m} for n = {n}", remedy="Choose fewer collisions"
        )
    return [(1, m), (m, -(-n // m))]


def mixed_radix(n: int, k: int) -> list[tuple[int, int]]:
    """The digits of x in k balanced radices (generalised quotient-remainder, KDD'20, section 3.1, example 3).

    About k * n^(1/k) rows; the radices are chosen from the first on, each the ceiling of the root of what is left.

    Raises:
        PlanError: k outside 2 to `MAX_TABLES`.
    """
    _check_count(k)
    tables, divide, left = list[tuple[int, int]](), 1, n
    for j in range(k):
        radix = _ceil_root(left, k - j)
        tables.append((divide, radix))
        divide, left = divide * radix, -(-left // radix)
    return tables


def chinese_remainder(n: int, k: int) -> list[tuple[int, int]]:
    """x modulo k pairwise coprime numbers whose product reaches n (KDD'20, section 3.1, example 4).

    The moduli are the first such numbers from the ceiling of n's k-th root on: close to one another, and enough.

    Raises:
        PlanError: k outside 2 to `MAX_TABLES`.
    """
    _check_count(k)
    moduli, candidate = list[int](), max(2, _ceil_root(n, k))
    while len(moduli) < k:
        if all(math.gcd(candidate, modulus) == 1 for modulus in moduli):
            moduli.append(candidate)
        candidate += 1
    return [(1, modulus) for modulus in moduli]


def _check_count(k: int) -> None:
    if not 2 <= k <= MAX_TABLES:
        raise PlanError(f"such a scheme has 2 to {MAX_TABLES} tables", found=str(k), remedy="Set `tables` within it")


def _ceil_root(n: int, k: int) -> int:
    """The least m with m^k >= n, exactly: a float's guess, mended in integers."""
    root = max(1, round(n ** (1 / k)))
    while root**k < n:
        root += 1
    while root > 1 and (root - 1) ** k >= n:
        root -= 1
    return root


def rows_of(tables: Sequence[tuple[int, int]], ids: Int64s) -> Int64s:
    """Every id's row in every table; (N,) int64 and k tables -> (N, k) int64."""
    return np.stack([(ids // divide) % rows for divide, rows in tables], axis=1)


def complementary(n: int, tables: Sequence[tuple[int, int]], where: str = "") -> bool:
    """Whether the tuple of rows is injective on [0, n), decided exactly.

    Sorted by divide, the pairs form a mixed radix when each divide is the product of the rows before it; then the
    tuple is the number's digits, and injective if and only if they reach n. Otherwise tables of divide 1 see x modulo
    their rows only: by the Chinese remainder theorem the tuple repeats with period lcm(rows), and not earlier.

    Raises:
        PlanError: neither holds; `where` names the field in it.
    """
    if n <= 1:
        return True
    ordered = sorted(tables)
    reach = 1
    for divide, rows in ordered:
        if divide != reach:
            break
        reach *= rows
    else:
        return reach >= n
    if all(divide == 1 for divide, _ in tables):
        return math.lcm(*(rows for _, rows in tables)) >= n
    raise PlanError(
        "a plan is a mixed radix (each divide the product of the rows before it) or has divide 1 throughout",
        found=f"tables {list(tables)}",
        where=where,
        remedy="Build the plan with one of the named schemes",
    )


def pairs(field: pb.Field) -> list[tuple[int, int]]:
    """The (divide, rows) of a field's tables."""
    return [(table.divide, table.rows) for table in field.tables]


def build_field(
    feature: str, n: int, tables: Sequence[tuple[int, int]], *, scheme: pb.Scheme, combine: pb.Combine, dim: int
) -> pb.Field:
    """A field with its tables, checked and proved.

    `dim` is the width of the composed vector; with CONCAT each table has its share of it, the first ones rounded up.
    """
    if len(tables) == 1:
        combine = pb.ALONE
    k = len(tables)
    dims = [dim // k + (j < dim % k) for j in range(k)] if combine == pb.CONCAT else [dim] * k
    field = pb.Field(feature=feature, cardinality=n, scheme=scheme, combine=combine, dim=dim)
    field.tables.extend(
        pb.Table(divide=divide, rows=rows, dim=width) for (divide, rows), width in zip(tables, dims, strict=True)
    )
    where = f"field {feature!r}"
    check_field(field, where, proved=False)
    field.complementary = complementary(n, tables, where)
    return field


def check_field(field: pb.Field, where: str, *, proved: bool = True) -> None:
    """Refuse a field whose tables cannot be.

    Raises:
        PlanError: no ids, no tables, rows or divide below 1, dims that the combine cannot join.
        NotComplementary: the field says that it is complementary (or must be) and is not.
    """

    def refuse(rule: str, found: str, remedy: str) -> None:
        raise PlanError(rule, found=found, where=where, remedy=remedy)

    n, tables = field.cardinality, field.tables
    if not 1 <= n <= LARGEST_ID:
        refuse("a field has 1 to 2^63 - 1 ids", str(n), "Check the feature's encoding")
    if field.dim < 1 or any(table.dim < 1 for table in tables):
        refuse("a dimension is at least 1", f"dim {field.dim}", "Raise `dim` (concat needs one per table)")
    if not 1 <= len(tables) <= MAX_TABLES:
        refuse(f"a field has 1 to {MAX_TABLES} tables", f"{len(tables)} tables", "Build the plan again")
    if any(table.rows < 1 or table.divide < 1 for table in tables):
        refuse("a field has tables of at least one row and divide", f"{pairs(field)}", "Build the plan again")
    if any(table.divide > LARGEST_ID for table in tables):
        refuse("an id is divided by at most 2^63 - 1", f"{pairs(field)}", "Build the plan again")
    if any(table.rows > n for table in tables):
        refuse(f"no table has more rows than the field has ids ({n})", f"{pairs(field)}", "Ask for fewer rows")
    if field.scheme not in SCHEMES:
        refuse("a field names its scheme", f"scheme {field.scheme}", "Build the plan again")
    if field.combine not in (pb.ALONE, pb.MULT, pb.ADD, pb.CONCAT):
        refuse("a field says how its tables are joined", f"combine {field.combine}", "Name a combine")
    if (len(tables) == 1) != (field.combine == pb.ALONE):
        refuse("one table stands ALONE, several are joined", pb.Combine.Name(field.combine), "Name a combine")
    joined = sum(table.dim for table in tables)
    if field.combine == pb.CONCAT and joined != field.dim:
        refuse("concatenated tables' dims add up to the field's", f"{joined} of {field.dim}", "Build the plan again")
    if field.combine != pb.CONCAT and any(table.dim != field.dim for table in tables):
        refuse("mult and add join tables of the field's dim", f"dims {[t.dim for t in tables]}", "Build the plan again")
    if proved and field.complementary != complementary(n, pairs(field), where):
        raise NotComplementary(
            "a field says rightly whether every id has its own tuple of rows",
            found=f"complementary = {field.complementary} for {n} ids on tables {pairs(field)}",
            where=where,
            remedy="Build the plan again; only the hashing trick may let ids collide",
        )
    if proved and field.scheme != pb.HASHED and not field.complementary:
        raise NotComplementary(
            "every scheme but the hashing trick is complementary",
            found=f"{n} ids on tables {pairs(field)}",
            where=where,
            remedy="Build the plan again",
        )
    expected = {pb.FULL: 1, pb.QUOTIENT_REMAINDER: 2}.get(field.scheme, len(tables))
    if len(tables) != expected:
        refuse(
            "a full field has one table, a quotient-remainder field two",
            f"{len(tables)} of scheme {pb.Scheme.Name(field.scheme)}",
            "Build the plan again",
        )


def table_bytes(field: pb.Field) -> int:
    """Bytes of the field's tables in float32."""
    return sum(table.rows * table.dim * FLOAT_BYTES for table in field.tables)


def full_bytes(field: pb.Field) -> int:
    """Bytes that one full table of the same dimension would take."""
    return field.cardinality * field.dim * FLOAT_BYTES


def parameters(fields: Sequence[pb.Field]) -> int:
    """Numbers held by the tables of these fields."""
    return sum(table.rows * table.dim for field in fields for table in field.tables)
