"""Tables: exact rows, gradients on the rows that were looked up and no others, path's functions, L2, fresh tables."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import oracle
import pytest
import runs
import torch
from quorem.protos import manifest_pb2 as pb
from quorem.protos import packing, partitions
from quorem.protos.plan import build_field, path_width
from quorem.train.functions import apply_functions
from quorem.train.initial import Init
from quorem.train.model import Model
from quorem.train.tables import Partition, Tables, l2_of_rows
from torch import Tensor

JOINS = {
    "mult": (pb.MULT, 0),
    "add": (pb.ADD, 0),
    "concat": (pb.CONCAT, 0),
    "path": (pb.PATH, 0),
    "path_hidden": (pb.PATH, 8),
    "feature": (pb.FEATURE, 0),
}
LENGTHS = {"a": 1, "bag": 3, "b": 1}  # feature -> slots
SLOTS = {"a": (0, 1), "bag": (1, 3), "b": (4, 1)}
BAGS = {"bag": True}
IDS = torch.tensor([[0, 7, 7, -1, 3], [59, -1, -1, -1, 3], [12, 44, 0, 7, 1]])  # id 0 stands in no bag but the last


def tables_of(scheme: str, join: str, init: Init | None = None) -> tuple[Tables, list[pb.Field]]:
    """Three fields of 60, 45 and 4 ids, the second one a bag; the last one of one table."""
    combine, hidden = JOINS[join]
    fields = [
        runs.field(runs.categorical(name, "hash", n), kind, combine if kind != "full" else pb.ALONE, 4, hidden=hidden)
        for name, n, kind in (("a", 60, scheme), ("bag", 45, scheme), ("b", 4, "full"))
    ]
    classes = {name: each for field in fields for name, each in runs.classes_of(field).items()}
    fields = packing.pack(fields)
    tables = Tables(fields, SLOTS, BAGS, classes)
    for group in tables.packed():
        group.reset(init or Init(), torch.Generator().manual_seed(1))
    return tables, fields


def rows_looked_up(fields: Sequence[pb.Field], classes: Mapping[str, npt.NDArray[np.int32]]) -> dict[str, set[int]]:
    """`<feature>.<j>` -> the rows of IDS, one by one."""
    found = dict[str, set[int]]()
    for field in fields:
        first, length = SLOTS[field.feature]
        for id in IDS[:, first : first + length].flatten().tolist():
            if id >= 0:
                for j, row in enumerate(oracle.rows(field, id, classes)):
                    found.setdefault(f"{field.feature}.{j}", set()).add(row)
    return found


def gradients(tables: Tables) -> dict[str, set[int]]:
    """`<feature>.<j>` -> the rows on which there is a gradient."""
    found = dict[str, set[int]]()
    for group in tables.packed():
        for partition in group.packed():
            assert partition.weight.grad is not None
            on = partition.weight.grad.abs().sum(1) > 0
            for position, field in enumerate(partition.fields):
                own = on[partition.starts[position] : partition.starts[position + 1]]
                found[f"{field.feature}.{partition.number}"] = set(own.nonzero().flatten().tolist())
    return found


def spread_out(tables: Tables) -> None:
    with torch.no_grad():
        for weight in tables.parameters():
            weight.normal_(0.3, 1.0, generator=torch.Generator().manual_seed(len(weight)))


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("scheme", ["qr", "mixed_radix", "chinese_remainder", "semantic", "completed"])
def test_rows_that_were_looked_up_have_gradients_and_no_others(scheme: str, join: str) -> None:
    tables, fields = tables_of(scheme, join)
    spread_out(tables)
    vectors, _ = tables(IDS)
    (vectors * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(5))).sum().backward()
    classes = {name: each for field in fields for name, each in runs.classes_of(field).items()}
    assert gradients(tables) == rows_looked_up(fields, classes)


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("kind", ["auto", "matched", "reference"])
def test_vectors_are_what_is_written_composed_however_it_was_drawn(kind: str, join: str) -> None:
    tables, fields = tables_of("completed", join, Init(kind))
    spread_out(tables)
    with torch.no_grad():
        found = np.split(tables(IDS)[0].numpy(), np.cumsum([field.dim for field in fields])[:-1], axis=1)
    weights = tables.export("t") | {name: each for field in fields for name, each in runs.classes_of(field).items()}
    for field, vectors in zip(fields, found, strict=True):
        first, length = SLOTS[field.feature]
        for row, ids in zip(vectors, IDS[:, first : first + length].tolist(), strict=True):
            items = [oracle.compose(field, weights, "t", id) for id in ids if id >= 0]
            np.testing.assert_allclose(row, np.mean(items, axis=0) if items else 0, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("join", "kind"), [*((join, "auto") for join in JOINS), ("mult", "matched")])
def test_l2_is_half_the_squared_norm_of_distinct_rows_and_spares_functions(join: str, kind: str) -> None:
    tables, fields = tables_of("qr", join, Init(kind))
    spread_out(tables)
    norm = l2_of_rows(tables(IDS)[1])
    norm.backward()
    looked, pulled, expected = rows_looked_up(fields, {}), dict[str, set[int]](), 0.0
    for name, table in tables.export("t").items():
        name = name.removeprefix("t.")
        later = name.endswith(".1")
        if later and "path" in join:
            continue
        centre = 1.0 if later and (join, kind) == ("mult", "auto") else 0.0
        pulled[name] = looked[name]
        expected += sum(float(((table[row].astype(np.float64) - centre) ** 2).sum()) / 2 for row in looked[name])
    assert norm.item() == pytest.approx(expected, rel=1e-5)
    for weight in (each for group in tables.packed() for each in group.decaying()):
        assert weight.grad is not None
        on = weight.grad.abs().sum(1) > 0
        torch.testing.assert_close(weight.grad[on], weight.detach()[on])
    for weight in tables.parameters():
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
    assert {name: rows for name, rows in gradients(tables).items() if rows} == pulled


def test_functions_of_path_are_no_table_parameters() -> None:
    features = [runs.categorical("a", "hash", 60), runs.categorical("b", "hash", 30)]
    fields = [runs.field(each, "mixed_radix", pb.PATH, 4, hidden=3) for each in features]
    manifest = runs.model(features, fields, "deepfm")
    model = Model(manifest.schema, manifest.plan, manifest.net, {})
    assert [weight.shape[1] for weight in model.table_parameters()] == [4, 1]  # vectors, and those of the first order


@pytest.mark.parametrize("n", [2**24 + 1, 2**31 + 1, 2**33 + 1, 2**62])
def test_rows_are_exact_at_large_ids(n: int) -> None:
    m = 2**31 + 11 if n > 2**40 else 2**16 + 1
    pairs = partitions.quotient_remainder(n, m)
    field = build_field("x", n, pairs, scheme=pb.QUOTIENT_REMAINDER, combine=pb.ADD, dim=1)
    ids = sorted(
        {0, 1, m - 1, m, n // 2, n - 2, n - 1, *(x for x in (2**24 - 1, 2**24, 2**24 + 1, 2**31, 2**33) if x < n)}
    )
    for j, table in enumerate(field.tables):
        with torch.device("meta"):  # no memory for tables: rows alone are asked for
            partition = Partition([field], [1], j, {})
        for name, value in (("divide", table.divide), ("modulus", table.rows), ("offset", 0)):
            setattr(partition, name, torch.tensor([value]))
        found = partition.rows(torch.tensor(ids).unsqueeze(1))[:, 0].tolist()
        assert found == [x // table.divide % table.rows for x in ids]


def test_padding_is_no_row_that_was_looked_up() -> None:
    tables, _ = tables_of("full", "mult")
    spread_out(tables)
    ids = torch.full((2, 5), -1)
    ids[:, [0, 4]] = 1  # the two single fields; the bag is empty
    vectors, touched = tables(ids)
    l2_of_rows(touched).backward()
    assert {name: rows for name, rows in gradients(tables).items() if rows} == {"a.0": {1}, "b.0": {1}}
    assert (vectors.view(2, 3, 4) == 0).all(2).sum() == 2


def one_by_one(functions: Tensor, rows: Tensor, vectors: Tensor, hidden: int) -> Tensor:
    """Each vector through its function."""
    dim, found = vectors.shape[2], list[Tensor]()
    for row, vector in zip(rows.flatten().tolist(), vectors.flatten(0, 1), strict=True):
        taken = list(functions[row].split([hidden * dim, hidden, dim * hidden, dim] if hidden else [dim * dim, dim]))
        value = taken[0].view(-1, dim) @ vector + taken[1]
        found.append(taken[2].view(dim, hidden) @ value.relu() + taken[3] if hidden else value)
    return torch.stack(found).view_as(vectors)


@pytest.mark.parametrize("hidden", [0, 1, 5])
@pytest.mark.parametrize(
    ("many", "shape", "skew"),
    [(1, (7, 3), 1), (3, (40, 5), 1), (3, (40, 5), 6), (50, (40, 5), 4), (500, (8, 2), 1), (2, (1, 1), 1)],
)
def test_functions_in_tiles_equal_functions_one_by_one(
    many: int, shape: tuple[int, int], skew: int, hidden: int
) -> None:
    draw = torch.Generator().manual_seed(many)
    functions = torch.randn(many, path_width(4, hidden), generator=draw, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(*shape, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    rows = (torch.rand(shape, generator=draw) ** skew * many).long()  # a skew: some functions have most vectors
    weight = torch.randn(*shape, 4, generator=draw, dtype=torch.float64)
    results = list[tuple[Tensor, ...]]()
    for evaluate in (apply_functions, one_by_one):
        value = evaluate(functions, rows, vectors, hidden)
        results.append((value, *torch.autograd.grad((value * weight).sum(), (functions, vectors))))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def drawn(join: str, init: Init, k: int = 2, dim: int = 16) -> list[npt.NDArray[np.float64]]:
    """The tables, as they are joined, of a field of k tables of about a thousand rows (path: fewer)."""
    combine, hidden = JOINS[join]
    n = 10**6 if combine != pb.PATH else 60**2
    tables = partitions.mixed_radix(n ** (k // 2), k) if k > 1 else partitions.full(1000)
    scheme = pb.MIXED_RADIX if k > 1 else pb.FULL
    field = build_field(
        "x", n ** (k // 2) if k > 1 else 1000, tables, scheme=scheme, combine=combine, dim=dim, hidden=hidden
    )
    packed = Tables([field], {"x": (0, 1)}, {}, {})
    for group in packed.packed():
        group.reset(init, torch.Generator().manual_seed(2))
    return [table.astype(np.float64) for table in packed.export("t").values()]


def test_auto_starts_as_suits_the_combine() -> None:
    init = Init("auto", spread=1e-3, deviation=0.2)
    for join in ("add", "concat", "feature"):
        for table in drawn(join, init):
            assert abs(table.mean()) < 1e-4
            assert table.std() == pytest.approx(1e-3, rel=0.05)
    remainder, quotient = drawn("mult", init)
    assert remainder.std() == pytest.approx(1e-3, rel=0.05)
    assert quotient.mean() == pytest.approx(1, abs=0.01)
    assert quotient.std() == pytest.approx(0.2, rel=0.05)
    assert drawn("mult", init, k=1)[0].std() == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("join", ["path", "path_hidden"])
def test_a_fresh_function_passes_a_vector_on_at_about_its_size(join: str) -> None:
    vectors, functions = (torch.from_numpy(table) for table in drawn(join, Init("auto", spread=1e-3)))
    assert vectors.std() == pytest.approx(1e-3, rel=0.05)
    passed = apply_functions(functions, torch.arange(60).view(1, 60), vectors.view(1, 60, 16), JOINS[join][1])
    sizes = passed[0].norm(dim=1) / vectors.norm(dim=1)
    assert sizes.square().mean().sqrt() == pytest.approx(1, rel=0.3)
    near = (passed[0] - vectors).norm() / vectors.norm()
    assert near == pytest.approx(0.1, rel=0.2) if join == "path" else near > 0.5


@pytest.mark.parametrize("k", [2, 4])
def test_matched_products_and_sums_spread_as_one_table(k: int) -> None:
    rng = np.random.default_rng(1)
    for join, join_all in (("mult", np.prod), ("add", np.sum)):
        tables = drawn(join, Init("matched", spread=1e-2), k)
        assert all(abs(table.mean()) < 0.05 * table.std() + 1e-3 for table in tables)
        composed = join_all([table[rng.integers(0, len(table), 4000)] for table in tables], axis=0)
        assert composed.std() == pytest.approx(1e-2, rel=0.1)


def test_reference_draws_as_published_code_does() -> None:
    init = Init("reference")
    for join in ("mult", "add", "concat"):
        for table in drawn(join, init):
            low = len(table) ** -0.5
            assert low <= table.min() < low + 0.01
            assert 0.99 < table.max() <= 1
            assert table.mean() == pytest.approx((1 + low) / 2, rel=0.02)
    for table in (*drawn("feature", init), *drawn("mult", init, k=1), drawn("path", init)[0]):
        bound = len(table) ** -0.5
        assert abs(table).max() <= bound
        assert table.std() == pytest.approx(bound / 3**0.5, rel=0.06)
        assert abs(table.mean()) < 0.1 * bound


@pytest.mark.parametrize("kind", ["auto", "matched", "reference"])
def test_a_fresh_table_is_a_function_of_seed_and_init(kind: str) -> None:
    first, again = (tables_of("completed", "mult", Init(kind))[0].export("t") for _ in range(2))
    assert all((first[name] == again[name]).all() for name in first)
    other = tables_of("completed", "mult", Init(kind, spread=0.02))[0].export("t")
    assert any((first[name] != other[name]).any() for name in first) == (kind != "reference")
