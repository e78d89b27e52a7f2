"""Budgets: what an amount means, which schemes fields may have, what options take, and plans that fit to the byte."""

import itertools
import random
from collections.abc import Mapping
from fractions import Fraction

import pytest
from budgets import BRANDS, SIZES, fitter_for, ladders_of, largest, options_for, recipe_of
from hypothesis import given, settings
from hypothesis import strategies as st
from quorem.protos import manifest_pb2 as pb
from quorem.protos import partitions, plan, tables_bin
from quorem.protos.errors import OverBudget, RecipeError
from quorem.train.budget.amount import UNITS, parse
from quorem.train.budget.knapsack import STEPS, pack
from quorem.train.budget.options import Option
from quorem.train.budget.schedule import ended, epochs_of, steps
from quorem.train.budget.schemes import COLLISIONS, MIXED
from quorem.train.search.config import SearchConfig

numbers = st.tuples(st.integers(0, 10**15), st.text("0123456789", max_size=6)).map(
    lambda parts: f"{parts[0]}.{parts[1]}" if parts[1] else str(parts[0])
)


@given(numbers, st.sampled_from([*UNITS, "kB", "Mb", "gib"]), st.sampled_from(["", " "]))
def test_bytes_are_counted_exactly(number: str, unit: str, space: str) -> None:
    expected = int(Fraction(number) * UNITS[unit.upper()])
    if expected < 1:
        with pytest.raises(ValueError, match="a budget is bytes"):
            parse(number + space + unit)
        return
    found = parse(number + space + unit)
    assert (found.bytes, found.factor) == (expected, None)
    assert found.of(1) == found.of(10**9) == expected


@given(numbers.filter(lambda number: Fraction(number) >= 1), st.sampled_from("xX"), st.integers(1, 10**12))
def test_a_factor_divides_what_full_tables_take(number: str, unit: str, full: int) -> None:
    budget = parse(number + unit).of(full)
    assert budget * Fraction(number) <= full < (budget + 1) * Fraction(number)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "KB",
        "0",
        "0.9B",
        "0.0009KB",
        "-1KB",
        "1e3",
        "0x",
        "0.99x",
        "10xx",
        "5TB",
        "1,5MB",
        ".5MB",
        "5.MB",
        "nan",
    ],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a budget is bytes"):
        parse(text)


Items = list[dict[int, tuple[int, int]]]  # of each field: option -> loss, size


def items(most: int) -> st.SearchStrategy[Items]:
    option = st.tuples(st.integers(-9, 9), st.integers(0, most))
    return st.lists(st.dictionaries(st.integers(0, 9), option, min_size=1, max_size=4), min_size=1, max_size=4)


def split(fields: Items) -> tuple[list[dict[int, float]], list[dict[int, int]]]:
    return [{k: float(loss) for k, (loss, _) in own.items()} for own in fields], [
        {k: size for k, (_, size) in own.items()} for own in fields
    ]


def least(fields: Items, room: int) -> int | None:
    """Of all plans that fit."""
    plans = [list(each) for each in itertools.product(*(own.values() for own in fields))]
    fit = [sum(loss for loss, _ in each) for each in plans if sum(size for _, size in each) <= room]
    return min(fit, default=None)


@given(items(40), st.integers(1, 120))
def test_a_knapsack_is_the_best_of_all(fields: Items, room: int) -> None:
    losses, sizes = split(fields)
    found, best = pack(losses, sizes, room), least(fields, room)
    assert (found is None) == (best is None)
    if found is not None:
        assert sum(own[key] for own, key in zip(sizes, found, strict=True)) <= room
        assert sum(own[key] for own, key in zip(losses, found, strict=True)) == best


