"""What search.json tells of a budget: whatever does not fit the plan is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import searched
from quorem.protos.errors import Malformed
from quorem.protos.plan_directory import read_plan, write_plan
from tampered import Json, choose, field, plan, tell


def amount(**values: Any) -> Callable[[Path], object]:
    """Edit the budget in search.json."""
    return tell(lambda tree: tree["budget"].update(values))


def option(number: int, **values: Any) -> Callable[[Path], object]:
    """Edit an option of `user` in search.json, of which the fourth is its own."""

    def edit(tree: Json) -> None:
        next(each for each in tree["choices"] if each["feature"] == "user")["options"][number].update(values)

    return tell(edit)


def to_bits(feature: str, bits: int) -> Callable[[Path], object]:
    """Edit the bits of a field in plan.json."""
    return plan(lambda tree: [table.update(bits=bits) for table in field(tree, feature)["tables"]])


OWN = 3  # of the options of `user`
BUDGETS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no budget": (tell(lambda tree: tree.pop("budget")), "no budget, method 'budget'"),
    "another method": (tell(lambda tree: tree.update(method="autodim")), "a budget, method 'autodim'"),
    "nothing asked": (amount(asked=""), "what was asked for"),
    "over the budget": (amount(bytes="9535"), "taken 9536, budget 9535"),
    "below the smallest": (amount(smallest="9537"), "smallest 9537"),
    "other bytes": (amount(taken="9535"), "9535 for 9536"),
    "a plan of other bytes": (to_bits("user", 2), "9536 for 9504"),
    "a plan of other bits in as many bytes": (to_bits("price", 8), "0 times"),
    "full tables of nothing": (amount(full="0"), "full tables take bytes"),
    "a price that is no number": (amount(price="NaN"), "price"),
    "a price below zero": (amount(price=-0.1), "price"),
    "bytes that are no number": (amount(bytes="-1"), "JSON form"),
    "options that fall": (option(0, bytes="170"), "rising bytes"),
    "an option of no scheme": (option(0, scheme=77), "an option has a scheme"),
    "an option of no rows": (option(0, rows=[]), "tables with rows"),
    "an option of empty rows": (option(0, rows=["0", "4"]), "tables with rows"),
    "an option of an unknown dim": (option(0, dim=3), "3 of [2, 4, 8]"),
    "an option of unknown bits": (option(0, bits=5), "Found: 5"),
    "a loss that is no number": (option(0, loss="NaN"), "finite number"),
    "a loss without end": (option(0, loss="-Infinity"), "finite number"),
    "a loss beyond float32": (option(0, loss=1e300), "finite number"),
    "no options": (choose("user", options=[]), "0 times"),
    "none of its rows": (option(OWN, rows=["24", "5"]), "0 times"),
    "none of its scheme": (option(OWN, scheme="MIXED_RADIX"), "0 times"),
    "none of its bits": (option(OWN, bits=8), "0 times"),
    "its own twice": (option(2, dim=4, bits=4), "2 times"),
    "its own of other bytes": (option(OWN, bytes="207"), "207 for 206"),
    "its own of a loss": (option(OWN, loss=0.25), "0.25 of its own"),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_a_hostile_budget_is_refused_by_name(name: str, tmp_path: Path) -> None:
    change, told = BUDGETS[name]
    directory = searched.write_budget(tmp_path / "plan")
    assert read_plan(directory)[1].budget.taken == 9536
    change(directory)
    with pytest.raises(Malformed) as refused:
        read_plan(directory)
    assert told in str(refused.value)
    assert str(directory) in refused.value.where
    assert len(str(refused.value)) < 1000


def test_options_belong_to_a_budget(tmp_path: Path) -> None:
    directory = searched.write(tmp_path / "plan")
    choose("user", options=[{"dim": 4}])(directory)
    with pytest.raises(Malformed, match="options belong to a budget"):
        read_plan(directory)


def test_a_budget_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    made = searched.make_plan(bits=searched.BITS)
    search = searched.make_budget(made)
    search.budget.taken -= 1
    with pytest.raises(Malformed):
        write_plan(tmp_path / "plan", made, search)
    assert not (tmp_path / "plan").exists()
