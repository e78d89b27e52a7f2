"""Semantic partitions: a table of the user's own classes becomes rows of tables, proved to tell ids apart."""

import itertools
import json
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import quorem
from hypothesis import given
from hypothesis import strategies as st
from oracle import logits as oracle_logits
from quorem.protos import manifest as manifests
from quorem.protos.ids import raw64_of_strings
from quorem.train import loop
from quorem.train.remainder import least_remainder
from safetensors.numpy import load_file

RECIPE = """
[data]
source = "csv"
path = "clicks.csv"
split = { by = "share", valid = 0.2, test = 0.2 }
[features]
car = { kind = "categorical", encoding = "vocabulary" }
hour = { kind = "categorical", encoding = "id", size = 24, side = "context" }
[embedding]
dim = 4
[embedding.fields.car]
scheme = "semantic"
combine = "mult"
table = "cars.csv"
partitions = ["brand", "type", "year"]
[model]
name = "deepfm"
mlp = [8]
dropout = 0.1
[train]
batch = 64
epochs = 2
"""
CARS = list(itertools.product(("Fiat", "Kia", "Saab"), ("coupé", "van"), ("1999", "2001", "2024")))


def name_of(car: tuple[str, ...]) -> str:
    return "-".join(car).lower()


def write_cars(path: Path, cars: list[tuple[Any, ...]], head: str = "car,brand,type,year") -> None:
    lines = [",".join("" if cell is None else str(cell) for cell in row) for row in cars]
    path.write_text("\n".join([head, *lines]) + "\n")


def with_names(cars: list[tuple[str, ...]]) -> list[tuple[Any, ...]]:
    return [(name_of(car), *car) for car in cars]


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    """A directory with the recipe, 600 clicks on 18 cars, and their brands, types and years."""
    draw = random.Random(1)
    rows = [(car, draw.randrange(24)) for car in draw.choices(CARS, k=582) + CARS]
    clicks = [(name_of(car), hour, int((car[0] == "Saab") + draw.random() > 0.8)) for car, hour in rows]
    write_cars(tmp_path / "clicks.csv", clicks, "car,hour,label")
    write_cars(tmp_path / "cars.csv", with_names(CARS))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def train(directory: Path, out: str = "run", *settings: str, check: int = 0) -> dict[str, Any]:
    """Train on a directory's recipe; the report, or the error."""
    parts = [part for setting in settings for part in ("--set", setting)]
    done = quorem(
        "train", directory / "recipe.toml", "--out", directory / out, "--quiet", "--json", *parts, check=check
    )
    return json.loads(done.stderr if check else done.stdout)


def weights_of(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "weights.safetensors")


def classes_of(run: Path, count: int = 3) -> list[tuple[int, ...]]:
    """The classes of every id of `car`."""
    weights = weights_of(run)
    return list(zip(*(weights[f"classes.car.{j}"].tolist() for j in range(count)), strict=True))


# ---------------------------------------------------------------- brand x type x year


def test_cars_by_brand_type_and_year(cars: Path) -> None:
    report = train(cars)
    field = next(field for field in report["fields"] if field["feature"] == "car")
    assert (field["scheme"], field["combine"], field["rows"]) == ("semantic", "mult", [4, 3, 4])
    assert field["collisions"] == report["collisions"] == 0
    assert field["bytes"] == (4 + 3 + 4) * 4 * 4 + 3 * 19 * 4  # tables, and a class of each id in each
    assert report["semantic"] == {"car": {"remainder": None, "unused_rows": 0}}
    found = classes_of(cars / "run")
    assert found[0] == (0, 0, 0)
    assert len(set(found)) == 19
    assert min(map(min, found[1:])) == 1, "class 0 is the rare id's alone"
    manifest, weights = manifests.read(cars / "run"), weights_of(cars / "run")
    kept = next(each for each in manifest.plan.first_order if each.feature == "car")
    assert [table.classes for table in kept.tables] == [True] * 3
    reference = load_file(cars / "run" / "reference.safetensors")
    assert (
        np.abs(reference["logit"] - oracle_logits(manifest, weights, reference["ids"], np.zeros((120, 0)))).max() < 1e-5
    )
    assert "classes stand alone" in quorem("train", cars / "recipe.toml", "--out", cars / "again").stdout


