"""Tables of few bits: what is composed is what is written, on its grid; gradients go through; runs go on with them."""

import itertools
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import oracle
import pytest
import runs
import torch
from commands import RECIPE, quorem
from days import write_days, write_recipe
from killing import begin, wait_for_step
from quorem.protos import low_bits, packing
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from quorem.protos.errors import OffGrid, RecipeError
from quorem.train.fresh import make_fresh
from quorem.train.grid import Grid
from quorem.train.initial import Init
from quorem.train.prepare import prepare
from quorem.train.recipe_file import read_recipe, to_toml
from quorem.train.tables import Tables
from quorem.train.yesterday import read_yesterday
from safetensors.numpy import load_file, save_file
from torch import Tensor

JOINS = {
    "alone": (pb.ALONE, 0),
    "mult": (pb.MULT, 0),
    "add": (pb.ADD, 0),
    "concat": (pb.CONCAT, 0),
    "path": (pb.PATH, 0),
    "path_hidden": (pb.PATH, 3),
    "feature": (pb.FEATURE, 0),
}
SCHEMES = ("full", "hash", "qr", "mixed_radix", "chinese_remainder", "semantic", "completed")
SLOTS = {"a": (0, 1), "bag": (1, 3), "b": (4, 1)}
IDS = torch.tensor([[0, 7, 7, -1, 3], [59, -1, -1, -1, 3], [12, 44, 0, 7, 1], [59, 1, 2, 3, 0]])
QUIET = ("--quiet", "--device", "cpu")


def tables_of(scheme: str, join: str, bits: int, *, bag: bool = True, init: Init | None = None) -> Tables:
    """Fields of 60, 45 and 4 ids, the second one a bag of sums, the last one of one table; rows and scales drawn."""
    combine, hidden = JOINS[join]
    fields = [
        runs.field(runs.categorical(name, "hash", n), kind, joined, 4, hidden=hidden, bits=bits)
        for name, n, kind, joined in (
            ("a", 60, scheme, combine),
            ("bag", 45, scheme, combine),
            ("b", 4, "full", pb.ALONE),
        )
        if bag or name != "bag"
    ]
    classes = {name: each for field in fields for name, each in runs.classes_of(field).items()}
    tables = Tables(packing.pack(fields), SLOTS, {"bag": False} if bag else {}, classes)
    draw = torch.Generator().manual_seed(bits)
    for group in tables.packed():
        group.reset(init or Init(), draw)
        for partition in group.packed():
            with torch.no_grad():
                partition.weight.normal_(0.1, 1.0, generator=draw)
                if partition.grid is not None:
                    partition.grid.spread.normal_(0.0, 1.0, generator=draw)  # its size counts alone
    return tables


def fields_of(tables: Tables) -> list[pb.Field]:
    return [field for group in tables.packed() for field in next(group.packed()).fields]


def written(tables: Tables) -> dict[str, np.ndarray]:
    """What a run would hold of them, with classes."""
    found = dict(tables.export("embedding"))
    for field in fields_of(tables):
        found |= runs.classes_of(field)
    return found


def plain(tables: Tables, values: Mapping[str, np.ndarray]) -> Tables:
    """Tables of float32 that hold these values."""
    fields = list[pb.Field]()
    for field in fields_of(tables):
        fields.append(pb.Field())
        fields[-1].CopyFrom(field)
        for table in fields[-1].tables:
            table.bits = 0
    bags = {"bag": False} if any(field.feature == "bag" for field in fields) else {}
    made = Tables(fields, SLOTS, bags, values)
    with torch.no_grad():
        for group in made.packed():
            for partition in group.packed():
                for field, table in partition.tables():
                    table.copy_(torch.from_numpy(values[f"embedding.{field.feature}.{partition.number}"]))
    return made


