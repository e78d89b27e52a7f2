"""`quorem inspect`: the facts of a golden run counted by hand, and refusals that tell what to do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from quorem.command import main
from quorem.protos import manifest, packing
from quorem.protos import manifest_pb2 as pb

GOLDEN = Path(__file__).parent / "golden" / "manifest.json"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory: the golden manifest and one file."""
    directory = tmp_path / "runs" / "qr"
    directory.mkdir(parents=True)
    (directory / "weights.safetensors").write_bytes(b"x" * 2048)
    golden = manifest.parse(GOLDEN.read_bytes(), "golden")
    golden.files.extend(manifest.describe_files(directory, ["weights.safetensors"]))
    manifest.write(directory, golden)
    return directory


def facts_of(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["inspect", str(path), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out, parse_constant=pytest.fail)


def test_the_facts_of_a_run_counted_by_hand(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = facts_of(run, capsys)
    assert (facts["kind"], facts["model"], facts["format_version"]) == ("run", "deepfm", 1)
    assert facts["verified"] is True
    features = {feature["name"]: feature for feature in facts["features"]}
    assert list(features) == ["age", "income", "price", "user", "ad", "cité 🦆", "brand", "shop", "zone"]
    assert features["age"]["embedding"] is None
    assert features["user"] == {
        "name": "user",
        "side": "context",
        "values": "integer",
        "encoding": "id",
        "first": 0,
        "bag": None,
        "reserve": None,
        "cardinality": 100,
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
        "first_order": {
            "scheme": "quotient_remainder",
            "combine": "add",
            "hidden": 0,
            "dim": 1,
            "tables": [
                {"divide": 1, "rows": 25, "dim": 1, "classes": False, "bits": 0},
                {"divide": 25, "rows": 4, "dim": 1, "classes": False, "bits": 0},
            ],
            "complementary": True,
            "collisions": 0,
            "bytes": 29 * 4,
            "full_bytes": 100 * 4,
            "compression": 100 / 29,
        },
    }
    assert features["cité 🦆"]["bag"] == {"max_length": 3, "pooling": "mean"}
    assert features["ad"]["embedding"]["complementary"] is False
    assert features["ad"]["embedding"]["collisions"] == 2**33 - 1000
    assert [table["classes"] for table in features["brand"]["embedding"]["tables"]].count(True) == 2
    assert features["shop"]["embedding"]["combine"] == "path"
    assert (features["shop"]["embedding"]["hidden"], features["shop"]["embedding"]["collisions"]) == (2, 12)
    rows = 5 * 4 + 29 * 4 + 1000 * 4 + 6 * 2  # price, user, ad; the words' two tables have dim 2
    rows += 7 * 4 + (4 * 4 + 6 * 22) + 9 * 4  # brand; shop and its functions; zone
    layers = (2 + 1) + (38 * 8 + 8) + 4 * 8 + (8 * 5 + 5) + 4 * 5 + (5 + 1)
    first_order, classes = 5 + 29 + 1000 + 6 + 7 + 10 + 9, 2 * 12  # every brand has a class in each of two tables
    assert facts["parameters"] == {"embedding": rows, "first_order": first_order, "layers": layers}
    full = (5 + 100 + 2**33 + 7 + 12 + 24 + 20) * 4 * 4
    assert facts["tables"] == {
        "bytes": (rows + classes) * 4,
        "full_bytes": full,
        "compression": full / ((rows + classes) * 4),
        "first_order_bytes": first_order * 4,
        "ids": 5 + 100 + 2**33 + 7 + 12 + 24 + 20,
        "collisions": 2**33 - 1000 + 12,
    }
    assert [layer["name"] for layer in facts["layers"]][-2:] == ["mlp.out", "logit"]
    assert facts["layers"][4] == {
        "name": "mlp.0",
        "kind": "linear",
        "inputs": ["mlp.input"],
        "width": 8,
        "parameters": 312,
    }
    assert facts["training"]["test_metrics"] == {"auc": 0.7421875, "logloss": 0.1}
    assert facts["training"]["train_rows"] == 800
    assert facts["export"] is None
    assert [(file["name"], file["bytes"]) for file in facts["files"]] == [("weights.safetensors", 2048)]


def test_a_bundle_says_where_it_came_from_and_what_is_no_number_is_null(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = manifest.read(run)
    places = [pb.ClassArray(feature="brand", table=1, offset=4096)]
    bundle.export.CopyFrom(pb.Export(run_sha256="ab" * 32, parity_bound=1e-5, slots=5, dense=3, class_arrays=places))
    bundle.training.test_metrics["grouped_auc"] = float("nan")
    manifest.write(run, bundle)
    facts = facts_of(run, capsys)
    assert facts["kind"] == "bundle"
    assert facts["export"] == {
        "run_sha256": "ab" * 32,
        "parity_bound": 1e-5,
        "table_bytes": 0,
        "slots": 5,
        "dense": 3,
        "class_arrays": [{"feature": "brand", "table": 1, "offset": 4096}],
        "precision": None,
        "codes": [],
        "table_codes": [],
        "int8_layers": [],
        "graphs": [],
        "no_rank": None,
        "parts": [],
        "candidates": [],
    }
    assert main(["inspect", str(run)]) == 0
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["brand", "1", "4,096"] in told
    assert facts["training"]["test_metrics"]["grouped_auc"] is None


def test_a_reader_sees_the_same_facts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [line.split() for line in lines]
    assert lines[1] == "1 file verified: sizes and sha256 digests are those of the manifest"
    assert ["user", "context", "integer", "id", "100"] in words
    assert ["user", "quotient", "remainder", "(1,25)", "(25,4)", "mult", "4", "464", "B", "1.6", "KiB", "3.4x"] in words
    assert "8,589,933,604 of 8,589,934,760 ids collide: they share every row with another id" in lines
    assert ["mlp.0", "linear", "mlp.input", "8", "312"] in words
    assert ["test_metrics.auc", "0.742188"] in words
    digest = manifest.sha256_of(run / "weights.safetensors")
    assert ["weights.safetensors", "2.0", "KiB", digest] in words


def test_tables_of_few_bits_are_told_with_their_bits(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = manifest.read(run)
    for table in next(each for each in made.plan.fields if each.feature == "user").tables:
        table.bits = 3
    fields = packing.pack(made.plan.fields)
    del made.plan.fields[:]
    made.plan.fields.extend(fields)
    manifest.write(run, made)
    (user,) = (each["embedding"] for each in facts_of(run, capsys)["features"] if each["name"] == "user")
    assert [table["bits"] for table in user["tables"]] == [3, 3]
    assert user["bytes"] == 29 * (1 + 1) + 2 * 4 * 4
    assert main(["inspect", str(run)]) == 0
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["mult", "4", "3", "90", "B", "1.6", "KiB", "17.8x"] in [line[5:] for line in words]


def test_a_pipe_gets_plain_text_whole(run: Path) -> None:
    """In a process of its own, with 20 columns: nothing is cut, folded or coloured."""
    found = subprocess.run(
        [sys.executable, "-m", "quorem", "inspect", str(run)],
        env={"COLUMNS": "20", "PYTHONUTF8": "1"},
        capture_output=True,
        check=True,
    )
    text = found.stdout.decode()
    assert "\x1b" not in text
    assert manifest.sha256_of(run / "weights.safetensors") in text
    assert "(1,25) (25,4)" in text


def test_nothing_that_a_terminal_obeys_is_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = manifest.read(run)
    hostile.training.source, hostile.net.model, hostile.training.label = "\x1b[2Jgone", "\x1b]0;mine\x07", "[red]x[/]"
    manifest.write(run, hostile)
    assert main(["inspect", str(run)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"\x1b[2Jgone" in out
    assert "[red]x[/]" in out


def test_the_manifest_itself_can_be_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert facts_of(run / "manifest.json", capsys) == facts_of(run, capsys)


def test_a_model_of_several_versions_is_told_to_name_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = run.parent / "ctr"
    for version in ("2", "10"):
        (model / version).mkdir(parents=True)
        (model / version / "manifest.json").write_text("{}")
    assert main(["inspect", str(model)]) == 2
    told = capsys.readouterr().err
    assert "versions 2, 10" in told
    assert f"Name one, as in {model / '10'}." in told


@pytest.mark.parametrize("broken", ["absent", "empty", "changed"])
def test_what_cannot_be_trusted_is_refused(broken: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, error = run, "WrongDigest"
    if broken == "changed":
        (run / "weights.safetensors").write_bytes(b"y" * 2048)
    else:
        path, error = run.parent / broken, "MissingFile"
    if broken == "empty":
        path.mkdir()
    assert main(["inspect", str(path), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    told = json.loads(captured.err)
    assert told["error"] == error
    assert told["where"].startswith(str(path))
    assert told["remedy"]