def test_classes_are_numbered_by_falling_count_then_by_text(cars: Path) -> None:
    write_cars(cars / "clicks.csv", [(car, 1, n % 2) for n, car in enumerate("abcdef" * 20)], "car,hour,label")
    brands = {"a": "Kia", "b": "Kia", "c": "Saab", "d": "Fiat", "e": "Saab", "f": None}
    write_cars(cars / "cars.csv", [(car, brands[car], None, n) for n, car in enumerate("fedcba")])
    train(cars)
    weights = weights_of(cars / "run")
    places = dict(zip(weights["vocabulary.car.values"], weights["vocabulary.car.ids"], strict=True))
    ids = [places[raw] for raw in raw64_of_strings([car.encode() for car in "abcdef"])]
    assert [weights["classes.car.0"][id] for id in ids] == [1, 1, 2, 4, 2, 3]  # two each; then nothing, then Fiat
    assert [weights["classes.car.1"][id] for id in ids] == [1] * 6
    assert [weights["classes.car.2"][id] for id in ids] == [6, 5, 4, 3, 2, 1]


def test_csv_and_parquet_of_the_same_classes_give_the_same_bytes(cars: Path) -> None:
    train(cars, "csv")
    names, brands, types, years = zip(*with_names(CARS)[::-1], strict=True)
    table = {"car": names, "brand": pa.array(brands).dictionary_encode(), "type": types, "year": map(int, years)}
    pq.write_table(pa.table({name: pa.array(list(column)) for name, column in table.items()}), cars / "cars.parquet")
    train(cars, "parquet", "embedding.fields.car.table=cars.parquet")
    for name in ("manifest.json", "weights.safetensors"):
        assert (cars / "csv" / name).read_bytes() == (cars / "parquet" / name).read_bytes(), name


INTEGERS = (
    "features.car={kind='categorical',encoding='id',size=6}",
    "features.car={kind='categorical',encoding='id',first=-1,size=6}",
    "features.car={kind='categorical',encoding='vocabulary',values='integer'}",
    "features.car={kind='bag',encoding='vocabulary',values='integer',max_length=2}",
)