def gradients(tables: Tables) -> dict[tuple[str, int], Tensor]:
    """Of every table, dense, by feature and number."""
    found = dict[tuple[str, int], Tensor]()
    for partition in (each for group in tables.packed() for each in group.packed()):
        assert partition.weight.grad is not None
        whole = partition.weight.grad.to_dense()
        for position, field in enumerate(partition.fields):
            own = whole[partition.starts[position] : partition.starts[position + 1]]
            found[field.feature, partition.number] = own
    return found


def learned(tables: Tables) -> dict[tuple[str, int], Tensor]:
    """The gradients of every table's scales."""
    found = dict[tuple[str, int], Tensor]()
    for partition in (each for group in tables.packed() for each in group.packed()):
        if partition.grid is not None:
            assert partition.grid.spread.grad is not None
            for field, gradient in zip(partition.fields, partition.grid.spread.grad, strict=True):
                found[field.feature, partition.number] = gradient
    return found


CASES = [
    (scheme, join, bits)
    for number, (scheme, join) in enumerate(itertools.product(SCHEMES, JOINS))
    if (join == "alone") == (scheme in ("full", "hash"))
    for bits in ((8, 4, 3, 2, 1) if scheme in ("hash", "qr") else (low_bits.BITS[number % 5],))
]


@pytest.mark.parametrize(("scheme", "join", "bits"), CASES)
def test_vectors_are_what_is_written_composed_and_values_stand_on_their_grids(
    scheme: str, join: str, bits: int
) -> None:
    tables = tables_of(scheme, join, bits)
    weights, fields = written(tables), fields_of(tables)
    shapes = {name: array.shape for name, array in weights.items() if not name.startswith("classes")}
    for field in fields:
        for j, table in enumerate(field.tables):
            values = weights[f"embedding.{field.feature}.{j}"]
            assert shapes.pop(f"embedding.{field.feature}.{j}") == (table.rows, table.dim)
            assert table.bits == (0 if j and "path" in join else bits)
            if table.bits:
                names = low_bits.scale_name(field.feature, j), low_bits.offset_name(field.feature, j)
                assert [shapes.pop(name) for name in names] == [(table.dim,)] * 2
                scale, offset = (weights[name] for name in names)
                low_bits.check_grid(scale, offset, "here")
                assert low_bits.centre_of(scale, offset, bits, "here") == float(j > 0 and "mult" in join)
                codes = low_bits.encode(values, scale, offset, bits, "here")
                assert low_bits.decode(codes, scale, offset).tobytes() == values.tobytes()
                assert len(values) < 9 or len(np.unique(codes)) > 1
    assert not shapes
    with torch.no_grad():
        found = np.split(tables(IDS)[0].numpy(), np.cumsum([field.dim for field in fields])[:-1], axis=1)
    for field, vectors in zip(fields, found, strict=True):
        first, length = SLOTS[field.feature]
        for row, ids in zip(vectors, IDS[:, first : first + length].tolist(), strict=True):
            items = [oracle.compose(field, weights, "embedding", id) for id in ids if id >= 0]
            np.testing.assert_allclose(row, np.sum(items, axis=0) if items else 0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("scheme", "join", "bits"), CASES)
def test_the_gradient_of_a_value_is_that_of_what_it_stands_for(scheme: str, join: str, bits: int) -> None:
    tables = tables_of(scheme, join, bits)
    same = plain(tables, written(tables))
    found, expected = tables(IDS)[0], same(IDS)[0]
    torch.testing.assert_close(found, expected)
    pulls = torch.randn(found.shape, generator=torch.Generator().manual_seed(5))
    for vectors in (found, expected):
        (vectors * pulls).sum().backward()
    wanted = gradients(same)
    for name, gradient in gradients(tables).items():
        torch.testing.assert_close(gradient, wanted[name])


