"""`quorem inspect` of plan directories: facts counted by hand, plans side by side, and refusals."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import searched
from quorem.command import main
from quorem.protos import manifest, plan_directory
from quorem.protos import manifest_pb2 as pb

NAMES = ["price", "user", "ad", "cité 🦆", "brand", "shop", "zone"]  # in schema order


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return searched.write(tmp_path / "plans" / "1")


def facts_of(capsys: pytest.CaptureFixture[str], *paths: Path) -> dict[str, Any]:
    assert main(["inspect", *map(str, paths), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out, parse_constant=pytest.fail)


def refusal_of(capsys: pytest.CaptureFixture[str], *paths: Path) -> dict[str, str]:
    assert main(["inspect", *map(str, paths), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    told = json.loads(captured.err)
    assert told["rule"]
    assert told["remedy"]
    return told


# ---------------------------------------------------------------- one plan


def test_the_facts_of_a_plan_counted_by_hand(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = facts_of(capsys, plan)
    assert [facts[key] for key in ("kind", "path", "method", "model", "seed")] == [
        *("plan", str(plan), "autodim", "deepfm", 1),
    ]
    assert (facts["format_version"], facts["verified"]) == (1, True)
    assert [file["name"] for file in facts["files"]] == ["plan.json"]
    assert (facts["valid"], facts["test"]) == ({"auc": 0.75, "logloss": 0.5}, {"auc": 0.5})
    fields = {each["feature"]: each for each in facts["fields"]}
    assert list(fields) == NAMES
    assert fields["user"] == {
        "feature": "user",
        "cardinality": 100,
        "dim": 4,
        "candidates": [2, 4, 8],
        "probabilities": {"2": 0.125, "4": 0.75, "8": 0.125},
        "probability": 0.75,
        "margin": 0.625,
        "widest_bytes": 29 * 8 * 4,
        "saved_bytes": 29 * 4 * 4,
        "embedding": {
            "scheme": "quotient_remainder",
            "combine": "mult",
            "hidden": 0,
            "dim": 4,
            "tables": [
                {"divide": 1, "rows": 25, "dim": 4, "classes": False, "bits": 0},
                {"divide": 25, "rows": 4, "dim": 4, "classes": False, "bits": 0},
            ],
            "complementary": True,
            "collisions": 0,
            "bytes": 29 * 4 * 4,
            "full_bytes": 100 * 4 * 4,
            "compression": 100 / 29,
        },
    }
    held = {
        "price": 5 * 2,
        "user": 29 * 4,
        "ad": 1000 * 4,
        "cité 🦆": 6 * 2,  # two tables of half the dim
        "brand": 7 * 8,
        "shop": 4 * 2 + 6 * 12,  # a path's functions of dim 2 with 2 hidden: 4 + 2 + 4 + 2 weights
        "zone": 9 * 4,  # three tables that are features each
    }
    widest = {
        "price": 5 * 8,
        "user": 29 * 8,
        "ad": 1000 * 8,
        "cité 🦆": 6 * 4,
        "brand": 7 * 8,
        "shop": 4 * 8 + 6 * 42,  # 16 + 2 + 16 + 8
        "zone": 9 * 8,
    }
    classes = {"brand": 2 * 12 * 4}
    for name in NAMES:
        assert fields[name]["embedding"]["bytes"] == held[name] * 4 + classes.get(name, 0), name
        assert fields[name]["widest_bytes"] == widest[name] * 4 + classes.get(name, 0), name
        assert fields[name]["saved_bytes"] == (widest[name] - held[name]) * 4, name
    assert (fields["zone"]["dim"], fields["zone"]["embedding"]["dim"]) == (4, 12)
    assert (fields["shop"]["margin"], fields["brand"]["margin"]) == (0.125, 0.25)
    all_held, all_widest = (sum(each.values()) * 4 + 96 for each in (held, widest))
    assert facts["tables"] == {
        "bytes": all_held,
        "widest_bytes": all_widest,
        "saved_bytes": all_widest - all_held,
        "compression": all_widest / all_held,
    }
    assert facts["parameters"] == {"embedding": sum(held.values()), "first_order": 1066}


def test_a_reader_sees_the_same_facts_and_a_chart(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(plan)]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [line.split() for line in lines]
    assert lines[0].startswith(f"plan {plan}: autodim with deepfm, seed 1, schema ")
    assert lines[1] == "1 file verified: sizes and sha256 digests are those of the search"
    told = "user 100 quotient remainder (1,25) (25,4) mult 4 0.750 0.625 464 B 464 B"
    assert told.split() in words
    bars = {line.split("█")[0].strip(): line for line in lines if "█" in line}
    assert [(bar.count("█"), bar.count("·"), bar.split()[-3:]) for bar in map(bars.get, NAMES) if bar] == [
        (8, 24, ["2", "of", "8"]),
        *[(16, 16, ["4", "of", "8"])] * 3,
        (32, 0, ["8", "of", "8"]),
        (8, 24, ["2", "of", "8"]),
        (16, 16, ["4", "of", "8"]),
    ]
    assert "embedding tables: 16.9 KiB, 17.2 KiB less than with the widest candidates, 2.0x smaller" in lines
    assert "parameters: embedding 4,310, first_order 1,066" in lines
    assert lines[-2:] == ["valid: auc 0.75, logloss 0.5", "test: auc 0.5"]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_pipe_gets_plain_text_in_its_encoding(plan: Path, encoding: str) -> None:
    command = [sys.executable, "-m", "quorem", "inspect", str(plan)]
    found = subprocess.run(
        command, env={"COLUMNS": "20", "PYTHONIOENCODING": encoding}, capture_output=True, check=True
    )
    text = found.stdout.decode(encoding)
    assert "\x1b" not in text
    assert "(1,25) (25,4)" in text
    assert ("#" * 16 + "." * 16 + " 4 of 8" in text) == (encoding == "ascii")
    assert ("cité 🦆" in text) == (encoding == "utf-8")


def test_what_no_search_told_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = searched.make_plan()
    search = searched.make_search(made)
    search.method = "mixed"
    for part in ("valid_metrics", "test_metrics"):
        search.ClearField(part)
    for choice in search.choices:
        choice.ClearField("candidates")
        choice.ClearField("probabilities")
    plan_directory.write_plan(tmp_path, made, search)
    facts = facts_of(capsys, tmp_path)
    assert (facts["valid"], facts["test"], facts["tables"]["saved_bytes"]) == ({}, {}, None)
    for each in facts["fields"]:
        assert [each[key] for key in ("probabilities", "probability", "margin", "saved_bytes")] == [None] * 4
    assert main(["inspect", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "embedding tables: 16.9 KiB" in lines
    assert [line.split()[1:] for line in lines if line.startswith("brand")][1] == ["█" * 32, "8"]


def test_a_candidate_may_be_as_wide_as_a_message_can_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path's functions of that dim have more weights than a table's dim can be."""
    made, widest = searched.make_plan(), 2**32 - 1
    search = searched.make_search(made)
    for choice in search.choices:
        choice.candidates[-1] = max(widest * (choice.dim != 8), 8)
    plan_directory.write_plan(tmp_path, made, search)
    fields = {each["feature"]: each for each in facts_of(capsys, tmp_path)["fields"]}
    assert fields["shop"]["widest_bytes"] == 4 * (4 * widest + 6 * (2 * 2 * widest + 2 + widest))
    assert main(["inspect", str(tmp_path)]) == 0


