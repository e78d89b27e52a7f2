"""From a recipe to a plan: sizes that fit what was asked, exactly; and every bad input has an error of its own."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from commands import RECIPE, quorem
from hypothesis import assume, given
from hypothesis import strategies as st
from quorem.protos import collisions, plan, schema
from quorem.protos import manifest_pb2 as pb
from quorem.protos.errors import OverBudget, PlanError, QuoremError
from quorem.train.planning import make_plan
from quorem.train.recipe import EmbeddingConfig
from quorem.train.recipe_file import read_recipe, shipped_recipes
from quorem.train.sizes import Sizes, choose_tables
from quorem.train.sources.synthetic import CRITEO

COMBINES = (pb.MULT, pb.ADD, pb.CONCAT, pb.PATH, pb.FEATURE)
SEVERAL = ("qr", "mixed_radix", "chinese_remainder")
ROWS = Path(os.environ.get("QUOREM_DATA", "")) / "criteo_kaggle_14k"
BIG = (10_131_227, 2**33 + 1, 2**40 - 1)


def features(**sizes: int) -> pb.Schema:
    """A schema of id features with so many ids each, the rare one included."""
    return pb.Schema(
        features=[
            pb.Feature(name=name, side=pb.CONTEXT, values=pb.INTEGER, id=pb.IdRange(size=n - 1, out_of_range=pb.RARE))
            for name, n in sizes.items()
        ]
    )


def field(n: int, config: dict[str, Any], **own: Any) -> pb.Field:
    """The field that a recipe's section makes of n ids; `own` stands in [embedding.fields.x]."""
    section = EmbeddingConfig.model_validate(config | ({"fields": {"x": own}} if own else {}))
    return make_plan(section, features(x=n), {}, first_order=False).fields[0]


def rows_of(made: pb.Field) -> list[int]:
    return [table.rows for table in made.tables]


# ---------------------------------------------------------------- a byte budget


