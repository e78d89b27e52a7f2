"""`quorem inspect` of a budget's plan: bytes counted by hand, what a KiB would do, and budgets side by side."""

import json
from pathlib import Path
from typing import Any

import pytest
import searched
from quorem.command import main
from quorem.protos import plan_directory, tables_bin

TAKEN = 9536


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return searched.write_budget(tmp_path / "10x")


def facts_of(capsys: pytest.CaptureFixture[str], *paths: Path) -> dict[str, Any]:
    assert main(["inspect", *map(str, paths), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out, parse_constant=pytest.fail)


def lines_of(capsys: pytest.CaptureFixture[str], *paths: Path) -> list[str]:
    assert main(["inspect", *map(str, paths)]) == 0
    return capsys.readouterr().out.splitlines()


# ---------------------------------------------------------------- one plan


def test_the_amounts_and_the_bytes_of_each_field_by_hand(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = facts_of(capsys, plan)
    sizes, (made, search) = facts["budget"], plan_directory.read_plan(plan)
    parts = tables_bin.plan_bytes(search.schema, made)
    assert sum(parts.values()) == TAKEN
    assert sizes == {
        "asked": "10x",
        "budget": TAKEN + 16,
        "bytes": TAKEN,
        "full_bytes": 10 * TAKEN,
        "smallest_bytes": searched.LEAST,
        "compression": 10.0,
        "price": 0.5,
        "rows": 8192,
        "parts": parts,
    }
    fields = {each["feature"]: each["budget"] for each in facts["fields"]}
    held = {
        "price": 5 * 1 + 2 * 4 + 5 * 4,  # rows of a byte, scales of its columns, first order
        "user": 29 * 2 + 2 * 4 * 4 + 29 * 4,
        "ad": 1000 * 4 + 4 * 4 + 1000 * 4,
        "cité 🦆": 6 * 2 * 4 + 6 * 4,
        "brand": 7 * 8 * 4 + 2 * 12 * 4 + 7 * 4,
        "shop": (4 * 2 + 6 * 12) * 4 + (4 + 6) * 4,
        "zone": 9 * 4 * 4 + 9 * 4,
    }
    assert {name: each["bytes"] for name, each in fields.items()} == held
    assert {name: each["share"] for name, each in fields.items()} == {name: n / TAKEN for name, n in held.items()}


def test_what_a_kib_would_give_and_cost_by_hand(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {each["feature"]: each["budget"] for each in facts_of(capsys, plan)["fields"]}
    user = fields["user"]
    options = [(each["dim"], each["bits"], each["bytes"], each["loss"]) for each in user["options"]]
    assert options == [  # with a bit a number, rows of a byte, whatever the dim; with four, of one, two or four
        (2, 4, 29 + 16 + 116, 0.002),
        (2, 1, 29 + 16 + 116, 0.004),
        (4, 1, 29 + 32 + 116, 0.002),
        (4, 4, 58 + 32 + 116, 0.0),
        (8, 1, 29 + 64 + 116, -0.002),
        (8, 4, 116 + 64 + 116, -0.004),
    ]
    assert user["chosen"] == 3
    assert {**user["options"][4], "away": 3, "per_kib": -0.002 / 3 * 1024} == user["next"]
    assert {**user["options"][0], "away": 45, "per_kib": 0.002 / 45 * 1024} == user["back"], "0.002 / 29 costs more"
    assert (fields["brand"]["next"], fields["price"]["back"]) == (None, None)


def test_a_reader_sees_a_map_and_fields_by_what_they_gain(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(capsys, plan)
    assert lines[0].startswith(f"plan {plan}: budget with deepfm, seed 1, schema ")
    assert lines[2] == (
        "asked 10x: 9,536 of 9,552 bytes, 10.0x fewer than full tables (95,360); the smallest plan takes 3,000"
    )
    words = [line.split() for line in lines]
    assert ["user", "100", "quotient", "remainder", "(1,25)", "(25,4)", "4", "4", "206", "B", "2.2%", "█"] in words
    assert [*("ad", "8,589,934,592", "hashed", "(1,1000)"), *("4", "8", "7.8", "KiB", "84.1%", "█" * 32)] in words
    assert "tables.bin: tables 4.7 KiB, first_order 4.2 KiB, classes 96 B, vocabularies 188 B, alignment 125 B" in lines
    place = next(number for number, line in enumerate(lines) if line.startswith("what a KiB more"))
    assert "8,192 validation rows" in lines[place]
    table = lines[place + 3 : place + 10]
    assert [line.split("  ")[0] for line in table] == ["user", "price", "cité 🦆", "zone", "shop", "ad", "brand"]
    assert "0.682667  quotient remainder 25 + 4, dim 8, 1 bit: +3 B, -0.00200 " in table[0]
    assert "0.045511  quotient remainder 25 + 4, dim 2, 4 bits: -45 B, +0.00200" in table[0]
    assert "-0.204800  quotient remainder 4 + 2, dim 8, 1 bit: -10 B, -0.00200" in table[2], "what was better, and less"
    assert "hashed 1,000, dim 8, 8 bits: +3.9 KiB, -0.00400" in table[5]
    assert lines[-3:-1] == ["parameters: embedding 4,310, first_order 1,066", "valid: auc 0.75, logloss 0.5"]


def test_nothing_that_a_terminal_obeys_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searched.write_budget(tmp_path, asked="\x1b[2J[red]10x[/]")
    out = "\n".join(lines_of(capsys, tmp_path))
    assert "\x1b" not in out
    assert r"asked \x1b[2J[red]10x[/]: " in out


# ---------------------------------------------------------------- several plans


def test_budgets_side_by_side(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = searched.write_budget(plan.with_name("5x"), dict.fromkeys(searched.DIMS, 8), {"user": 3}, asked="5x")
    facts = facts_of(capsys, wide, plan)
    assert (facts["kind"], [each["budget"]["asked"] for each in facts["plans"]]) == ("plans", ["5x", "10x"])
    user = next(each for each in facts["fields"] if each["feature"] == "user")
    assert (user["dims"], user["bits"], user["rows"]) == ([8, 4], [3, 4], [[25, 4], [25, 4]])
    lines = lines_of(capsys, wide, plan)
    words = [line.split() for line in lines]
    assert lines[0] == "2 plans of 7 fields"
    assert ["2", str(plan), "deepfm", "1", "10x", "9,536", "9,552", "10.0x", "0.75000", "0.50000"] in words
    assert ["user", "100", "25+4:", "8x3", "25+4:", "4x4"] in words
    assert ["price", "5", "8x32", "2x1"] in words


def test_a_budget_beside_dims_that_were_chosen_stands_as_they_do(
    plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = searched.write(plan.with_name("autodim"))
    assert [each["budget"] is None for each in facts_of(capsys, other, plan)["plans"]] == [True, False]
    assert lines_of(capsys, other, plan)[-1].startswith("Pearson correlation of dims over fields: 1.000")
