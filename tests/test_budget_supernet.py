"""The supernet of a budget search: with its options fixed it is, number for number, the model that a plan makes."""

import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from commands import RECIPE
from quorem.protos import manifest_pb2 as pb
from quorem.train.budget.fitted import Fitter
from quorem.train.budget.options import Option
from quorem.train.budget.rounding import Rounding
from quorem.train.budget.run import BudgetSearch
from quorem.train.budget.supernet import Supernet, make_supernet
from quorem.train.fresh import make_fresh
from quorem.train.grid import Grid
from quorem.train.model import Model
from quorem.train.prepare import Prepared, prepare
from quorem.train.recipe import Recipe
from quorem.train.recipe_file import read_recipe
from quorem.train.tables import Partition, Tables
from torch import Tensor, nn

CPU = torch.device("cpu")
SMALL = RECIPE.replace("train = 4000, valid = 1000, test = 1000", "train = 600, valid = 200, test = 200")
SETTINGS = ("embedding.first_order=full", "embedding.spread=0.5", "embedding.deviation=0.4", "embedding.threshold=3")
Made = tuple[Recipe, Prepared, BudgetSearch]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small recipe on made rows."""
    found = tmp_path_factory.mktemp("supernet") / "small.toml"
    found.write_text(SMALL)
    return found


def searched(path: Path, *settings: str, budget: str = '"40KB,12KB"') -> Made:
    """A search whose fields have several schemes."""
    section = f'search={{ method = "budget", budget = {budget}, candidates = [2, 3, 6] }}'
    recipe, base = read_recipe(str(path), [*SETTINGS, section, *settings])
    prepared = prepare(recipe, base)
    return recipe, prepared, BudgetSearch(recipe, prepared)


def net_of(made: Made) -> Supernet:
    """Its supernet, in which no weight is as it was drawn."""
    recipe, prepared, search = made
    net = make_supernet(recipe, prepared, search.options, search.wide, CPU)
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for each in net.model.parameters():
            each.add_(torch.randn(each.shape, generator=draw) * 0.1)
    net.model.eval()
    return net


def partitions_of(tables: Tables) -> Mapping[tuple[str, int], tuple[Partition, int]]:
    """(feature, table) -> where it is: a packed table, and the field's place in it."""
    return {
        (field.feature, partition.number): (partition, place)
        for group in tables.packed()
        for partition in group.packed()
        for place, field in enumerate(partition.fields)
    }


def table_of(partition: Partition, place: int) -> Tensor:
    return partition.weight.detach()[partition.starts[place] : partition.starts[place + 1]]


@torch.no_grad()
def copied(net: Supernet, fitter: Fitter, chosen: list[Option], model: Model) -> None:
    """Give a plan's model what the supernet has learnt of these options."""
    options = fitter.options
    own = partitions_of(model.embedding)
    rungs = [partitions_of(each) for each in net.tables.rungs if isinstance(each, Tables)]
    for (name, number), (partition, place) in own.items():
        field = options.features.index(name)
        scheme, _, bits = chosen[field]
        source, there = rungs[scheme][name, number]
        dim = partition.weight.shape[1]
        table_of(partition, place).copy_(table_of(source, there)[:, :dim])
        if isinstance(partition.grid, Grid):
            assert isinstance(source.grid, Rounding)
            partition.grid.spread[place] = source.grid.spread[bits, there, :dim]
    assert model.first_order is not None
    assert net.model.first_order is not None
    model.first_order.load_state_dict(net.model.first_order.state_dict())


@torch.no_grad()
def copied_layers(net: Supernet, made: pb.Plan, model: Model, wide: int) -> None:
    """The layers; columns that read embeddings are permuted from the schema's order to the plan's."""
    dims = [field.dim for field in made.fields]
    order = [net.choice.features.index(field.feature) for field in made.fields]
    columns = torch.cat([torch.arange(dim) + wide * place for dim, place in zip(dims, order, strict=True)])
    for key, module in model.layers.items():
        if not module.state_dict():
            continue  # what pads vectors of several dims
        state = net.model.layers[key].state_dict()
        for name, target in module.state_dict().items():
            if isinstance(module, nn.Linear) and name == "weight" and target.shape[1] >= len(columns) > 1:
                whole = state[name]
                state[name] = torch.cat([whole[:, columns], whole[:, wide * len(dims) :]], dim=1)
                assert state[name].shape == target.shape
        module.load_state_dict(state)


def apart(net: Supernet, made: Made, chosen: list[Option]) -> float:
    """How far the logits of both are from each other, at most, of all validation rows."""
    recipe, prepared, search = made
    plan = search.fitter.plan(chosen)
    _, model = make_fresh(recipe, prepared, plan, CPU, "here")
    model.eval()
    copied(net, search.fitter, chosen, model)
    copied_layers(net, plan, model, max(search.options.dims))
    net.follow(net.choice.fixed(chosen))
    rows = prepared.valid
    with torch.no_grad():
        found, expected = (each(rows.ids, rows.numbers)[0] for each in (net.model, model))
    assert found.std() > 0.1
    return float((found - expected).abs().max())