@given(items(300_000), st.integers(1, 900_000))
def test_a_large_knapsack_is_never_overfull_and_nearly_the_best(fields: Items, room: int) -> None:
    losses, sizes = split(fields)
    found = pack(losses, sizes, room)
    sure = least(fields, room - (len(fields) + 1) * -(-room // STEPS))  # what rounding up may cost
    if found is None:
        assert sure is None
        return
    assert sum(own[key] for own, key in zip(sizes, found, strict=True)) <= room
    assert sure is None or sum(own[key] for own, key in zip(losses, found, strict=True)) <= sure


configs = st.builds(
    SearchConfig,
    method=st.just("budget"),
    budget=st.sampled_from(["2x", "2x,4x", "2x,4x,8x"]),
    warmup=st.integers(0, 2),
    epochs=st.integers(1, 5),
    every=st.integers(1, 5),
    tau_rate=st.sampled_from([0.0, 0.1]),
)


@given(configs, st.integers(1, 5), st.data())
def test_every_budget_has_its_epochs_and_ends_once(config: SearchConfig, batches: int, data: st.DataObject) -> None:
    budgets = list(range(len(config.budgets)))
    whole = list(steps(config, budgets, batches))
    own = epochs_of(config, budgets)
    assert own == [config.epochs] + [max(1, config.epochs // 2)] * (len(budgets) - 1)
    phases = [None] * config.warmup + [phase for phase in budgets for _ in range(own[phase])]
    assert [each.phase for each in whole] == [phase for phase in phases for _ in range(batches)]
    assert [each.number for each in whole] == list(range(len(whole)))
    assert [each.phase for each in whole if each.first] == [each.phase for each in whole if each.last] == budgets
    for each in whole:
        t = each.number - config.warmup * batches
        assert each.chooses == (t >= 0 and t % config.every == 0)
        assert each.tau == max(config.tau_min, 1 - config.tau_rate * max(t, 0))
        assert ended(config, budgets, batches, each.number + 1) == (each.phase if each.last else None)
    assert ended(config, budgets, batches, 0) is None
    start = data.draw(st.integers(0, len(whole)))
    assert list(steps(config, budgets, batches, start)) == whole[start:]


def rows(field: pb.Field) -> int:
    return sum(table.rows for table in field.tables)


def smallest_rows(n: int) -> int:
    """Of all schemes that a field of n ids may have."""
    every = [n]
    every += [rows_of(partitions.remainder_rows(n, c), n) for c in COLLISIONS if 2 * c * c < n]
    every += [sum(count for _, count in partitions.mixed_radix(n, k)) for k in MIXED if n > 2**k]
    return min(every)


def rows_of(m: int, n: int) -> int:
    return sum(count for _, count in partitions.quotient_remainder(n, m))


@given(st.integers(500, 10**8), st.integers(500, 10**8))
def test_schemes_fall_to_the_smallest_and_tell_all_ids_apart(large: int, small: int) -> None:
    budgets = sorted((large, small), reverse=True)
    found = ladders_of(recipe_of(), budgets)
    assert list(found) == [name for name in SIZES if name != "tags"] + ["tags"], "in the schema's order"
    for name, ladder in found.items():
        heights = [rows(field) for field in ladder]
        assert heights == sorted(set(heights), reverse=True)
        assert all(field.feature == name and field.dim == 8 for field in ladder)
        if name not in ("chosen", "brand"):
            assert all(field.complementary for field in ladder)
            n = ladder[0].cardinality
            few = n <= max(20, 0.01 * budgets[-1])
            assert heights[-1] == (n if few else smallest_rows(n))
            assert not few or [field.scheme for field in ladder] == [pb.FULL]
    (chosen,), (brand,) = found["chosen"], found["brand"]
    assert (chosen.scheme, plan.pairs(chosen)) == (pb.HASHED, [(1, 90)])
    assert (brand.scheme, plan.pairs(brand)) == (pb.SEMANTIC, BRANDS.tables)
    assert [table.classes for table in brand.tables] == [True, True]


def test_a_field_that_is_full_everywhere_else_may_be_full() -> None:
    found = ladders_of(recipe_of(), [10**7, 10**5])
    for name in ("huge", "large", "tags"):
        assert found[name][0].scheme == pb.FULL
        assert {field.scheme for field in found[name][1:]} <= {pb.QUOTIENT_REMAINDER, pb.MIXED_RADIX}
        assert len(found[name]) > (2 if name == "huge" else 0)


@pytest.mark.parametrize("combine", ["path", "concat", "feature"])
def test_tables_that_are_joined_otherwise_are_refused(combine: str) -> None:
    with pytest.raises(RecipeError, match="mult or add"):
        ladders_of(recipe_of(combine=combine), [50_000])


@pytest.mark.parametrize("first_order", ["alike", "full", "none"])
def test_sizes_are_those_of_the_tables_in_the_plan(first_order: str) -> None:
    fitter = fitter_for(recipe_of(first_order=first_order))
    options, rest = fitter.options, largest(fitter.options)
    for number, name in enumerate(options.features):
        every = options.of(number)
        dims = {options.dims[dim] for _, dim, _ in every}
        assert dims == set(fitter.recipe.search.candidates_of(name))
        for option in every:
            made = fitter.plan([*rest[:number], option, *rest[number + 1 :]])
            (field,) = (each for each in made.fields if each.feature == name)
            terms = [plan.weight_bytes(each) for each in made.first_order if each.feature == name]
            assert len(terms) == (first_order != "none")
            assert options.sizes[(number, *option)] == plan.table_bytes(field) + sum(terms)
            _, dim, bits = options.field(number, option)
            assert (field.dim, {table.bits for table in field.tables}) == (dim, {bits})
    assert options.smallest() == sum(
        min(int(options.sizes[(number, *option)]) for option in options.of(number)) for number in range(len(SIZES))
    )


FITTER = fitter_for(recipe_of())
LEAST, MOST = FITTER.smallest(), FITTER.bytes(largest(FITTER.options))


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(LEAST, MOST + 1000))
def test_plans_fit_to_the_byte_whatever_is_wished_for(seed: int, budget: int) -> None:
    options, draw = FITTER.options, random.Random(seed)
    losses = [{option: draw.gauss(0, 1) for option in options.of(field)} for field in range(len(SIZES))]
    chosen = FITTER.fit(losses, budget)
    made = FITTER.plan(chosen)
    taken = sum(tables_bin.plan_bytes(FITTER.schema, made).values())
    assert taken == FITTER.bytes(chosen) <= budget
    assert all(option in own for own, option in zip(losses, chosen, strict=True))
    if budget >= MOST:
        assert chosen == [min(own, key=lambda option, own=own: own[option]) for own in losses], "what is best of all"


SLACK = 2048  # what a plan may leave: steps of the knapsack, neutral rows and alignment


@settings(max_examples=10)
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_plans_are_nearly_the_best_that_fit(seed: int, share: float) -> None:
    """Beside every plan of a few options a field."""
    options, draw, budget = FITTER.options, random.Random(seed), int(LEAST + SLACK + share * (MOST - LEAST) / 4)
    losses = list[Mapping[Option, float]]()
    for field in range(len(SIZES)):
        own = options.of(field)
        few = {*draw.sample(own, 2), min(own, key=lambda option, field=field: options.sizes[(field, *option)])}
        losses.append({option: draw.random() for option in sorted(few)})

    def loss(chosen: "tuple[Option, ...] | list[Option]") -> float:
        return sum(own[option] for own, option in zip(losses, chosen, strict=True))

    fit = [each for each in itertools.product(*losses) if FITTER.bytes(each) <= budget - SLACK]
    assert fit
    assert loss(FITTER.fit(losses, budget)) <= min(map(loss, fit)) + 1e-9


def test_the_smallest_budget_is_exactly_that() -> None:
    losses = [{option: float(-sum(option)) for option in FITTER.options.of(field)} for field in range(len(SIZES))]
    assert FITTER.bytes(FITTER.fit(losses, LEAST)) == LEAST
    with pytest.raises(OverBudget) as caught:
        FITTER.fit(losses, LEAST - 1)
    assert caught.value.found == f"{LEAST - 1:,} bytes, where the smallest plan takes {LEAST:,}"
    assert f"Ask for {LEAST} bytes or more" in caught.value.remedy


def test_no_mix_of_small_options_is_smaller() -> None:
    """Fields of one dim and bits share constants, whose alignment is shared, too: counted for all pairs of options."""
    options = options_for(recipe_of({"candidates": (1, 2), "fields": {}, "bits": (2, 1)}))
    fitter = fitter_for(recipe_of({"candidates": (1, 2), "fields": {}, "bits": (2, 1)}))
    last = [len(ladder) - 1 for ladder in options.ladders.values()]
    every = itertools.product(*([(own, dim, bits) for dim in (0, 1) for bits in (0, 1)] for own in last))
    assert min(map(fitter.bytes, map(list, every))) >= fitter.smallest()