@pytest.mark.parametrize("feature", INTEGERS)
def test_integers_are_keys_as_they_are_values(cars: Path, feature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clicks = [(n % 6, 1, n % 2) for n in range(120)]
    write_cars(cars / "clicks.csv", clicks, "car,hour,label")
    write_cars(cars / "classes.csv", [(0, n // 2, n) for n in range(6)] + [(0, 9, 6), (0, 9, -1)], "odd,half,id")
    monkeypatch.setenv("CLASSES", str(cars))
    field = "{scheme='semantic',table='$CLASSES/classes.csv',key='id',partitions=['half'],complete=true}"
    report = train(cars, "run", feature, f"embedding.fields.car={field}")
    found = classes_of(cars / "run", 1)
    least = least_remainder(np.array(found).ravel())
    assert report["semantic"] == {"car": {"remainder": least, "unused_rows": 2}}
    rare = found.index((0,))
    assert rare == (6 if "size" in feature else 0)
    assert len(found) == 7
    if "first" in feature:
        told = train(cars, "none", feature.replace("-1", "-3"), f"embedding.fields.car={field}", check=2)
        assert told["found"] == "no row for 2 of 6 values: -3, -2"


def test_a_missing_value_has_the_row_of_the_empty_key(cars: Path) -> None:
    clicks = (cars / "clicks.csv").read_text() + ",3,1\n" * 20
    (cars / "clicks.csv").write_text(clicks)
    told = train(cars, check=2)
    assert (told["error"], told["found"]) == ("WrongClasses", "no row for 1 of 19 values: (empty)")
    write_cars(cars / "cars.csv", [*with_names(CARS), (None, "none", None, None)])
    train(cars)
    assert len(set(classes_of(cars / "run"))) == 20


# ---------------------------------------------------------------- not complementary


def test_classes_that_do_not_tell_ids_apart_are_refused_completed_or_allowed(cars: Path) -> None:
    two = "embedding.fields.car.partitions=['brand','type']"
    told = train(cars, "refused", two, check=2)
    assert told["error"] == "NotComplementary"
    assert told["found"].startswith("12 of 19 ids collide: '")
    assert "are both brand '" in told["found"]
    modulus = int(told["remedy"].partition("modulo ")[2].partition(";")[0])
    report = train(cars, "completed", two, "embedding.fields.car.complete=true")
    assert report["semantic"]["car"]["remainder"] == modulus
    field = next(field for field in report["fields"] if field["feature"] == "car")
    assert (field["rows"], field["collisions"]) == ([4, 3, modulus], 0)
    shown = quorem(
        "train",
        cars / "recipe.toml",
        "--out",
        cars / "shown",
        "--set",
        two,
        "--set",
        "train.epochs=1",
        *(
            "--set",
            "embedding.fields.car.complete=true",
        ),
    ).stdout
    assert f"car: completed by the remainders modulo {modulus}" in shown
    report = train(cars, "allowed", two, "embedding.fields.car.allow_collisions=true")
    assert (report["collisions"], report["semantic"]["car"]["remainder"]) == (12, None)
    shown = quorem("inspect", cars / "allowed").stdout
    assert f"12 of {19 + 25} ids collide" in shown
    train(cars, "every", two, "embedding.allow_collisions=true")


@given(st.lists(st.integers(0, 6), min_size=2, max_size=60))
def test_the_remainder_is_the_least_that_completes(classes: list[int]) -> None:
    groups = np.unique(np.array(classes), return_inverse=True)[1].reshape(-1)
    n = len(groups)
    separates = [m for m in range(1, n + 1) if len({(group, x % m) for x, group in enumerate(classes)}) == n]
    assert least_remainder(groups) == separates[0]


def test_a_remainder_is_found_where_pairs_are_too_many_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quorem.train.remainder.MOST_PAIRS", 0)
    groups = np.arange(1000) // 50
    assert least_remainder(groups) == 50
    assert least_remainder(np.random.default_rng(1).integers(0, 3, 1000)) == 1000  # none of those tried, so all


def test_moduli_that_no_large_class_bears_are_not_tried_on_every_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quorem.train.remainder.MOST_PAIRS", 0)
    groups, looked_at, unique = np.random.default_rng(1).integers(0, 100, 10_000), list[int](), np.unique
    monkeypatch.setattr("quorem.train.remainder.np.unique", lambda ids: looked_at.append(len(ids)) or unique(ids))
    assert least_remainder(groups) == len(groups)
    assert sum(looked_at) < len(groups)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda rows: rows[:-2], "WrongClasses", "no row for 2 of 18 values: 'saab-van-20"),
        (lambda rows: [*rows, (rows[3][0], "Lada", *rows[3][2:])], "WrongClasses", "'Lada' in row 19"),
        (lambda rows: [*rows, rows[3]], "", ""),  # twice the same is no contradiction
        (lambda rows: [*rows, (None, "Fiat", "van", "1")], "WrongClasses", "empty keys: 1, the first in row 19"),
        (lambda rows: [], "DataError", "no row"),
    ],
)
def test_a_class_table_that_leaves_ids_out_or_contradicts_itself(
    cars: Path, change: Any, error: str, told: str
) -> None:
    write_cars(cars / "cars.csv", change(with_names(CARS)))
    if not error:
        assert train(cars)["semantic"]["car"]["unused_rows"] == 0
        return
    found = train(cars, check=2)
    assert found["error"] == error
    assert told in found["found"]
    assert "cars.csv" in found["where"]
    assert found["remedy"]
    assert not (cars / "run").exists()


@pytest.mark.parametrize(
    ("setting", "error", "told"),
    [
        ("embedding.fields.car.partitions=['brand','typ']", "DataError", "did you mean 'type'?"),
        ("embedding.fields.car.key='id'", "DataError", "no column 'id'"),
        ("embedding.fields.car.table='lorries.csv'", "DataError", "lorries.csv"),
        ("embedding.fields.car.table='$NOWHERE/cars.csv'", "DataError", "NOWHERE"),
        ("features.car={kind='categorical',encoding='hash',buckets=50}", "PlanError", "hash"),
        ("features.car={kind='categorical',encoding='vocabulary',min_count=9999}", "OneId", "n = 1"),
        ("embedding.fields.car.partitions=['brand','brand']", "RecipeError", ""),
        ("embedding.fields.car.rows=7", "RecipeError", ""),
        ("embedding.fields.car.table=''", "RecipeError", ""),
        ("embedding.fields.car.scheme='qr'", "RecipeError", ""),
    ],
)
def test_what_a_semantic_field_cannot_be(cars: Path, setting: str, error: str, told: str) -> None:
    found = train(cars, "run", setting, check=2)
    assert found["error"] == error
    assert told in found["found"]
    assert found["remedy"]


# ---------------------------------------------------------------- resumed, planned


def test_resumed_only_with_the_same_classes(cars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(cars, "whole")
    real, seen = loop.binary_cross_entropy_with_logits, list[int]()

    def stop_at_the_third(*arguments: Any) -> Any:
        seen.append(1)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(loop, "binary_cross_entropy_with_logits", stop_at_the_third)
    run = ("train", cars / "recipe.toml", "--out", cars / "run", "--quiet")
    quorem(*run, check=130)
    monkeypatch.undo()
    other = [*with_names(CARS[:-1]), (name_of(CARS[-1]), *CARS[-1][:2], "1949")]
    write_cars(cars / "cars.csv", other)
    assert "another recipe" in quorem(*run, "--resume", check=2).stderr
    write_cars(cars / "cars.csv", with_names(CARS))
    quorem(*run, "--resume")
    for name in ("manifest.json", "weights.safetensors"):
        assert (cars / "whole" / name).read_bytes() == (cars / "run" / name).read_bytes(), name


def test_the_recipe_of_a_run_finds_its_class_table(cars: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    train(cars)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "recipe.toml").write_bytes((cars / "run" / "recipe.toml").read_bytes())
    train(elsewhere)
    assert (cars / "run" / "weights.safetensors").read_bytes() == (
        elsewhere / "run" / "weights.safetensors"
    ).read_bytes()


def test_a_plan_takes_its_classes_from_the_recipe(cars: Path) -> None:
    train(cars)
    plan = json.loads((cars / "run" / "manifest.json").read_text())["plan"]
    (cars / "plan.json").write_text(json.dumps(plan))
    run = ("train", cars / "recipe.toml", "--quiet", "--json", "--plan", cars / "plan.json")
    quorem(*run, "--out", cars / "planned")
    for name in ("manifest.json", "weights.safetensors"):
        assert (cars / "run" / name).read_bytes() == (cars / "planned" / name).read_bytes(), name
    none = quorem(*run, "--out", cars / "none", "--set", "embedding.fields={}", check=2)
    assert json.loads(none.stderr)["error"] == "WrongClasses"
    write_cars(cars / "cars.csv", [(name, brand, kind, year[:2]) for name, brand, kind, year in with_names(CARS)])
    other = quorem(*run, "--out", cars / "other", "--set", "embedding.allow_collisions=true", check=2)
    assert json.loads(other.stderr)["error"] == "NotComplementary"
    assert "the class table that the plan was made from" in json.loads(other.stderr)["remedy"]