@given(st.integers(2, 300), st.integers(1, 8), st.sampled_from(COMBINES), st.integers(0, 3), st.data())
def test_bytes_give_the_largest_remainder_table_that_fits(
    n: int, dim: int, joined: pb.Combine, hidden: int, data: st.DataObject
) -> None:
    budget = data.draw(st.integers(1, 4 * n * dim - 1))
    sizes = Sizes(joined, dim, hidden, bytes=budget)
    widths = plan.table_dims(joined, dim, hidden, 2)
    fitting = [m for m in range(2, n) if 4 * (m * widths[0] + -(-n // m) * widths[1]) <= budget]
    if fitting:
        assert choose_tables("qr", n, sizes) == [(1, max(fitting)), (max(fitting), -(-n // max(fitting)))]
    else:
        with pytest.raises(OverBudget):
            choose_tables("qr", n, sizes)


def fits(scheme: str, n: int, sizes: Sizes) -> bool:
    """Whether the bytes are enough; if so, what they give keeps the promises of every plan."""
    assert sizes.bytes is not None
    try:
        tables = choose_tables(scheme, n, sizes)
    except OverBudget:
        return False
    assert 4 * sizes.numbers(tables) <= sizes.bytes
    assert all(2 <= rows <= n for _, rows in tables)
    if scheme != "hash":
        assert collisions.count_collisions(n, tables) == 0
    return True


@given(
    st.one_of(st.integers(2, 2000), st.sampled_from(BIG)),
    st.sampled_from(("hash", "full", *SEVERAL)),
    st.sampled_from(COMBINES),
    st.sampled_from((2, 4, 16)),
    st.data(),
)
def test_the_least_bytes_that_an_error_names_are_enough_and_one_less_is_not(
    n: int, scheme: str, joined: pb.Combine, dim: int, data: st.DataObject
) -> None:
    assume(scheme != "hash" or dim > 2)
    with pytest.raises(OverBudget) as caught:
        choose_tables(scheme, n, Sizes(joined, dim, bytes=4))
    least = int(caught.value.found.partition(" takes ")[2].partition(" ")[0])
    if scheme != "hash":
        assert fits(scheme, n, Sizes(joined, dim, bytes=least))
        assert fits(scheme, n, Sizes(joined, dim, bytes=data.draw(st.integers(least, 4 * n * dim * 2))))
    assert not fits(scheme, n, Sizes(joined, dim, bytes=least - 1))


@given(st.integers(2, 3000), st.sampled_from(("mixed_radix", "chinese_remainder")), st.data())
def test_bytes_give_few_tables_and_a_large_first_one(n: int, scheme: str, data: st.DataObject) -> None:
    budget = data.draw(st.integers(1, 4 * n - 1))
    try:
        tables = choose_tables(scheme, n, Sizes(pb.MULT, 1, bytes=budget))
    except OverBudget:
        assume(False)
        raise
    k = len(tables)
    for fewer in range(2, k):  # balanced tables, the smallest there are of so many, do not fit
        balanced = choose_tables(scheme, n, Sizes(pb.MULT, 1, tables=fewer))
        assert 4 * sum(rows for _, rows in balanced) > budget
    if scheme == "mixed_radix" and k > 1:
        assert 4 * (tables[0][1] + 1 + sum(rows for _, rows in tables[1:])) > budget or tables[0][1] >= n / 2 ** (k - 1)


def test_what_a_budget_gives_by_hand() -> None:
    by_bytes = {"scheme": "qr", "dim": 2}
    assert rows_of(field(1000, by_bytes | {"bytes": 8 * 254})) == [250, 4]  # rows of 8 bytes; 251 + 4 are too many
    assert rows_of(field(1000, by_bytes | {"bytes": 8 * 1000})) == [1000]  # a full table fits
    assert rows_of(field(1000, by_bytes | {"bytes": 8 * 64})) == [36, 28]  # the fewest rows are 64, too: 32 + 32
    assert rows_of(field(1000, {"scheme": "hash", "dim": 2, "bytes": 8 * 64 + 7})) == [64]
    path = {"combine": "path", "bytes": 4 * (100 * 2 + 10 * 6)}  # a function of 2 x 2 weights and 2 biases a quotient
    assert rows_of(field(1000, by_bytes | path)) == [100, 10]
    concat = {"combine": "concat", "dim": 3, "bytes": 4 * (100 * 2 + 10)}  # 2 + 1 numbers a row
    assert rows_of(field(1000, by_bytes | concat)) == [100, 10]
    three = field(10**6, {"scheme": "mixed_radix", "dim": 2, "bytes": 8 * 400})
    assert rows_of(three) == [280, 60, 60]  # 281 leaves 3,559 quotients: 60 + 60 rows
    assert rows_of(field(1000, {"scheme": "full", "dim": 2}, collisions=7, scheme="hash")) == [143]


@pytest.mark.parametrize("scheme", ["qr", "full"])
def test_an_error_of_a_budget_names_a_remedy_that_fits(scheme: str) -> None:
    with pytest.raises(OverBudget) as caught:
        field(10**6, {"dim": 16, "scheme": scheme, "bytes": 50_000})
    assert 'take scheme = "mixed_radix" with tables = 3: 19200 bytes' in str(caught.value)
    assert "field 'x'" in caught.value.where
    assert plan.table_bytes(field(10**6, {"dim": 16}, scheme="mixed_radix", tables=3)) == 19200
    assert rows_of(field(10**6, {"dim": 16, "scheme": "mixed_radix", "bytes": 50_000}))[0] > 100


# ---------------------------------------------------------------- rows, tables, collisions


@given(st.one_of(st.integers(2, 5000), st.sampled_from(BIG)), st.data())
def test_no_table_has_more_rows_than_asked(n: int, data: st.DataObject) -> None:
    scheme = data.draw(st.sampled_from(("mixed_radix", "chinese_remainder")))
    most = data.draw(st.integers(2, min(n, 10_000)))
    try:
        tables = choose_tables(scheme, n, Sizes(pb.MULT, 4, rows=most))
    except PlanError:
        assume(scheme != "chinese_remainder" or most > 300)  # few coprime numbers are as small
        raise
    assert max(rows for _, rows in tables) <= most
    assert collisions.count_collisions(n, tables) == 0
    if len(tables) > 2:
        fewer = choose_tables(scheme, n, Sizes(pb.MULT, 4, tables=len(tables) - 1)) if len(tables) <= 17 else [(1, n)]
        assert max(rows for _, rows in fewer) > most


@given(st.integers(2, 10**9), st.integers(1, 1000))
def test_collisions_give_the_first_table(n: int, c: int) -> None:
    for scheme in SEVERAL:
        tables = choose_tables(scheme, n, Sizes(pb.MULT, 4, collisions=c))
        assert len(tables) == 2
        assert tables[0] == (1, -(-n // c))
        assert collisions.count_collisions(n, tables) == 0
        assert tables[1][1] <= max(2, c) + 20  # a coprime number is near
    assert choose_tables("hash", n, Sizes(pb.MULT, 4, collisions=c)) == [(1, -(-n // c))]


def test_sizes_of_a_field_put_those_of_all_fields_aside() -> None:
    shared = {"scheme": "mixed_radix", "tables": 4, "rows": 50}
    assert rows_of(field(1000, shared)) == [32, 32]  # rows decide before tables
    assert rows_of(field(1000, shared, tables=3)) == [10, 10, 10]
    assert rows_of(field(1000, shared, collisions=4)) == [250, 4]
    assert rows_of(field(1000, shared, scheme="chinese_remainder")) == [31, 33]
    assert rows_of(field(1000, shared, scheme="mixed_radix", radices=[5, 20, 10])) == [5, 20, 10]
    assert rows_of(field(11, shared, scheme="chinese_remainder", moduli=[5, 7])) == [
        5,
        7,
    ]  # as asked, even if no smaller
    assert rows_of(field(1000, shared, scheme="qr", rows=10)) == [10, 100]
    assert rows_of(field(1000, {"scheme": "hash", "hash_rows": "qr"})) == [254]
    assert rows_of(field(1000, {"scheme": "qr"})) == [250, 4]
    assert rows_of(field(1000, {"scheme": "chinese_remainder"})) == [31, 33]
    assert rows_of(field(5, {"scheme": "mixed_radix", "threshold": 0, "tables": 9})) == [5]


def test_a_field_stays_full_up_to_the_threshold_or_where_tables_would_be_no_smaller() -> None:
    shared = {"scheme": "qr", "threshold": 30, "collisions": 4}
    assert rows_of(field(30, shared)) == [30]
    assert rows_of(field(31, shared)) == [8, 4]
    assert rows_of(field(30, shared, scheme="qr")) == [8, 4]  # a scheme of its own is meant for it
    assert rows_of(field(30, shared, collisions=3)) == [30]
    assert rows_of(field(31, shared, scheme="full")) == [31]
    assert rows_of(field(5, shared | {"threshold": 0})) == [5]  # 2 + 3 rows
    assert rows_of(field(40, shared | {"rows": 40})) == [40]
    wide = {"scheme": "qr", "combine": "path", "collisions": 60, "dim": 16}
    assert rows_of(field(1000, wide)) == [1000]  # 59 functions of 272 weights each hold more than 1000 vectors
    assert rows_of(field(1000, wide | {"combine": "mult"})) == [17, 59]


# ---------------------------------------------------------------- combines, first order


def test_every_combine_and_its_first_order_terms() -> None:
    own = {
        "mult": {},
        "concat": {"combine": "concat"},
        "path": {"combine": "path", "hidden": 3},
        "linear": {"combine": "path", "hidden": 0},
        "feature": {"combine": "feature"},
    }
    section = {"scheme": "qr", "dim": 5, "hidden": 2, "fields": own}
    sizes = dict.fromkeys([*own, "small"], 100) | {"small": 20}
    made = make_plan(
        EmbeddingConfig.model_validate(section | {"combine": "path", "fields": own | {"mult": {"combine": "mult"}}}),
        features(**sizes),
        {},
        first_order=True,
    )
    found = {each.feature: each for each in made.fields}
    dims = {name: (each.dim, [table.dim for table in each.tables], each.hidden) for name, each in found.items()}
    assert dims == {
        "mult": (5, [5, 5], 0),
        "concat": (5, [3, 2], 0),
        "path": (5, [5, 3 * 5 + 3 + 5 * 3 + 5], 3),
        "linear": (5, [5, 30], 0),
        "feature": (10, [5, 5], 0),
        "small": (5, [5], 0),
    }
    terms = {
        each.feature: (each.combine, each.hidden, [table.dim for table in each.tables]) for each in made.first_order
    }
    assert terms == {
        "mult": (pb.MULT, 0, [1, 1]),
        "concat": (pb.ADD, 0, [1, 1]),
        "path": (pb.PATH, 0, [1, 2]),  # a weight and a bias
        "linear": (pb.PATH, 0, [1, 2]),
        "feature": (pb.ADD, 0, [1, 1]),
        "small": (pb.ALONE, 0, [1]),
    }
    full = EmbeddingConfig.model_validate(section | {"combine": "path", "first_order": "full"})
    assert {len(each.tables) for each in make_plan(full, features(**sizes), {}, first_order=True).first_order} == {1}
    assert not make_plan(full, features(**sizes), {}, first_order=False).first_order


def test_collisions_are_allowed_where_a_recipe_says_so() -> None:
    own = {"scheme": "mixed_radix", "radices": [5, 10]}
    with pytest.raises(QuoremError, match="Add a radix of 20"):
        field(1000, {}, **own)
    assert field(1000, {}, **own, allow_collisions=True).collisions == 950
    assert field(1000, {"allow_collisions": True}, **own).allow_collisions
    shared = {"scheme": "chinese_remainder", "moduli": [10, 15], "allow_collisions": True}
    assert field(100, {}, **shared).collisions == 70
    with pytest.raises(QuoremError, match="share the factor 5"):
        field(100, {"allow_collisions": True}, **shared | {"allow_collisions": False})


# ---------------------------------------------------------------- bad input, through the command


def refused(directory: Path, *settings: str, plan: Any = None) -> dict[str, str]:
    """The error that `quorem train --json` tells a script, with exit code 2, before it wrote anything."""
    (directory / "recipe.toml").write_text(RECIPE)
    arguments = [part for setting in settings for part in ("--set", setting)]
    if plan is not None:
        (directory / "plan.json").write_text(json.dumps(plan))
        arguments += ["--plan", str(directory / "plan.json")]
    out = directory / "run"
    told = json.loads(quorem("train", directory / "recipe.toml", "--out", out, "--json", *arguments, check=2).stderr)
    assert not out.exists()
    assert told["rule"]
    assert told["remedy"]
    return told


@pytest.mark.parametrize(
    ("setting", "error", "found"),
    [
        ("features.C7.buckets=0", "RecipeError", ""),  # n = 0 never comes so far as a plan of the recipe's
        ("features.C7.buckets=1", "OneId", "n = 1"),
        ("embedding.fields.C7={scheme='qr',rows=501}", "TooManyRows", "rows = 501 for n = 500"),
        ("embedding.fields.C7={scheme='mixed_radix',radices=[501,2]}", "TooManyRows", "501 for n = 500"),
        ("embedding.fields.C7={scheme='mixed_radix',radices=[50,10,2]}", "TooManyRows", "2, when"),
        ("embedding.fields.C7={scheme='chinese_remainder',moduli=[501,2]}", "TooManyRows", "501 for n = 500"),
        ("embedding.fields.C7={scheme='qr',collisions=0}", "TooFewCollisions", "collisions = 0"),
        ("embedding.collisions=-4", "TooFewCollisions", "collisions = -4"),
        ("embedding.fields.C7={scheme='chinese_remainder',moduli=[30,20]}", "SharedFactor", "share the factor 10"),
        ("embedding.fields.C7={scheme='chinese_remainder',moduli=[11,13]}", "TooFewTuples", "= 143 for 500"),
        ("embedding.fields.C7={scheme='mixed_radix',radices=[11,13]}", "TooFewTuples", "= 143 for 500"),
        (
            "embedding.fields.C7={scheme='mixed_radix',radices=[9223372036854775808,2]}",
            "Overflow",
            "9223372036854775808",
        ),
        ("embedding.fields.C7={scheme='mixed_radix',rows=1}", "PlanError", "rows = 1"),
        ("embedding.fields.C7={scheme='qr',bytes=100}", "OverBudget", "bytes = 100"),
        ("embedding.bytes=8", "OverBudget", "bytes = 8"),
        ("embedding.combine='concat'", "WrongDims", "dim 1 for 2 tables"),
        (
            "embedding.fields.C7={scheme='mixed_radix',tables=5,combine='concat',dim=4}",
            "WrongDims",
            "dim 4 for 5 tables",
        ),
        ("embedding.fields.C7={scheme='mixed_radix',tables=1}", "RecipeError", ""),
        ("embedding.fields.C7={scheme='mixed_radix',radices=[7]}", "RecipeError", ""),
        ("embedding.fields.C7={radices=[7,80]}", "RecipeError", ""),
        ("embedding.fields.C7={scheme='qr',tables=2}", "RecipeError", ""),
        ("embedding.fields.C7={scheme='qr',rows=5,bytes=7}", "RecipeError", ""),
        ("embedding.fields.C7={scheme='semantic'}", "RecipeError", ""),
        ("embedding.fields.C7={combine='mult',hidden=4}", "RecipeError", ""),
        ("embedding.hidden=4", "RecipeError", ""),
        ("embedding.scheme='semantic'", "RecipeError", ""),
        ("embedding.rows=2.5", "RecipeError", ""),
    ],
)
def test_bad_input_has_an_error_of_its_own(tmp_path: Path, setting: str, error: str, found: str) -> None:
    extra = ["embedding.dim=1"] if "concat'" in setting and "fields" not in setting else []
    extra += ["embedding.fields.C7.scheme='qr'"] if "buckets" in setting else []
    extra += ["embedding.dim=4"] if not extra else []
    told = refused(tmp_path, setting, *extra)
    assert (told["error"], found in told["found"]) == (error, True), told
    assert "C7" in told["where"] or "embedding." in setting


def test_a_plan_of_a_field_without_ids_or_beyond_int64_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    quorem("train", tmp_path / "recipe.toml", "--out", tmp_path / "whole", "--quiet", "--set", "train.epochs=1")
    whole = json.loads((tmp_path / "whole" / "manifest.json").read_text())["plan"]
    for n, error in (("0", "EmptyField"), (str(2**63), "Overflow")):
        broken = json.loads(json.dumps(whole))
        broken["fields"][0]["cardinality"] = n
        told = refused(tmp_path, plan=broken)
        assert (told["error"], told["found"]) == (error, f"n = {n}")


# ---------------------------------------------------------------- recipes that ship


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_is_one(name: str) -> None:
    recipe, _ = read_recipe(name)
    sizes = {key: 10_000 for key, config in recipe.features.items() if config.kind != "dense"}
    made = make_plan(recipe.embedding, features(**sizes), {}, first_order=recipe.model.first_order)
    assert all(each.complementary for each in made.fields)


def test_the_papers_settings() -> None:
    recipes = [read_recipe(name)[0] for name in ("criteo_dcn", "criteo_dlrm")]
    dcn, dlrm = (recipe.model.model_dump() for recipe in recipes)
    assert (dcn["cross"], dcn["mlp"], dcn["batchnorm"], dcn["dropout"]) == (6, (512, 256, 64), False, 0)
    assert (dlrm["bottom"], dlrm["top"], dlrm["batchnorm"], dlrm["dropout"]) == ((512, 256, 64), (512, 256), False, 0)
    for recipe in recipes:
        kinds = [config.transform if config.kind == "dense" else config.encoding for config in recipe.features.values()]
        assert kinds == ["log1p"] * 13 + ["vocabulary"] * 26
        assert (recipe.embedding.dim, recipe.embedding.collisions, recipe.embedding.combine) == (16, 4, "mult")
        assert (recipe.train.batch, recipe.train.epochs, recipe.train.l2) == (128, 1, 0)


@pytest.mark.skipif(not ROWS.is_dir(), reason="QUOREM_DATA does not name a directory with criteo_kaggle_14k")
@pytest.mark.parametrize("name", ["criteo_dcn", "criteo_dlrm"])
def test_the_papers_recipes_learn(name: str, tmp_path: Path) -> None:
    done = quorem("train", name, "--out", tmp_path / "run", "--quiet", "--json", "--set", "data.rows=3000")
    assert json.loads(done.stdout)["test"]["auc"] > 0.6


def test_criteos_cardinalities_by_schema_are_those_of_the_paper() -> None:
    described = features(**{f"C{j}": n for j, n in enumerate(CRITEO, 1)})
    assert sum(map(schema.cardinality, described.features)) == 33_762_577
    for config, rows in (
        ({"scheme": "qr", "collisions": 4}, 8_440_755),
        ({"scheme": "qr", "collisions": 60}, 563_959),
        ({"scheme": "mixed_radix", "tables": 3}, 3_772),
        ({"scheme": "mixed_radix", "tables": 4}, 1_643),
    ):
        section = EmbeddingConfig.model_validate(config | {"threshold": 0})
        made = make_plan(section, described, {}, first_order=False)
        held = sum(table.rows for each in made.fields for table in each.tables)
        assert 0.97 * rows <= held <= rows  # the smallest fields are no smaller compressed: they stay full