def test_nothing_that_a_terminal_obeys_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = searched.make_plan()
    search = searched.make_search(made)
    search.method, search.model = "\x1b[2Jgone", "[red]x[/]"
    search.valid_metrics["auc"] = float("nan")
    plan_directory.write_plan(tmp_path, made, search)
    assert facts_of(capsys, tmp_path)["valid"]["auc"] is None
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"\x1b[2Jgone with [red]x[/]" in out
    assert "valid: auc nan" in out


def test_either_file_names_the_directory(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("plan.json", "search.json"):
        assert facts_of(capsys, plan / name) == facts_of(capsys, plan)


def test_what_cannot_be_trusted_is_refused(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (plan / "plan.json").write_bytes((plan / "plan.json").read_bytes() + b"\n")
    assert refusal_of(capsys, plan)["error"] == "WrongDigest"
    (plan / "search.json").unlink()
    told = refusal_of(capsys, plan)
    assert (told["error"], told["where"]) == ("MissingFile", str(plan))
    assert "search that has ended" in told["remedy"]


# ---------------------------------------------------------------- several plans


@pytest.fixture
def plans(plan: Path) -> list[Path]:
    """Plans of three seeds, the second and third of which chose other dims for some fields."""
    others = {"2": {"price": 4, "user": 8}, "3": {"ad": 2}}
    return [plan] + [
        searched.write(plan.with_name(name), {**searched.DIMS, **dims}, seed=int(name)) for name, dims in others.items()
    ]


def test_plans_side_by_side(plans: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    facts = facts_of(capsys, *plans)
    assert facts["kind"] == "plans"
    assert [(each["path"], each["seed"]) for each in facts["plans"]] == [(str(p), n) for n, p in enumerate(plans, 1)]
    assert [each["parameters"]["embedding"] for each in facts["plans"]] == [4310, 4310 + 10 + 116, 4310 - 2000]
    fields = {each["feature"]: each for each in facts["fields"]}
    assert list(fields) == NAMES
    assert fields["user"] == {
        "feature": "user",
        "cardinality": 100,
        "candidates": [2, 4, 8],
        "dims": [4, 8, 4],
        "bits": [0, 0, 0],
        "rows": [[25, 4]] * 3,
        "mode": 4,
        "mode_share": 2 / 3,
    }
    assert [each["mode"] for each in fields.values()] == [2, 4, 4, 4, 8, 2, 4]
    assert facts["mode_share"] == pytest.approx((4 + 3 * 2 / 3) / 7)
    x, y, z = [2, 4, 4, 4, 8, 2, 4], [4, 8, 4, 4, 8, 2, 4], [2, 4, 2, 4, 8, 2, 4]
    expected = [by_hand(x, y), by_hand(x, z), by_hand(y, z)]
    pearson = facts["pearson"]
    assert [each["plans"] for each in pearson["pairs"]] == [[0, 1], [0, 2], [1, 2]]
    assert [each["pearson"] for each in pearson["pairs"]] == pytest.approx(expected)
    assert pearson["mean"] == pytest.approx(sum(expected) / 3)
    assert (pearson["min"], pearson["max"]) == pytest.approx((min(expected), max(expected)))
    assert pearson["reported"] == 0.85


def by_hand(x: list[int], y: list[int]) -> float:
    """Pearson's r = (n Sxy - Sx Sy) / sqrt((n Sxx - Sx^2) (n Syy - Sy^2))."""

    def centred(a: list[int], b: list[int]) -> int:
        return len(a) * sum(p * q for p, q in zip(a, b, strict=True)) - sum(a) * sum(b)

    return centred(x, y) / (centred(x, x) * centred(y, y)) ** 0.5


def test_a_reader_sees_plans_side_by_side(plans: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *map(str, plans)]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [line.split() for line in lines]
    assert lines[0] == "3 plans of 7 fields"
    assert ["2", str(plans[1]), "autodim", "deepfm", "2", "4,436"] in words
    assert ["feature", "ids", "1", "2", "3", "mode", "share"] in words
    assert ["user", "100", "4", "8", "4", "4", "67%"] in words
    assert lines[-2] == "share of plans that chose a field's most frequent dim: 86% on average"
    assert lines[-1] == (
        "Pearson correlation of dims over fields: 0.806 on average (0.735 to 0.935, 3 of 3 pairs of plans); "
        "Zhao et al. (WWW'21) report about 0.85"
    )


def test_dims_that_are_all_the_same_have_no_correlation(plans: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    flat = searched.write(plans[0].with_name("flat"), dict.fromkeys(NAMES, 4))
    facts = facts_of(capsys, plans[0], flat)
    assert facts["pearson"] == {
        "mean": None,
        "min": None,
        "max": None,
        "pairs": [{"plans": [0, 1], "pearson": None}],
        "reported": 0.85,
    }
    assert facts_of(capsys, *plans[:2], flat)["pearson"]["pairs"][0]["pearson"] is not None
    assert main(["inspect", str(plans[0]), str(flat)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(": none, where the dims of a plan are all the same")
    assert main(["inspect", *map(str, plans[:2]), str(flat)]) == 0
    assert "1 of 3 pairs of plans" in capsys.readouterr().out


def test_equally_frequent_dims_have_the_smallest_as_their_mode(
    plans: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for pair in (plans[:2], plans[1::-1]):
        user = facts_of(capsys, *pair)["fields"][1]
        assert (user["mode"], user["mode_share"]) == (4, 0.5)


def test_dims_by_popularity_stand_beside_dims_that_were_chosen(
    plans: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    made, search = plan_directory.read_plan(plans[1])
    search.method = "mixed"
    for choice in search.choices:
        choice.ClearField("candidates")
        choice.ClearField("probabilities")
    mixed = plans[0].with_name("mixed")
    plan_directory.write_plan(mixed, made, search)
    for several in ([mixed, *plans[:2]], [*plans[:2], mixed]):
        user = facts_of(capsys, *several)["fields"][1]
        assert (user["candidates"], sorted(user["dims"])) == ([2, 4, 8], [4, 8, 8])
    assert facts_of(capsys, mixed, mixed)["fields"][1]["candidates"] == []


def test_plans_of_other_fields_or_candidates_do_not_stand_side_by_side(
    plans: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    made = searched.make_plan()
    search = searched.make_search(made)
    for choice in search.choices:
        choice.candidates[:] = [2, 4, 8, 16]
        choice.probabilities.append(0)
    other = plans[0].with_name("other")
    plan_directory.write_plan(other, made, search)
    told = refusal_of(capsys, plans[0], other)
    assert (told["error"], told["where"]) == ("PlanError", str(other))
    assert told["found"] == (f"'price': 5 ids, candidates [2, 4, 8, 16]; in {plans[0]}: 5 ids, candidates [2, 4, 8]")
    made, search = plan_directory.read_plan(plans[0])
    for part in (made.fields, made.first_order, search.choices):
        del part[[each.feature for each in part].index("user")]
    del search.schema.features[[each.name for each in search.schema.features].index("user")]
    fewer = plans[0].with_name("fewer")
    plan_directory.write_plan(fewer, made, search)
    for pair in ((plans[0], fewer), (fewer, plans[0])):
        told = refusal_of(capsys, *pair)
        assert told["found"].startswith("'user': ")
        assert "no such field" in told["found"]
    made, search = plan_directory.read_plan(plans[0])
    search.schema.CopyFrom(pb.Schema(features=list(search.schema.features)[::-1]))
    plan_directory.write_plan(plans[0].with_name("turned"), made, search)
    assert "one order" in refusal_of(capsys, plans[0], plans[0].with_name("turned"))["rule"]


def test_a_directory_that_nothing_has_finished_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.toml").write_text("")
    told = refusal_of(capsys, tmp_path)
    assert (told["error"], told["where"]) == ("MissingFile", str(tmp_path))
    assert "manifest.json" in told["rule"]
    assert "search.json" in told["rule"]


def test_runs_are_inspected_one_at_a_time(
    plans: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import every_kind

    run = tmp_path / "run"
    run.mkdir()
    every_kind.write(run)
    for paths in ((plans[0], run), (run, plans[0]), (run, run), (plans[0], tmp_path / "absent")):
        told = refusal_of(capsys, *paths)
        assert "one at a time" in told["rule"]
        assert told["where"] in (str(run), str(tmp_path / "absent"))
    assert facts_of(capsys, run)["kind"] == "run"
    (run / "plan.json").write_text("{}")  # beside a manifest it makes no plan directory
    assert facts_of(capsys, run)["kind"] == "run"
    assert manifest.read(run).net.model == "deepfm"
