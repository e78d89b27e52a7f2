"""The client and `quorem score`: files of every format give the golden scores, and bad ones are told by line."""

import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from quorem.command import main
from quorem.protos import manifest_pb2 as pb
from quorem.protos.encode import Column
from quorem.protos.errors import InputError, TooLarge, Unavailable, WrongType
from quorem.serve.client import Client
from served import ROWS, Rows, Served, quorem


def cells(golden: Rows) -> list[dict[str, Any]]:
    """The golden rows as objects: None where a value is missing, a list for a bag."""
    rows = [dict[str, Any]() for _ in range(ROWS)]
    for name, column in golden.columns.items():
        values: list[Any]
        if column.strings is not None:
            values = [each.decode() for each in column.strings]
        elif column.integers is not None:
            values = column.integers.tolist()
        else:
            assert column.floats is not None
            values = [None if np.isnan(each) else float(str(each)) for each in column.floats]
        if column.missing is not None:
            values = [None if flag else value for value, flag in zip(values, column.missing, strict=True)]
        start = 0
        for row in range(ROWS):
            if column.lengths is None:
                rows[row][name] = values[row]
            else:
                rows[row][name] = values[start : start + column.lengths[row]]
                start += column.lengths[row]
    return rows


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    def text(name: str, value: Any) -> str:
        if isinstance(value, list):  # `tags` has a delimiter of its own, as its recipe had
            value = ("|" if name == "tags" else " ").join(str(each) for each in value)
        return "" if value is None else f'"{value}"'

    lines = [",".join(["label", *rows[0]])] + [",".join(["0", *(text(*cell) for cell in row.items())]) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_json(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rows(golden: Rows) -> list[dict[str, Any]]:
    """The golden rows, without the empty string, which a CSV cannot tell from a missing value."""
    found = cells(golden)
    for row in found:
        row["tags"] = [each for each in row["tags"] if each]
    return found


@pytest.fixture(scope="module")
def expected(server: Served, golden: Rows, rows: list[dict[str, Any]]) -> np.ndarray:
    """Their scores, by the client."""
    tags = [each.encode() for row in rows for each in row["tags"]]
    lengths = np.array([len(row["tags"]) for row in rows], np.int64)
    with Client(server.address) as client:
        return client.score("ctr", golden.columns | {"tags": Column(strings=tags, lengths=lengths)}, ROWS).scores


Score = Callable[..., "Said"]


@dataclass(frozen=True)
class Said:
    """What a command printed."""

    stdout: str
    stderr: str


@pytest.fixture
def score(capsys: pytest.CaptureFixture[str]) -> Score:
    """`quorem score` in this process; its exit status must be `status`."""

    def run(*arguments: str | Path, status: int = 0) -> Said:
        found = main(["score", *map(str, arguments)])
        said = Said(*capsys.readouterr())
        assert found == status, said
        return said

    return run


def test_a_csv_prints_row_and_score(server: Served, rows: list[dict[str, Any]], expected: np.ndarray, tmp_path: Path):
    path = write_csv(tmp_path / "rows.csv", rows)
    lines = quorem("score", server.address, path, "--ignore", "label", "--batch", "7").stdout.splitlines()
    assert [int(line.split("\t")[0]) for line in lines] == list(range(ROWS))
    np.testing.assert_allclose([np.float32(line.split("\t")[1]) for line in lines], expected, rtol=1e-6)


def test_json_lines_are_scored_into_files(
    score: Score, server: Served, rows: list[dict[str, Any]], expected: np.ndarray, tmp_path: Path
):
    path = write_json(tmp_path / "rows.jsonl", rows)
    done = score(server.address, path, "--out", tmp_path / "out.csv")
    assert done.stdout == f"{ROWS} rows scored by ctr/1, written to {tmp_path / 'out.csv'}\n"
    table = np.loadtxt(tmp_path / "out.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(table[:, 0], np.arange(ROWS))
    np.testing.assert_array_equal(table[:, 1].astype(np.float32), expected)
    facts = json.loads(score(server.address, path, "--out", tmp_path / "out.jsonl", "--json").stdout)
    assert facts == {
        "model": "ctr",
        "version": 1,
        "rows": ROWS,
        "output": "probability",
        "out": f"{tmp_path}/out.jsonl",
    }
    objects = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [each["row"] for each in objects] == list(range(ROWS))
    np.testing.assert_array_equal(np.array([each["score"] for each in objects], np.float32), expected)


def test_parquet_is_scored_as_logits(
    score: Score, server: Served, golden: Rows, rows: list[dict[str, Any]], expected: np.ndarray, tmp_path: Path
):
    table = pa.Table.from_pylist(rows).append_column("label", pa.array([0] * ROWS))
    pq.write_table(table.set_column(4, "seen", table["seen"].cast(pa.list_(pa.int32()))), tmp_path / "rows.parquet")
    arguments = ("--ignore", "label", "--version", "1", "--logit", "--json")
    facts = json.loads(score(server.address, tmp_path / "rows.parquet", *arguments).stdout)
    assert facts["output"] == "logit"
    logits = np.array(facts["scores"], np.float64)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected, rtol=1e-5)


def with_value(name: str, value: object) -> Callable[[list[dict[str, Any]]], object]:
    return lambda rows: rows[2].update({name: value})


JSON = {
    "an unknown column": (with_value("colour", 1), r"line 3: every column .*'colour'.*--ignore colour"),
    "a column left out": (lambda rows: rows[2].pop("city"), r"line 3: .*no column 'city'"),
    "a word for an integer": (with_value("user", "ann"), r"line 3, column 'user': .*takes an integer.*'ann'"),
    "a fraction for an integer": (with_value("city", 1.5), "'city': .*takes an integer.*1.5"),
    "an integer beyond 64 bits": (with_value("city", 2**63), "'city': .*fits 64 bits"),
    "an integer beyond all bounds": (with_value("city", "9" * 5000), "'city': .*takes an integer"),
    "a number for a string": (with_value("item", 7), "'item': .*takes a string"),
    "half a character": (with_value("item", "\ud800"), "'item': .*takes a string"),
    "a word for a number": (with_value("price", "cheap"), "'price': .*takes a number"),
    "a number for a bag": (with_value("tags", 7), "'tags': .*takes a list"),
    "a list in a bag": (with_value("tags", [["a"]]), "'tags': .*takes a string"),
    "an id out of range": (with_value("user", 1000), r"rows 0 to 63 \(from 0\): .*\[0, 1000\)"),
    "a bag too long": (with_value("seen", [1, 2, 3, 4]), "row 2: .*at most 3 items"),
    "infinity": (with_value("price", 1e300), "finite"),
}


@pytest.mark.parametrize("case", JSON)
def test_a_bad_row_is_told_by_its_line_and_nothing_is_written(
    score: Score, server: Served, rows: list[dict[str, Any]], tmp_path: Path, case: str
):
    change, reason = JSON[case]
    changed = [dict(row) for row in rows]
    change(changed)
    path = write_json(tmp_path / "rows.jsonl", changed)
    said = score(server.address, path, "--out", tmp_path / "out.csv", status=2).stderr
    assert re.search(reason, said), said
    assert [each.name for each in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("rows.csv", b"user,item\n1,2\n", "line 1: .*no column 'city'"),
        ("rows.csv", b"user,user\n", "line 1: .*no column|stands once"),
        ("rows.csv", b"\xff\xfe", "UTF-8"),
        ("rows.csv", b"", "line 1: .*no column"),
        ("rows.jsonl", b"[1]\n", "line 1: every line is a JSON object"),
        ("rows.jsonl", b'{"user": 1\n', "line 1: every line is a JSON object"),
        ("rows.jsonl", b'{"user": ' + b"9" * 5000 + b"}\n", "line 1: every line is a JSON object"),
        ("rows.jsonl", b"[" * 100_000, "line 1: every line is a JSON object"),
        ("rows.parquet", b"PAR1 not", "is Parquet"),
        ("rows.txt", b"", "ending in one of"),
        ("rows.csv", None, "no such file"),
    ],
)
def test_a_file_that_is_none_is_refused(
    score: Score, server: Served, tmp_path: Path, name: str, text: bytes | None, reason: str
):
    if text is not None:
        (tmp_path / name).write_bytes(text)
    said = score(server.address, tmp_path / name, status=2).stderr
    assert re.search(reason, said), said


def test_a_line_of_another_length_is_refused(score: Score, server: Served, golden: Rows, tmp_path: Path):
    names = ",".join(feature.name for feature in golden.schema.features)
    (tmp_path / "rows.csv").write_text(f"{names}\n{',' * 7}\n{',' * 8}\n")
    said = score(server.address, tmp_path / "rows.csv", status=2).stderr
    assert "line 3: a line has as many cells as the header" in said


def test_an_empty_file_has_no_scores(score: Score, server: Served, golden: Rows, tmp_path: Path):
    (tmp_path / "rows.csv").write_text(",".join(feature.name for feature in golden.schema.features) + "\n")
    assert score(server.address, tmp_path / "rows.csv").stdout == ""
    assert json.loads(score(server.address, tmp_path / "rows.csv", "--json").stdout)["scores"] == []


def test_a_server_that_is_not_there_is_named(score: Score, tmp_path: Path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        said = score(address, tmp_path / "rows.csv", "--json", status=2).stderr
        assert json.loads(said)["error"] == "Unavailable"
        assert json.loads(said)["where"] == address
        with Client(address) as client, pytest.raises(Unavailable, match=address):
            client.describe()


def test_what_is_not_served_is_told(score: Score, server: Served, tmp_path: Path):
    path = tmp_path / "rows.csv"
    assert "'other'" in score(server.address, path, "--model", "other", status=2).stderr
    assert "'stable'" in score(server.address, path, "--label", "stable", status=2).stderr
    assert "version 3" in score(server.address, path, "--version", "3", status=2).stderr
    assert ".csv" in score(server.address, path, "--out", tmp_path / "out.txt", status=2).stderr


def test_the_clients_errors_are_quorems(server: Served, golden: Rows):
    with Client(server.address) as client:
        with pytest.raises(InputError, match=rf"{server.address}: .*takes integers"):
            client.score("ctr", golden.take(1) | {"user": Column(floats=np.ones(1, np.float32))}, 1)
        with pytest.raises(WrongType, match="candidate ids are integers or strings"):
            client.score("ctr", golden.take(1), 1, candidate_ids=np.ones(1))


def test_a_message_above_the_servers_limit_is_told(server: Served, golden: Rows):
    names = Column(strings=[b"x" * (1 << 24)])
    with Client(server.address) as client, pytest.raises(TooLarge, match=r"larger than max.*Send fewer rows per call"):
        client.score("ctr", golden.take(1) | {"item": names}, 1)


def test_the_schema_has_every_kind_of_feature(golden: Rows):
    kinds = {feature.WhichOneof("encoding") for feature in golden.schema.features}
    assert kinds == {"id", "hash", "vocabulary", "bucket", "dense"}
    assert {feature.values for feature in golden.schema.features} == {pb.INTEGER, pb.STRING, pb.FLOAT}


def test_scores_do_not_replace_their_rows(score: Score, server: Served, rows: list[dict[str, Any]], tmp_path: Path):
    path = write_csv(tmp_path / "rows.csv", rows)
    before = path.read_bytes()
    score(server.address, path, "--ignore", "label", "--out", path, status=2)
    assert path.read_bytes() == before
