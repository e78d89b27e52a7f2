"""Mixed dims: the power of popularity to the digit, the largest base within a budget, and what tables cannot have."""

from collections.abc import Sequence
from decimal import Context, localcontext
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from quorem.protos import manifest_pb2 as pb
from quorem.protos import packing, partitions, plan
from quorem.protos.errors import RecipeError, WrongDims
from quorem.train.search.budget import check_candidates, least_dim
from quorem.train.search.config import SearchConfig
from quorem.train.search.derive import with_dims
from quorem.train.search.mixed import mixed_dims
from runs import categorical, field


def full(counts: Sequence[int], dim: int = 4) -> pb.Plan:
    """Full tables of so many ids, features a, b, c …"""
    fields = [
        plan.build_field(chr(97 + place), n, partitions.full(n), scheme=pb.FULL, combine=pb.ALONE, dim=dim)
        for place, n in enumerate(counts)
    ]
    return pb.Plan(fields=packing.pack(fields))


def mixed(counts: Sequence[int], base: int, alpha: float, parameters: int | None = None) -> list[int]:
    """The dims in the order of the counts."""
    dims = mixed_dims(SearchConfig(method="mixed", base=base, alpha=alpha, parameters=parameters), full(counts, base))
    return [dims[name] for name in sorted(dims)]


@pytest.mark.parametrize(
    ("counts", "base", "alpha", "dims"),
    [
        ([4, 16, 64], 16, 0.5, [16, 8, 4]),
        ([64, 4, 16], 16, 0.5, [4, 16, 8]),  # whatever their order
        ([4, 16, 64], 5, 0.5, [5, 3, 1]),  # 2.5 is rounded up, 1.25 down
        ([10, 1000], 30, 0.1, [30, 19]),  # 30 / 10^0.2 = 18.93
        ([2, 2**62], 32, 0.3, [32, 1]),
        ([2, 2**62], 4096, 1e300, [4096, 1]),  # a power that is too small for any float
        ([7, 9, 11], 24, 0.0, [24, 24, 24]),
        ([1, 4, 16], 16, 0.5, [1, 16, 8]),  # one id has nothing to tell apart, and shrinks no other
        ([1, 1], 16, 0.5, [1, 1]),
    ],
)
def test_dims_fall_as_a_power_of_the_number_of_ids(counts: list[int], base: int, alpha: float, dims: list[int]) -> None:
    assert mixed(counts, base, alpha) == dims
    with localcontext(Context(prec=3)):  # whatever decimals the process is set to
        assert mixed(counts, base, alpha) == dims
        least = sum(counts)
        assert mixed(counts, base, alpha, least) == [1] * len(counts)


def rounded(number: Fraction) -> int:
    return int(number + Fraction(1, 2))


@given(
    st.lists(st.integers(2, 60), min_size=1, max_size=6),
    st.integers(1, 40),
    st.sampled_from([0, 1, 2]),
    st.floats(0, 1),
)
@example([2, 6], 9, 1, 0.45)  # the dims 5 and 2 fall at one base, though a third is no decimal
@example([2, 44], 33, 1, 1.0)  # 33 / 22 is a half
def test_a_budget_takes_the_largest_base_that_fits(roots: list[int], base: int, power: int, part: float) -> None:
    """Against a search over every base at which a dim changes, in fractions: alpha = power / 2 of square counts."""
    counts = [root * root for root in roots]
    shares = [Fraction(min(roots), root) ** power for root in roots]

    def dims_at(b: Fraction) -> list[int]:
        return [max(1, rounded(b * share)) for share in shares]

    def held(dims: list[int]) -> int:
        return sum(n * dim for n, dim in zip(counts, dims, strict=True))

    least, most = sum(counts), held(dims_at(Fraction(base)))
    budget = least + round(part * (most - least))
    steps = {(d - Fraction(1, 2)) / share for share in shares for d in range(1, base + 1)}
    bases = [Fraction(0), *(step for step in steps if step <= base), Fraction(base)]
    expected = max((dims_at(b) for b in bases if held(dims_at(b)) <= budget), key=held)
    assert mixed(counts, base, power / 2, budget) == expected


def test_a_budget_of_the_whole_plan_changes_nothing_and_one_below_the_least_is_refused() -> None:
    counts = [100, 400, 2500]
    free = mixed(counts, 32, 0.3)
    held = sum(n * dim for n, dim in zip(counts, free, strict=True))
    assert mixed(counts, 32, 0.3, held) == mixed(counts, 32, 0.3, 10**30) == free
    assert mixed(counts, 32, 0.3, held - 1) != free
    assert mixed(counts, 32, 0.3, 3000) == [1, 1, 1]
    with pytest.raises(RecipeError) as refused:
        mixed(counts, 32, 0.3, 2999)
    assert "3,000" in refused.value.rule
    assert refused.value.where == "search.parameters"


COMBINED = [
    field(categorical("alone", "hash", 50), "full", pb.ALONE, 12),
    field(categorical("mult", "hash", 400), "qr", pb.MULT, 12),
    field(categorical("concat", "hash", 900), "qr", pb.CONCAT, 12),
    field(categorical("path", "hash", 500), "qr", pb.PATH, 12),
    field(categorical("hidden", "hash", 500), "qr", pb.PATH, 12, hidden=3),
    field(categorical("feature", "hash", 300), "qr", pb.FEATURE, 12),
]


@pytest.mark.parametrize("dim", [2, 3, 7, 12, 64])
def test_numbers_are_counted_as_the_plan_of_those_dims_counts_them(dim: int) -> None:
    wide = pb.Plan(fields=packing.pack(COMBINED))
    other = with_dims(wide, {each.feature: dim for each in wide.fields}, {})
    for each in wide.fields:
        derived = next(one for one in other.fields if one.feature == each.feature)
        assert plan.parameters_at(each, dim) == plan.parameters([derived])


def test_every_combine_gets_dims_that_it_can_share_out() -> None:
    wide = pb.Plan(fields=packing.pack(COMBINED))
    dims = mixed_dims(SearchConfig(method="mixed", base=12, alpha=50.0), wide)
    assert dims == {each.feature: 12 if each.feature == "alone" else least_dim(each) for each in wide.fields}
    least = plan.parameters(with_dims(wide, {each.feature: least_dim(each) for each in wide.fields}, {}).fields)
    for budget in (least, least + 100, 3 * least):
        dims = mixed_dims(SearchConfig(method="mixed", base=12, alpha=0.2, parameters=budget), wide)
        assert plan.parameters(with_dims(wide, dims, {}).fields) <= budget
    with pytest.raises(RecipeError):
        mixed_dims(SearchConfig(method="mixed", base=12, alpha=0.2, parameters=least - 1), wide)


def test_candidates_that_concatenated_tables_cannot_share_out_are_refused() -> None:
    wide = pb.Plan(fields=packing.pack(COMBINED))
    check_candidates(wide, SearchConfig(candidates=(2, 8)))
    with pytest.raises(WrongDims) as refused:
        check_candidates(wide, SearchConfig(candidates=(1, 8)))
    assert "concat" in refused.value.where
    check_candidates(wide, SearchConfig(candidates=(1, 8), fields={"concat": (2, 4)}))