@pytest.mark.parametrize("init", ["auto", "matched"])
@pytest.mark.parametrize("combine", ["mult", "add"])
@pytest.mark.parametrize("model", ['{ name = "fm", unify = "pad" }', '{ name = "deepfm", mlp = [16], unify = "pad" }'])
def test_with_fixed_options_it_is_the_plans_model(path: Path, model: str, combine: str, init: str) -> None:
    """Of schemes and bits at random; where a multilayer perceptron reads the vectors, of one dim, the widest."""
    made = searched(path, f"model={model}", f"embedding.combine={combine}", f"embedding.init={init}")
    net, options = net_of(made), made[2].options
    draw = random.Random(1)
    for _ in range(6):
        chosen = [draw.choice(options.of(field)) for field in range(len(options.features))]
        if "mlp" in model:
            chosen = [(scheme, len(options.dims) - 1, bits) for scheme, _, bits in chosen]
        assert apart(net, made, chosen) < 1e-5
    assert max(map(len, options.ladders.values())) > 2
    assert len({len(ladder) for ladder in options.ladders.values()}) > 1


def test_another_option_is_another_model(path: Path) -> None:
    """Nothing of a field's option is without effect: else the test above could not fail."""
    made = searched(path, 'model={ name = "fm", unify = "pad" }')
    net, options, rows = net_of(made), made[2].options, made[1].valid
    base = [(0, len(options.dims) - 1, 0)] * len(options.features)

    def logits(chosen: list[Option]) -> Tensor:
        net.follow(net.choice.fixed(chosen))
        with torch.no_grad():
            return net.model(rows.ids, rows.numbers)[0]

    own = logits(base)
    for field in range(len(base)):
        for option in options.of(field)[1:]:
            other = logits([*base[:field], option, *base[field + 1 :]])
            assert torch.equal(own, other) == (option == base[field]), (options.features[field], option)


IDS = """
[data]
source = "csv"
train = "rows.csv"
valid = "rows.csv"
[features]
item = { kind = "categorical", encoding = "id", size = 5000 }
user = { kind = "categorical", encoding = "id", size = 900 }
hour = { kind = "categorical", encoding = "id", size = 24 }
[model]
name = "fm"
unify = "pad"
"""


@pytest.mark.parametrize("budget", ['"100KB,5KB"', '"4KB"'])
def test_schemes_begin_with_what_the_first_one_has_learnt(tmp_path: Path, budget: str) -> None:
    """Their first tables have for each row the mean of the ids that share it, also where the first shares rows."""
    (tmp_path / "ids.toml").write_text(IDS)
    rows = [f"{7 * n},{n},{n % 24},{n % 2}" for n in range(500)]
    (tmp_path / "rows.csv").write_text("\n".join(["item,user,hour,label", *rows]))
    made = searched(tmp_path / "ids.toml", "embedding.first_order=none", budget=budget)
    net, ladders = net_of(made), made[2].options.ladders
    net.tables.settle()
    rungs = [partitions_of(each) for each in net.tables.rungs if isinstance(each, Tables)]
    assert (ladders["item"][0].scheme == pb.FULL) == ("100KB" in budget)
    for name in ("item", "user"):
        assert len(ladders[name]) > 1
        first, learnt = ladders[name][0].tables[0], table_of(*rungs[0][name, 0])
        for rung, field in enumerate(ladders[name][1:], 1):
            table, told = table_of(*rungs[rung][name, 0]), field.tables[0]
            for row in (0, 1, len(table) - 1):
                sharing = [i for i in range(field.cardinality) if i // told.divide % told.rows == row]
                kept = learnt[[i // first.divide % first.rows for i in sharing]]
                torch.testing.assert_close(table[row], kept.mean(0))


def test_scales_suit_the_tables_that_are_settled(path: Path) -> None:
    net = net_of(searched(path, 'model={ name = "fm", unify = "pad" }'))
    net.tables.settle()
    for partition in (each for group in net.tables.packed() for each in group.packed()):
        assert isinstance(partition.grid, Rounding)
        for place, (field, table) in enumerate(partition.tables()):
            deviation = table.square().mean(0).sqrt()
            for number, bits in enumerate(partition.grid.bits):
                if bits:
                    grid = Grid(bits, [1], table.shape[1])
                    grid.reset([table], partition.grid.centre)
                    torch.testing.assert_close(partition.grid.spread[number, place], grid.spread[0].detach())
                else:
                    torch.testing.assert_close(partition.grid.spread[number, place].detach(), deviation)
            assert field.feature in net.choice.features