@pytest.mark.parametrize("bits", low_bits.BITS)
def test_the_gradient_of_a_scale_look_up_by_look_up(bits: int) -> None:
    """One field of one table: code - exact within half a step of the levels, beyond them the last level."""
    grid, draw = Grid(bits, [2, 1], 5), torch.Generator().manual_seed(bits)
    with torch.no_grad():
        grid.spread.normal_(0.0, 1.0, generator=draw)
    kept, pulls = (torch.randn(30, 3, 5, generator=draw) for _ in range(2))
    (grid(kept) * pulls).sum().backward()
    expected, top = np.zeros((2, 5)), 2**bits - 1
    for row, slot, column in np.ndindex(30, 3, 5):
        spread = grid.spread[slot // 2, column].item()
        exact = kept[row, slot, column].item() / (abs(spread) * 4 / 2**bits) + top / 2
        code = min(max(round(exact), 0), top)
        slope = code - exact if -0.5 <= exact <= top + 0.5 else code - top / 2
        expected[slot // 2, column] += 4 / 2**bits * np.sign(spread) * slope * pulls[row, slot, column].item()
    assert grid.spread.grad is not None
    np.testing.assert_allclose(grid.spread.grad.numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("scheme", "join"), [("qr", "mult"), ("mixed_radix", "add"), ("hash", "alone"), ("qr", "path")]
)
@pytest.mark.parametrize("bag", [False, True])
def test_learning_by_rows_is_learning(scheme: str, join: str, bag: bool) -> None:
    """Sparse gradients, and vectors composed once for each id where there is no bag."""
    ids = torch.stack([torch.arange(64) % 60, *[torch.arange(64) % 45] * 3, torch.arange(64) % 4], dim=1)
    found = list[Sequence[Mapping[tuple[str, int], Tensor]]]()
    for sparse in (False, True):
        tables = tables_of(scheme, join, 3, bag=bag)
        for partition in (each for group in tables.packed() for each in group.packed()):
            partition.sparse = sparse and not (partition.number and "path" in join)
        vectors = tables(ids)[0]
        (vectors * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(5))).sum().backward()
        found.append((gradients(tables), learned(tables)))
    for dense, sparse in zip(*found, strict=True):
        assert dense.keys() == sparse.keys()
        for name, gradient in dense.items():
            torch.testing.assert_close(sparse[name], gradient, rtol=1e-4, atol=1e-4)


def test_fresh_scales_suit_fresh_tables() -> None:
    """The error of rounding is what the best even levels for normal numbers leave; Max (1960), table II."""
    least = {8: 9e-5, 4: 0.01154, 3: 0.03744, 2: 0.1188, 1: 0.3634}
    for bits in low_bits.BITS:
        field = runs.field(runs.categorical("a", "hash", 20_000), "full", pb.ALONE, 4, bits=bits)
        tables = Tables([field], {"a": (0, 1)}, {}, {})
        (group,) = tables.packed()
        group.reset(Init(spread=0.03), torch.Generator().manual_seed(1))
        (partition,) = group.packed()
        wrong = tables.export("embedding")["embedding.a.0"] - partition.weight.detach().numpy()
        assert np.square(wrong / 0.03).mean() == pytest.approx(least[bits], rel=0.1)


def test_scales_never_vanish() -> None:
    """Tables that are all alike, and scales that learn their way through zero, have grids that can be read."""
    for join in ("add", "mult"):
        tables = tables_of("qr", join, 2)
        for partition in (each for group in tables.packed() for each in group.packed()):
            assert partition.grid is not None
            with torch.no_grad():
                partition.grid.spread.zero_()
        weights = written(tables)
        for name in [each for each in weights if each.startswith("scale.")]:
            low_bits.check_grid(weights[name], weights[name.replace("scale", "offset")], name)
    fresh = tables_of("qr", "mult", 1)
    for group in fresh.packed():
        group.reset(Init(deviation=0.0), torch.Generator().manual_seed(1))
        for partition in group.packed():
            assert partition.grid is not None
            assert (partition.grid.spread > 0).all()


# ---------------------------------------------------------------- recipes


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A small recipe of four bits, but for a feature of one, and one in float32."""
    fields = "[embedding.fields]\nC2 = { bits = 1 }\nC3 = { bits = 0 }\n"
    text = RECIPE.replace("dim = 4", f"dim = 4\nbits = 4\n{fields}")
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace("epochs = 3", "epochs = 3\ncheckpoint_minutes = 0.0005"))
    return path


def test_recipes_without_bits_are_written_as_ever(tmp_path: Path, recipe: Path) -> None:
    old = tmp_path / "old.toml"
    old.write_text(RECIPE)
    assert "bits" not in to_toml(*read_recipe(str(old)))
    told = tomllib.loads(to_toml(*read_recipe(str(recipe))))["embedding"]
    assert told["bits"] == 4
    assert {name: each["bits"] for name, each in told["fields"].items()} == {"C2": 1, "C3": 0}
    for bad in ("embedding.bits=5", "embedding.fields.C2.bits=16", "embedding.bits=4.0", "embedding.bits=true"):
        with pytest.raises(RecipeError, match="bits"):
            read_recipe(str(old), [bad])


def test_a_run_is_the_same_again_and_when_it_was_killed(recipe: Path, tmp_path: Path) -> None:
    process = begin(recipe, tmp_path / "killed")
    wait_for_step(process, tmp_path / "killed", 20)
    process.kill()
    process.communicate()
    for name, more in (("once", ()), ("again", ()), ("killed", ("--resume",))):
        quorem("train", recipe, "--out", tmp_path / name, *QUIET, *more)
    for name in ("manifest.json", "weights.safetensors", "reference.safetensors"):
        once, again, killed = ((tmp_path / run / name).read_bytes() for run in ("once", "again", "killed"))
        assert once == again == killed
    weights = load_file(tmp_path / "once" / "weights.safetensors")
    codes = dict[str, int]()
    for name, scale in weights.items():
        if name.startswith("scale."):
            values, offset = (weights[name.replace("scale", role, 1)] for role in ("embedding", "offset"))
            codes[name] = int(low_bits.encode(values, scale, offset, 4, name).max())
    assert {codes.pop(name) for name in list(codes) if name.startswith("scale.C2.")} == {1}
    assert max(codes.values()) == 15
    assert not any(name.startswith("scale.C3") for name in codes)
    reference = load_file(tmp_path / "once" / "reference.safetensors")
    assert np.isfinite(reference["logit"]).all()


def test_a_run_goes_on_from_its_values_and_from_no_others(tmp_path: Path) -> None:
    write_days(tmp_path)
    few = ("--set", "embedding.bits=2", "--set", "train.epochs=2")
    quorem("train", write_recipe(tmp_path, "day1"), "--out", tmp_path / "first", *QUIET, *few)
    recipe = write_recipe(tmp_path, "day2")
    told = quorem("train", recipe, "--from", tmp_path / "first", "--out", tmp_path / "second", "--device", "cpu", *few)
    assert "before" in told.stdout
    path = tmp_path / "first" / "weights.safetensors"
    weights = load_file(path)
    given, base = read_recipe(str(recipe), list(few[1::2]))
    before = read_yesterday(tmp_path / "first", to_toml(given, base))
    prepared = prepare(given, base, before.grow)
    _, model = make_fresh(given, prepared, before.manifest.plan, torch.device("cpu"), "here")
    before.hand_over(model, 1.0)
    for name, weight in model.weights().items():
        assert weight.tobytes() == weights[name].tobytes(), name
    weights["embedding.item.0"][3, 1] += 1e-3
    save_file(weights, path)
    manifest = tmp_path / "first" / "manifest.json"
    manifest.write_text(_with_digest(manifest, path))
    with pytest.raises(OffGrid, match="feature 'item', table 0"):
        read_yesterday(tmp_path / "first", to_toml(given, base))


def _with_digest(manifest: Path, changed: Path) -> str:
    """The manifest's text with the size and digest that a file has now."""
    told = json.loads(manifest.read_text())
    (file,) = (each for each in told["files"] if each["name"] == changed.name)
    file |= {"bytes": str(changed.stat().st_size), "sha256": manifests.sha256_of(changed)}
    return json.dumps(told)
