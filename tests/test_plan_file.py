"""`quorem train --plan`: a plan directory gives its fields to any model, a plan.json alone is taken as it is."""

import json
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import RECIPE, quorem
from oracle import logits as oracle_logits
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from quorem.protos import plan, plan_directory
from quorem.protos.errors import PlanError, WrongClasses
from quorem.train import loop
from quorem.train.plan_file import plan_for, read_plan
from quorem.train.planning import make_plan
from quorem.train.prepare import Prepared, prepare
from quorem.train.recipe import Recipe
from quorem.train.recipe_file import read_recipe
from quorem.train.search.derive import wide_plan, with_dims
from safetensors.numpy import load_file

CANDIDATES = [2, 3, 5]
FEATURES = [*(f"C{n}" for n in range(1, 8)), "B1"]
DIMS = {name: CANDIDATES[place % 3] for place, name in enumerate(FEATURES)}
MODELS = {
    "deepfm": '{name="deepfm",mlp=[8]}',
    "fm": '{name="fm"}',
    "ipnn": '{name="ipnn",mlp=[8]}',
    "dnn": '{name="dnn",mlp=[8]}',
}
Plans = Callable[..., Path]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small recipe on made rows."""
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(
        RECIPE.replace("epochs = 3", "epochs = 1").replace('scheme = "qr"', 'scheme = "qr"\nthreshold = 50')
    )
    return path


def of(recipe: Path, *settings: str) -> Recipe:
    return read_recipe(str(recipe), [f"search.candidates={CANDIDATES}", *settings], None)[0]


@pytest.fixture(scope="module")
def prepared(recipe: Path) -> Prepared:
    return prepare(of(recipe), recipe.parent)


@pytest.fixture(scope="module")
def plans(recipe: Path, prepared: Prepared) -> Plans:
    """Writes the plan directory that a search with a model and settings could end in."""

    def write(model: str = "deepfm", *settings: str, dims: Mapping[str, int] = DIMS) -> Path:
        directory = recipe.parent / "-".join([model, *settings, *map(str, dims.values())])
        if not directory.exists():
            searched = of(recipe, f"model={MODELS[model]}", *settings)
            wide = wide_plan(searched, prepared.schema, prepared.semantics)
            made = with_dims(wide, dims, prepared.semantics)
            choices = [
                pb.Choice(feature=each.feature, candidates=CANDIDATES, dim=dims[each.feature]) for each in made.fields
            ]
            told = pb.Search(method="random", model=model, seed=1, schema=prepared.schema, choices=choices)
            plan_directory.write_plan(directory, made, told)
        return directory

    return write


def fitted(path: Path, recipe: Recipe, prepared: Prepared) -> pb.Plan:
    return plan_for(read_plan(path), recipe, prepared.schema, prepared.semantics)


# ---------------------------------------------------------------- a plan directory


@pytest.mark.parametrize(("searched", "trained"), [("fm", "deepfm"), ("deepfm", "ipnn"), ("ipnn", "fm"), ("fm", "dnn")])
def test_dims_found_with_one_model_train_another(
    searched: str, trained: str, recipe: Path, plans: Plans, tmp_path: Path
) -> None:
    settings = ("--set", f"model={MODELS[trained]}", "--quiet", "--device", "cpu")
    quorem("train", recipe, "--out", tmp_path / "run", "--plan", plans(searched), *settings)
    manifest = manifests.read(tmp_path / "run")
    assert list(manifest.plan.fields) == list(plan_directory.read_plan(plans(searched))[0].fields)
    assert {field.feature: plan.vector_dims(field)[0] for field in manifest.plan.fields} == DIMS
    assert bool(manifest.plan.first_order) == (trained in ("deepfm", "fm"))
    weights, reference = (load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("weights", "reference"))
    expected = oracle_logits(manifest, weights, reference["ids"], reference["dense"])
    assert (np.abs(reference["logit"] - expected) <= 1e-5 * np.maximum(1, np.abs(expected))).all()
    layers = json.loads(quorem("inspect", tmp_path / "run", "--json").stdout)["layers"]
    maps = [each["parameters"] for each in layers if each["kind"] == "unify"]
    assert maps == ([] if trained == "dnn" else [sum(5 * dim + 5 for dim in CANDIDATES)])


def test_first_order_tables_follow_the_plans_tables(recipe: Path, prepared: Prepared, plans: Plans) -> None:
    other = of(recipe, "embedding.scheme=full")  # the recipe's tables are overridden, for the first order too
    made = fitted(plans("fm", "embedding.combine=concat"), other, prepared)
    terms = {field.feature: field for field in made.first_order}
    assert {len(field.tables) for field in made.fields} == {1, 2}
    for field in made.fields:
        term = terms[field.feature]
        assert (term.dim, term.scheme, plan.pairs(term)) == (1, field.scheme, plan.pairs(field))
        assert term.combine == (pb.ADD if field.combine == pb.CONCAT else field.combine)


def test_first_order_tables_are_those_that_the_recipe_asks_for(recipe: Path, prepared: Prepared, plans: Plans) -> None:
    for asked in ("alike", "full"):
        config = of(recipe, f"embedding.first_order={asked}")
        mine = make_plan(config.embedding, prepared.schema, {}, first_order=True)
        assert list(fitted(plans("fm"), config, prepared).first_order) == list(mine.first_order)
        assert list(fitted(plans("ipnn"), config, prepared).first_order) == list(mine.first_order)
    assert not fitted(plans("fm"), of(recipe, "embedding.first_order=none"), prepared).first_order


def test_either_file_of_a_plan_directory_names_the_directory(plans: Plans, tmp_path: Path) -> None:
    directory = plans()
    whole = read_plan(directory)
    assert whole.search is not None
    for name in (plan_directory.PLAN, plan_directory.SEARCH):
        assert read_plan(directory / name) == whole
    alone = shutil.copy(directory / plan_directory.PLAN, tmp_path)
    assert read_plan(Path(alone)).search is None


# ---------------------------------------------------------------- a plan.json alone


def test_a_plan_alone_is_taken_as_it_is(recipe: Path, prepared: Prepared, plans: Plans, tmp_path: Path) -> None:
    alone = Path(shutil.copy(plans("fm") / plan_directory.PLAN, tmp_path))
    made = fitted(alone, of(recipe, "embedding.first_order=full"), prepared)
    assert made == plan_directory.read_plan(plans("fm"))[0]
    with pytest.raises(PlanError, match="first-order tables for ipnn"):
        fitted(alone, of(recipe, f"model={MODELS['ipnn']}"), prepared)
    shutil.copy(plans("ipnn") / plan_directory.PLAN, tmp_path)
    assert not fitted(alone, of(recipe), prepared).first_order


# ---------------------------------------------------------------- refusals


def spoil(**changes: object) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        tree = json.loads(path.read_text())
        tree["fields"][0].update(changes)
        path.write_text(json.dumps(tree))

    return edit


@pytest.mark.parametrize(
    ("spoiled", "change", "error"),
    [
        (plan_directory.PLAN, spoil(dim=4), "WrongDigest"),
        (plan_directory.SEARCH, Path.unlink, "MissingFile"),
        (plan_directory.SEARCH, lambda path: path.write_text("{"), "Malformed"),
        ("alone.json", Path.unlink, "MissingFile"),
        ("alone.json", lambda path: path.write_bytes(b"\xff"), "Malformed"),
        ("alone.json", lambda path: path.write_text("[" * 100_000), "Malformed"),
        ("alone.json", lambda path: path.write_text("{}"), "Malformed"),
        ("alone.json", spoil(dim=4), "WrongDims"),
        ("alone.json", spoil(tables=[]), "PlanError"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_rows_are_read(
    spoiled: str, change: Callable[[Path], object], error: str, recipe: Path, plans: Plans, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(plans(), tmp_path / "plan"))
    shutil.copy(directory / plan_directory.PLAN, directory / "alone.json")
    change(directory / spoiled)
    named = directory / spoiled if spoiled == "alone.json" else directory
    rows = ("--set", 'data={source="csv",path="absent.csv",split={by="share",valid=0.1,test=0.1}}')
    run = ("train", recipe, "--out", tmp_path / "run", "--json", "--plan", named, *rows)
    told = json.loads(quorem(*run, check=2).stderr)
    assert told["error"] == error
    assert told["where"].startswith(str(directory))
    assert told["remedy"]
    assert not (tmp_path / "run").exists()


def test_a_plan_of_other_features_is_refused(recipe: Path, plans: Plans, tmp_path: Path) -> None:
    run = ("train", recipe, "--out", tmp_path / "run", "--json", "--plan", plans())
    told = json.loads(quorem(*run, "--set", "features.C7.buckets=501", check=2).stderr)
    assert told["error"] == "WrongSchema"
    assert told["found"] == "'C7' has 501 ids instead of 500 ids"
    assert told["where"] == str(plans())
    assert not (tmp_path / "run").exists()
    fewer = json.loads(quorem(*run, "--set", "data.rows=1000", check=2).stderr)  # their vocabularies are smaller
    assert fewer["error"] == "WrongSchema"
    assert "'C3' has " in fewer["found"]


def test_a_search_with_classes_needs_the_class_table(plans: Plans, prepared: Prepared, recipe: Path) -> None:
    """Its first-order tables share the classes; without them they would be other tables."""
    given = read_plan(plans("fm"))
    field = next(each for each in given.plan.fields if each.feature == "C7")
    field.scheme, field.tables[0].classes, field.tables[1].classes = pb.SEMANTIC, True, True
    field.tables[1].divide = 1
    for model in ("fm", "deepfm"):
        with pytest.raises(WrongClasses, match="0 partitions in the recipe, 2 in the plan"):
            plan_for(given, of(recipe, f"model={MODELS[model]}"), prepared.schema, prepared.semantics)


def test_an_interrupted_run_goes_on_with_its_own_plan_alone(
    recipe: Path, plans: Plans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = loop.binary_cross_entropy_with_logits, list[int]()

    def stop_at_the_third(*arguments: Any) -> Any:
        seen.append(1)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(loop, "binary_cross_entropy_with_logits", stop_at_the_third)
    run = ("train", recipe, "--out", tmp_path / "run", "--quiet", "--device", "cpu")
    told = quorem(*run, "--plan", plans(), check=130).stderr
    assert f"--plan {plans()}" in told
    monkeypatch.undo()
    other = plans(dims={**DIMS, "C1": 5})
    assert "another recipe" in quorem(*run, "--resume", "--plan", other, check=2).stderr
    quorem(*run, "--resume", "--plan", plans())
    quorem("train", recipe, "--out", tmp_path / "whole", "--quiet", "--device", "cpu", "--plan", plans())
    for name in ("manifest.json", "weights.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
