"""File sources: the same rows give the same tables from every layout, and a bad row is named."""

import csv
import gzip
import os
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from quorem.protos.errors import DataError
from quorem.train.data import DataConfig, Splits, read
from quorem.train.sources import delimited, libfm

DATA = Path(os.environ.get("QUOREM_DATA", "nowhere"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="QUOREM_DATA does not name the folder of real rows")

CRITEO = [*delimited.CRITEO_INTEGERS, *delimited.CRITEO_STRINGS]


def load(base: Path, file: str, columns, types=None, **section) -> Splits:
    """Rows of one file as train and as valid."""
    config = DataConfig.model_validate({"train": file, "valid": file, **section})
    return read(config, columns, base, types)


def refused(base: Path, file: str, columns, types=None, **section) -> DataError:
    with pytest.raises(DataError) as caught:
        load(base, file, columns, types, **section)
    assert caught.value.rule
    assert caught.value.remedy
    return caught.value


def as_tsv(table: pa.Table, path: Path) -> None:
    options = arrow_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with pa.output_stream(str(path)) as stream:  # compressed where the name says so
        arrow_csv.write_csv(table, stream, options)


@needs_data
@pytest.mark.parametrize("types", [{}, dict.fromkeys(delimited.CRITEO_INTEGERS, "float")], ids=["integers", "floats"])
def test_criteo_rows_are_the_same_from_parquet_and_text(tmp_path, types):
    splits = {}
    for name in ("train", "valid", "test"):
        table = pq.read_table(DATA / f"criteo_kaggle_14k/{name}.parquet").select(["label", *CRITEO])
        as_tsv(table, tmp_path / f"{name}.tsv")
        as_tsv(table, tmp_path / f"{name}.tsv.gz")
    assert gzip.decompress((tmp_path / "test.tsv.gz").read_bytes()) == (tmp_path / "test.tsv").read_bytes()
    for source, ending in (("parquet", ".parquet"), ("criteo", ".tsv"), ("criteo", ".tsv.gz")):
        base = DATA / "criteo_kaggle_14k" if source == "parquet" else tmp_path
        files = {name: f"{name}{ending}" for name in ("train", "valid", "test")}
        splits[ending] = read(DataConfig.model_validate({"source": source, **files}), CRITEO, base, types)
    expected = splits[".parquet"]
    assert expected.facts.rows == {"train": 11546, "valid": 1443, "test": 1444}
    kinds = {str(field.type) for field in expected.train.schema}
    assert kinds == ({"float", "string"} if types else {"float", "int64", "string"})
    assert expected.train["I1"].null_count == 5235
    assert expected.train["C22"].null_count == 9492
    for ending in (".tsv", ".tsv.gz"):
        for name in ("train", "valid", "test"):
            found, wanted = getattr(splits[ending], name), getattr(expected, name)
            assert found.schema.equals(wanted.schema, check_metadata=True)
            assert found.equals(wanted)
        assert splits[ending].facts.positives == expected.facts.positives
        assert splits[ending].facts.files == (f"train{ending}", f"valid{ending}", f"test{ending}")


@needs_data
def test_movielens_splits_by_time_as_it_was_published(monkeypatch):
    monkeypatch.setenv("QUOREM_DATA", str(DATA))
    split = {"by": "time", "column": "timestamp", "valid": 0.1, "test": 0.1}
    config = DataConfig.model_validate({"source": "parquet", "path": "$QUOREM_DATA/ml100k/*.parquet", "split": split})
    columns = ["user_id", "movie_title", "class"]
    whole = read(config, columns, Path())
    assert whole.facts.rows == {"train": 80000, "valid": 10000, "test": 10000}
    assert whole.train.column_names == [*columns, "label"], "the time is not a feature"
    assert whole.train.schema.field("class").type == pa.string()
    timed = read(config, [*columns, "timestamp"], Path())
    for name in ("train", "valid", "test"):
        published = pq.read_table(DATA / f"ml100k/{name}.parquet", columns=["timestamp"])["timestamp"].to_numpy()
        assert sorted(getattr(timed, name)["timestamp"].to_numpy()) == sorted(published)


@needs_data
def test_frappe_is_the_same_from_parquet_and_libfm(tmp_path):
    table = pq.read_table(DATA / "frappe/valid.parquet").slice(0, 5000)
    fields = [name for name in table.column_names if name != "label"]
    values = np.stack([table[name].to_numpy() for name in fields], axis=1)
    labels = np.where(table["label"].to_numpy() == 1, "1", "-1")
    lines = [" ".join([label, *(f"{value}:1" for value in row)]) for label, row in zip(labels, values, strict=True)]
    with gzip.open(tmp_path / "frappe.libfm.gz", "wt") as file:
        file.write("\n".join(lines))
    pq.write_table(table, tmp_path / "frappe.parquet")
    positions = [f"f{j}" for j in range(10)]
    text = load(tmp_path, "frappe.libfm.gz", positions, source="libfm").train
    known = load(tmp_path, "frappe.parquet", fields, source="parquet").train
    assert text.rename_columns([*fields, "label"]).equals(known)


words = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(words, st.integers(-(2**63), 2**63 - 1), st.floats(width=32, allow_infinity=False)), min_size=1),
    st.sampled_from([",", ";", "\t", "|"]),
)
def test_csv_and_parquet_of_the_same_rows_are_the_same(tmp_path_factory, rows, delimiter):
    base = tmp_path_factory.mktemp("rows")
    names, floats = ["label", "text", "id", "x"], [None if np.isnan(x) else x for _, _, x in rows]
    with (base / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerows([names, *((1, text, id_, "" if np.isnan(x) else repr(x)) for text, id_, x in rows)])
    table = pa.table(
        {
            "label": pa.array([True] * len(rows)),
            "text": pa.array([text or None for text, _, _ in rows], pa.large_string()).dictionary_encode(),
            "id": pa.array([id_ for _, id_, _ in rows], pa.int64()),
            "x": pa.array(floats, pa.float64()),
        }
    )
    pq.write_table(table, base / "rows.parquet")
    types = {"text": "string", "id": "integer", "x": "float"}
    text = load(base, "rows.csv", names[1:], types, source="csv", delimiter=delimiter)
    binary = load(base, "rows.parquet", names[1:], types, source="parquet")
    assert text.train.equals(binary.train)
    assert binary.train["id"].to_pylist() == [id_ for _, id_, _ in rows]


def write(base: Path, name: str, text: str | bytes) -> str:
    (base / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return name


def test_columns_come_in_the_order_asked_with_label_weight_and_group(tmp_path):
    write(tmp_path, "a.csv", "w,b,label,a,g\n1,x,0,7,u\n0.5,,1,,v\n")
    wanted = {"sample_weight": "w", "group": "g", "source": "csv"}
    table = load(tmp_path, "a.csv", ["a", "b", "a"], {"a": "integer"}, **wanted).train
    assert table.to_pydict() == {"a": [7, None], "b": ["x", None], "label": [0, 1], "w": [1, 0.5], "g": ["u", "v"]}
    assert [str(kind) for kind in table.schema.types] == ["int64", "string", "float", "float", "string"]
    grouped = load(tmp_path, "a.csv", ["g"], source="csv", group="g").train
    assert grouped.column_names == ["g", "label"]


def test_only_an_empty_field_is_missing(tmp_path):
    write(tmp_path, "a.csv", 'label,a,x\n0,NA,nan\n1,null,0\n1,"",\n0, ,-0.5\n')
    table = load(tmp_path, "a.csv", ["a", "x"], {"x": "float"}, source="csv").train
    assert table["a"].to_pylist() == ["NA", "null", None, " "]
    assert table["x"].to_pylist() == [None, 0, None, -0.5]


def test_rows_are_cut_where_asked(tmp_path):
    for day in range(3):
        write(tmp_path, f"day_{day}.csv", "label,a\n" + "".join(f"{day % 2},{day}{row}\n" for row in range(4)))
    section = {"source": "csv", "path": "day_*.csv", "split": {"by": "share", "valid": 0.25}}
    whole = read(DataConfig.model_validate(section), ["a"], tmp_path)
    part = read(DataConfig.model_validate({**section, "rows": 6}), ["a"], tmp_path)
    assert whole.facts.rows == {"train": 9, "valid": 3}
    assert whole.test is None
    assert sum(part.facts.positives.values()) == 2
    rows = part.train["a"].to_pylist() + part.valid["a"].to_pylist()
    assert sorted(rows) == ["00", "01", "02", "03", "10", "11"]
    few = {**section, "rows": 3}
    with pytest.raises(DataError, match="no row for valid of 3"):
        read(DataConfig.model_validate(few), ["a"], tmp_path)


LINE = "\t".join(["1", *["5"] * 13, *["68fd1e64"] * 26])


@pytest.mark.parametrize(
    ("source", "text", "types", "found", "where"),
    [
        ("csv", "label,a\n0,1\n1,2\n2,3\n", {}, "'2'", "row 3 of {file}, column 'label'"),
        ("csv", "label,a\n0,1\n,2\n", {}, "a missing value", "row 2 of {file}, column 'label'"),
        ("csv", "label,a\n0,1\nyes,2\n", {}, "'yes'", "row 2 of {file}, column 'label'"),
        ("csv", "label,a\n0.5,1\n", {}, "'0.5'", "row 1 of {file}, column 'label'"),
        ("csv", "label,a\n0,1\n1,x7\n", {"a": "integer"}, "'x7'", "row 2 of {file}, column 'a'"),
        ("csv", "label,a\n0,1\n1,1.5\n", {"a": "integer"}, "'1.5'", "row 2 of {file}, column 'a'"),
        ("csv", f"label,a\n0,{2**63}\n", {"a": "integer"}, f"'{2**63}'", "row 1 of {file}, column 'a'"),
        ("csv", 'label,a\n0,"1\n2"\n1,1;5\n', {"a": "float"}, "'1\\n2'", "row 1 of {file}, column 'a'"),
        ("csv", "label,a\n0,1e39\n", {"a": "float"}, "'1e39'", "row 1 of {file}, column 'a'"),
        ("csv", "label,a\n0,-inf\n", {"a": "float"}, "'-inf'", "row 1 of {file}, column 'a'"),
        ("csv", "label,a\n0,1\n1\n", {}, "1 fields instead of 2 in '1'", "row 2 of {file}"),
        ("csv", "label,a\n0,1\n1,2,3\n", {}, "3 fields instead of 2 in '1,2,3'", "row 2 of {file}"),
        ("csv", "label,a,a\n0,1,1\n", {}, "2 columns 'a'", "{file}"),
        ("csv", "label,aa,b\n0,1,1\n", {}, "no column 'a' (did you mean 'aa'?); there are label, aa, b", "{file}"),
        ("csv", "label,a\n", {}, "no row", "{file}"),
        ("csv", "", {}, "Empty CSV file", "{file}"),
        ("csv", b"label,a\n0,\xff\n", {}, "invalid UTF8 data", "{file}"),
        ("csv", "label;a\n0;1\n", {}, "no column 'a'; there are label;a", "{file}"),
        ("criteo", f"{LINE}\n{LINE}\tx\n", {}, "41 fields instead of 40", "row 2 of {file}"),
        ("criteo", f"{LINE}\n{LINE[2:]}\n", {}, "39 fields instead of 40", "row 2 of {file}"),
        ("criteo", LINE.replace("5", "0x", 1), {"I1": "integer"}, "'0x'", "row 1 of {file}, column 'I1'"),
        ("criteo", f"{LINE}\n3{LINE[1:]}", {}, "'3'", "row 2 of {file}, column 'label'"),
        ("libfm", "1 4:1 5:1\n\n0 4:1\n", {}, "1 ids", "line 3 of {file}"),
        ("libfm", "1 4:1 5:1\n0 4:1 5:2\n", {}, "'5:2'", "line 2 of {file}, column 'f1'"),
        ("libfm", "1 4:1 5:1\n0 -4:1 5:1\n", {}, "'-4:1'", "line 2 of {file}, column 'f0'"),
        ("libfm", "1 4:1 5:1\n\n2 4:1 5:1\n", {}, "'2'", "line 3 of {file}, column 'label'"),
        ("libfm", "1 4:1\n", {}, "no column 'f1'; there are label, f0", "{file}"),
        ("libfm", b"1 4:1 \xff:1\n", {}, "can't decode", "{file}"),
        ("libfm", "\n", {}, "no row", "{file}"),
        ("parquet", "label,a\n0,1\n", {}, "Parquet magic bytes not found", "{file}"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path, source, text, types, found, where):
    write(tmp_path, "file", text)
    columns = {"csv": ["a"], "criteo": ["I1"], "libfm": ["f0", "f1"], "parquet": ["a"]}[source]
    error = refused(tmp_path, "file", columns, types, source=source)
    assert found in error.found
    assert error.where == where.format(file=tmp_path / "file")


def test_a_row_is_counted_over_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK", 64)
    monkeypatch.setattr(libfm, "LINES", 7)
    write(tmp_path, "a.csv", "label,a\n" + "0,1\n" * 100 + "1,z\n")
    write(tmp_path, "b.csv", "label,a\n" + "0,1\n" * 100 + "1\n")
    write(tmp_path, "a.libfm", "0 1:1\n" * 100 + "0 z:1\n")
    place = refused(tmp_path, "a.csv", ["a"], {"a": "integer"}, source="csv").where
    assert place == f"row 101 of {tmp_path}/a.csv, column 'a'"
    assert refused(tmp_path, "b.csv", ["a"], source="csv").where == f"row 101 of {tmp_path}/b.csv"
    assert refused(tmp_path, "a.libfm", ["f0"], source="libfm").where == f"line 101 of {tmp_path}/a.libfm, column 'f0'"


@pytest.mark.parametrize("source", ["csv", "libfm"])
def test_a_broken_gzip_stream_is_named(tmp_path, source):
    text = "label,a\n" + "0,1\n" * 50000 if source == "csv" else "0 17:1\n" * 50000
    whole = gzip.compress(text.encode())
    column = "a" if source == "csv" else "f0"
    for name, content in (("cut.gz", whole[: len(whole) // 2]), ("plain.gz", text.encode())):
        write(tmp_path, name, content)
        assert refused(tmp_path, name, [column], source=source).where == str(tmp_path / name)
    write(tmp_path, "whole.gz", whole)
    assert load(tmp_path, "whole.gz", [column], source=source).facts.rows["train"] == 50000


def parquet(base: Path, name: str, **columns) -> str:
    rows = len(next(iter(columns.values())))
    pq.write_table(pa.table({"label": pa.array([0] * rows, pa.int8()), **columns}), base / name)
    return name


@pytest.mark.parametrize(
    ("column", "types", "expected"),
    [
        (pa.array([1, None, 127], pa.int8()), {}, pa.array([1, None, 127], pa.int64())),
        (pa.array([2**63 - 1], pa.uint64()), {}, pa.array([2**63 - 1], pa.int64())),
        (pa.array([True, None]), {}, pa.array([1, None], pa.int64())),
        (pa.array([7, None]), {"a": "float"}, pa.array([7, None], pa.float32())),
        (pa.array([0.1, None, float("nan")]), {}, pa.array([0.1, None, None], pa.float32())),
        (pa.array([2.0**53, None, -3.0]), {"a": "integer"}, pa.array([2**53, None, -3], pa.int64())),
        (pa.array(["7", None]), {"a": "integer"}, pa.array([7, None], pa.int64())),
        (pa.array(["x", None], pa.large_string()), {}, pa.array(["x", None])),
        (pa.array([b"x", None]), {"a": "string"}, pa.array(["x", None])),
        (pa.array(["x", None, "x"]).dictionary_encode(), {}, pa.array(["x", None, "x"])),
        (pa.nulls(2), {"a": "string"}, pa.array([None, None], pa.string())),
        (pa.array([[1, 2], [], None], pa.large_list(pa.int32())), {}, pa.array([[1, 2], [], None])),
        (pa.array([["x"], [None]]), {"a": "string"}, pa.array([["x"], [None]])),
        (pa.array([[1, 2]], pa.list_(pa.int16(), 2)), {"a": "string"}, pa.array([[1, 2]])),
    ],
)
def test_parquet_types_become_the_few_that_encoding_takes(tmp_path, column, types, expected):
    found = load(tmp_path, parquet(tmp_path, "a.parquet", a=column), ["a"], types, source="parquet").train["a"]
    assert found.type == expected.type
    assert found.combine_chunks().equals(expected)


@pytest.mark.parametrize(
    ("column", "types", "found", "where"),
    [
        (pa.array([1, 2**63], pa.uint64()), {}, str(2**63), "row 2 of "),
        (pa.array([1.0, 1.5]), {"a": "integer"}, "1.5", "row 2 of "),
        (pa.array([2.0**53 + 2]), {"a": "integer"}, "9007199254740994.0", "row 1 of "),
        (pa.array([1e300]), {}, "1e+300", "row 1 of "),
        (pa.array([1, 2]), {"a": "string"}, "a column of type int64", ""),
        (pa.array([b"\xff"]), {}, "b'\\xff'", "row 1 of "),
        (pa.array([{"x": 1}]), {}, "a column of type struct", ""),
        (pa.array([[0.5]]), {}, "a column of type list<", ""),
        (pa.nulls(2), {}, "a column of type null", ""),
        (pa.array([0], pa.timestamp("s")), {"a": "integer"}, "a column of type timestamp[ms] where", ""),
    ],
)
def test_parquet_that_would_lose_a_value_is_refused(tmp_path, column, types, found, where):
    error = refused(tmp_path, parquet(tmp_path, "a.parquet", a=column), ["a"], types, source="parquet")
    assert found in error.found
    assert error.where == f"{where}{tmp_path}/a.parquet, column 'a'"


def test_parquet_that_is_cut_short_is_named(tmp_path):
    parquet(tmp_path, "a.parquet", a=pa.array(np.arange(100000)))
    whole = (tmp_path / "a.parquet").read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        write(tmp_path, "cut.parquet", whole[:length])
        assert refused(tmp_path, "cut.parquet", ["a"], source="parquet").where == str(tmp_path / "cut.parquet")


def test_a_column_keeps_its_type_over_files_and_splits(tmp_path):
    parquet(tmp_path, "a.parquet", a=pa.array([1]))
    parquet(tmp_path, "b.parquet", a=pa.array([1.0]))
    error = refused(tmp_path, "*.parquet", ["a"], source="parquet")
    assert (error.found, error.where) == ("float here, int64 before", f"{tmp_path}/b.parquet, column 'a'")
    error = refused(tmp_path, "a.parquet", ["a"], source="parquet", valid="b.parquet")
    assert (error.found, error.where) == ("float here, int64 before", "data.valid, column 'a'")
    assert load(tmp_path, "*.parquet", ["a"], {"a": "integer"}, source="parquet").train["a"].to_pylist() == [1, 1]


def test_weights_are_not_negative_and_the_label_is_no_feature(tmp_path):
    write(tmp_path, "a.csv", "label,a,w\n0,1,1\n1,2,-1\n")
    write(tmp_path, "b.csv", "label,a,w\n0,1,\n")
    for name, found, row in (("a.csv", "'-1'", 2), ("b.csv", "a missing value", 1)):
        error = refused(tmp_path, name, ["a"], source="csv", sample_weight="w")
        assert (error.found, error.where) == (found, f"row {row} of {tmp_path / name}, column 'w'")
    assert "reads 'label'" in refused(tmp_path, "a.csv", ["a", "label"], source="csv").found
    assert "no column 'clicked'" in refused(tmp_path, "a.csv", ["a"], source="csv", label="clicked").found
