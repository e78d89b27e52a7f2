"""The cache: what `quorem encode` makes of rows trains the model that the rows themselves do; resuming, refusals."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest
import torch
from cached import equal, write_kinds
from commands import quorem
from quorem.train.encode import source, stages
from quorem.train.encode.prepared import Opened
from quorem.train.encode.source import Cached, Order
from quorem.train.recipe_file import read_recipe

DATA = Path(os.environ.get("QUOREM_DATA", "nowhere"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="QUOREM_DATA does not name the folder of real rows")


@pytest.fixture
def kinds(tmp_path: Path) -> Path:
    """A recipe of every kind of feature, over three files of made rows."""
    return write_kinds(tmp_path)


@needs_data
@pytest.mark.parametrize("name", ["criteo", "frappe", "movielens"])
def test_real_rows_are_the_same_from_a_cache(name: str, tmp_path: Path) -> None:
    quorem("encode", name, "--out", tmp_path / "cache", "--quiet", "--jobs", "1")
    plain, cached = equal(name, tmp_path / "cache")
    for one, other in zip(plain.train.batches(3, 1, 1000), cached.train.batches(3, 1, 1000), strict=True):
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.rows, other.rows)


def test_every_kind_of_feature_and_both_ways_to_divide(kinds: Path, tmp_path: Path) -> None:
    quorem("encode", kinds, "--out", tmp_path / "share", "--quiet", "--jobs", "1")
    equal(kinds, tmp_path / "share")
    timed = 'data.split={ by = "time", column = "price", valid = 0.2 }'
    few = "data.rows=700"
    filled = 'features.price={ kind = "dense" }'
    for path in kinds.parent.glob("rows*.csv"):
        path.write_text(path.read_text().replace(",,", ",0,"))
    settings = (timed, few, filled)
    told = [part for each in settings for part in ("--set", each)]
    quorem("encode", kinds, "--out", tmp_path / "time", "--quiet", "--jobs", "1", *told)
    equal(kinds, tmp_path / "time", *settings)


def test_pieces_processes_and_packing_change_nothing(
    kinds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quorem("encode", kinds, "--out", tmp_path / "one", "--quiet", "--jobs", "1")
    for path in kinds.parent.glob("rows*.csv"):
        table = arrow_csv.read_csv(path, convert_options=arrow_csv.ConvertOptions(strings_can_be_null=True))
        pq.write_table(table, path.with_suffix(".parquet"), row_group_size=150)
        (path.parent / f"packed{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        with pa.output_stream(str(path.parent / f"small{path.name}.zst")) as stream:
            stream.write(path.read_bytes())
    quorem("encode", kinds, "--out", tmp_path / "two", "--quiet", "--jobs", "2")
    monkeypatch.setattr("quorem.train.encode.job._STRETCH", (700, 700))
    quorem("encode", kinds, "--out", tmp_path / "stretches", "--quiet", "--jobs", "1")
    for name, pattern, kind in (
        ("parquet", "rows*.parquet", "parquet"),
        ("gzip", "packed*.csv.gz", "csv"),
        ("zstd", "small*.csv.zst", "csv"),
    ):
        settings = ("--set", f"data.path={pattern}", "--set", f"data.source={kind}")
        quorem("encode", kinds, "--out", tmp_path / name, "--quiet", "--jobs", "1", *settings)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir() if path.suffix != ".json"}
    assert len(expected) == 6
    for name in ("two", "stretches", "parquet", "gzip", "zstd"):
        found = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.suffix != ".json"}
        assert found == expected, name
    assert (tmp_path / "one" / "manifest.json").read_bytes() == (tmp_path / "stretches" / "manifest.json").read_bytes()


def test_a_count_in_little_memory_is_exact_all_the_same(
    kinds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quorem("encode", kinds, "--out", tmp_path / "one", "--quiet", "--jobs", "1")
    monkeypatch.setattr("quorem.train.encode.job.Limits.distinct", 5)
    monkeypatch.setattr("quorem.train.encode.counting._FIRST", 3)
    told = json.loads(quorem("encode", kinds, "--out", tmp_path / "two", "--json", "--jobs", "1").stdout)
    assert told["ranges"]["user"] > 2
    for path in (tmp_path / "one").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_training_from_a_cache_gives_the_same_bytes(kinds: Path, tmp_path: Path) -> None:
    quorem("encode", kinds, "--out", tmp_path / "cache", "--quiet", "--jobs", "1")
    usual = ("--quiet", "--device", "cpu")
    quorem("train", kinds, "--out", tmp_path / "plain", *usual)
    quorem("train", kinds, "--out", tmp_path / "cached", *usual, "--cache", tmp_path / "cache")
    names = {path.name for path in (tmp_path / "plain").glob("*.safetensors")} | {"manifest.json"}
    for name in names:
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "cached" / name).read_bytes(), name
    other = ("--set", "features.item.buckets=301", "--cache", tmp_path / "cache")
    told = quorem("train", kinds, "--out", tmp_path / "other", *usual, *other, check=2).stderr
    assert "another recipe" in told
    with (kinds.parent / "rows1.csv").open("a") as file:
        file.write("u1,2,é1,,30,1.5,4,1,1\n")
    told = quorem("train", kinds, "--out", tmp_path / "grown", *usual, "--cache", tmp_path / "cache", check=2).stderr
    assert "names or sizes" in told
    told = quorem("train", kinds, "--out", tmp_path / "none", *usual, "--cache", tmp_path / "nothing", check=2).stderr
    assert "quorem encode" in told


def test_nothing_is_encoded_twice_or_written_over(kinds: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    first = json.loads(quorem("encode", kinds, "--out", out, "--json", "--jobs", "1").stdout)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    again = json.loads(quorem("encode", kinds, "--out", out, "--json", "--jobs", "1").stdout)
    assert (first["already_there"], again["already_there"]) == (False, True)
    assert again["key"] == first["key"]
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    other = ("--set", "features.user.min_count=3")
    assert "another recipe" in quorem("encode", kinds, "--out", out, "--quiet", *other, check=2).stderr
    assert "something else" in quorem("encode", kinds, "--out", kinds.parent, "--quiet", check=2).stderr
    shard = out / "train-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x07")
    assert "the one that was written" in quorem("encode", kinds, "--out", out, "--quiet", check=2).stderr


def test_a_killed_encoding_goes_on_where_it_was(kinds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (kinds.parent / "rows0.csv").read_text().splitlines()
    (kinds.parent / "rows0.csv").write_text("\n".join([lines[0], *lines[1:] * 400]) + "\n")
    command = [sys.executable, "-m", "quorem", "encode", str(kinds), "--out", str(tmp_path / "cache"), "--quiet"]
    process = subprocess.Popen([*command, "--jobs", "1", "--memory", "0.001"])
    work = tmp_path / "cache" / ".work"
    deadline = time.monotonic() + 60
    while len([*work.glob("*.part")]) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cache" / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in work.glob("*.part")}
    assert len(kept) >= 2
    left = tmp_path / "cache" / ".train-00000.safetensors.1"  # as of a shard that was being written
    left.touch()
    seen = list[int]()

    def noted(*arguments: Any) -> tuple[int, int]:
        seen.append(sum(path.stat().st_mtime_ns == then for path, then in kept.items()))
        return counted(*arguments)

    counted = stages.count_feature
    monkeypatch.setattr(stages, "count_feature", noted)
    quorem("encode", kinds, "--out", tmp_path / "cache", "--quiet", "--jobs", "1")
    assert seen[0] == len(kept)
    assert not left.exists()
    monkeypatch.undo()
    quorem("encode", kinds, "--out", tmp_path / "undisturbed", "--quiet", "--jobs", "1")
    for path in (tmp_path / "undisturbed").iterdir():
        assert path.read_bytes() == (tmp_path / "cache" / path.name).read_bytes(), path.name
    assert not work.exists()


def test_bad_rows_are_counted_located_and_refused_beyond_a_share(
    kinds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kinds.parent / "rows1.csv"
    lines = path.read_text().splitlines()
    lines[301], lines[350] = lines[301].rpartition(",")[0] + ",2", "too,few"  # a label that is none; rows 301 and 350
    path.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("quorem.train.encode.job._STRETCH", (3000, 3000))
    usual = ("encode", kinds, "--quiet", "--jobs", "1")
    told = quorem(*usual, "--out", tmp_path / "none", check=2).stderr
    assert f"row 301 of {path}, column 'click'" in told
    path.write_text("\n".join([*lines[:300], "too,few", *lines[300:]]) + "\n")
    told = quorem(*usual, "--out", tmp_path / "shifted", check=2).stderr
    assert f"row 302 of {path}, column 'click'" in told, "a row of other fields before it counts"
    path.write_text("\n".join(lines) + "\n")
    told = quorem(*usual, "--out", tmp_path / "few", "--bad-rows", "0.001", check=2).stderr
    assert "2 of 1,200" in told
    quorem(*usual, "--out", tmp_path / "some", "--bad-rows", "0.01")
    manifest = json.loads((tmp_path / "some" / "manifest.json").read_text())
    assert manifest["bad"]["rows"] == 2
    assert any(each.startswith(f"row 301 of {path}, column 'click'") for each in manifest["bad"]["told"])
    assert any(each.startswith(f"row 350 of {path}: 2 fields instead of 9") for each in manifest["bad"]["told"])
    path.write_text("\n".join([*lines[:301], *lines[302:350], *lines[351:]]) + "\n")
    quorem(*usual, "--out", tmp_path / "clean")
    for file in (tmp_path / "clean").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "some" / file.name).read_bytes()


def test_an_id_out_of_its_range_is_a_bad_row(kinds: Path, tmp_path: Path) -> None:
    path = kinds.parent / "rows2.csv"
    lines = path.read_text().splitlines()
    user, _, rest = lines[17].split(",", 2)
    lines[17] = f"{user},19,{rest}"
    path.write_text("\n".join(lines) + "\n")
    usual = ("encode", kinds, "--quiet", "--jobs", "1")
    told = quorem(*usual, "--out", tmp_path / "none", check=2).stderr
    assert f"row 17 of {path}, column 'hour'" in told
    assert "[-5, 19)" in told
    quorem(*usual, "--out", tmp_path / "some", "--bad-rows", "0.01")
    assert json.loads((tmp_path / "some" / "manifest.json").read_text())["bad"]["rows"] == 1


def test_another_encoder_and_a_killed_parent(kinds: Path, tmp_path: Path) -> None:
    lines = (kinds.parent / "rows0.csv").read_text().splitlines()
    (kinds.parent / "rows0.csv").write_text("\n".join([lines[0], *lines[1:] * 2000]) + "\n")
    arguments = ["encode", str(kinds), "--out", str(tmp_path / "cache"), "--quiet", "--memory", "0.001"]
    process = subprocess.Popen([sys.executable, "-m", "quorem", *arguments, "--jobs", "2"])
    work, deadline = tmp_path / "cache" / ".work", time.monotonic() + 60
    while not [*work.glob("*.part")] and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    assert "at work" in quorem(*arguments, check=2).stderr
    process.kill()
    process.wait()
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_row_group_that_cannot_be_read_is_located(kinds: Path, tmp_path: Path) -> None:
    path = kinds.parent / "rows.parquet"
    pq.write_table(arrow_csv.read_csv(kinds.parent / "rows0.csv"), path, row_group_size=100, compression="zstd")
    metadata = pq.ParquetFile(path).metadata
    chunk = metadata.row_group(2).column(2)
    content = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(content)
    settings = ("--set", "data.path=rows.parquet", "--set", "data.source=parquet", "--quiet", "--jobs", "1")
    told = quorem("encode", kinds, "--out", tmp_path / "none", *settings, check=2).stderr
    assert f"100 rows of row group 2 of {path}" in told
    done = quorem(
        "encode", kinds, "--out", tmp_path / "some", *settings[:-3], "--json", "--jobs", "1", "--bad-rows", "0.3"
    )
    report = json.loads(done.stdout)
    assert report["bad"]["rows"] == 100
    assert sum(report["rows"].values()) == 300


def test_an_epoch_by_blocks_has_every_row_once_and_goes_on_from_any_batch(
    kinds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quorem.train.encode.shards.ROWS", 100)
    monkeypatch.setattr("quorem.train.encode.stages.ROWS", 100)
    monkeypatch.setattr(source, "ROWS", 100)
    quorem("encode", kinds, "--out", tmp_path / "cache", "--quiet", "--jobs", "1")
    read, base = read_recipe(str(kinds), [f"data.cache={json.dumps(str(tmp_path / 'cache'))}"])
    opened = Opened(read, base)
    rows = opened.split("train").in_memory()
    cached = Cached(opened.directory, opened.cache, "train", Order(len(rows), block=16, window=7))
    assert cached.order.windows == 8
    whole = [*cached.batches(5, 2, 50)]
    numbers = torch.cat([batch.rows for batch in whole])
    assert torch.equal(numbers.sort().values, torch.arange(len(rows)))
    assert torch.equal(numbers, cached.order.whole(5, 2))
    assert len((numbers[:100] // 16).unique()) == 7  # a window of blocks, one of them perhaps the short last one
    assert not torch.equal(numbers, torch.cat([batch.rows for batch in cached.batches(5, 3, 50)]))
    for first in (0, 1, 9, len(whole) - 1, len(whole)):
        rest = [*cached.batches(5, 2, 50, first)]
        assert len(rest) == len(whole) - first
        for one, other in zip(whole[first:], rest, strict=True):
            assert torch.equal(one.rows, other.rows)
            assert torch.equal(one.ids, other.ids)
            assert torch.equal(one.ids, rows.ids[one.rows])
            assert torch.equal(one.labels, rows.labels[one.rows])
    halves = [[*cached.batches(5, 2, 50, 0, (rank, 2))] for rank in (0, 1)]
    for one, left, right in zip(whole, *halves, strict=True):
        assert torch.equal(one.ids, torch.cat([left.ids, right.ids]))
        assert left.total == right.total == len(one.rows)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("kind", [source.Resident, source.Pinned])
def test_a_gpu_gets_the_batches_of_the_cpu(
    kinds: Path, tmp_path: Path, kind: type[source.Resident] | type[source.Pinned]
) -> None:
    quorem("encode", kinds, "--out", tmp_path / "cache", "--quiet", "--jobs", "1")
    read, base = read_recipe(str(kinds), [f"data.cache={json.dumps(str(tmp_path / 'cache'))}"])
    opened = Opened(read, base)
    cached = Cached(opened.directory, opened.cache, "train", Order(opened.facts.rows["train"], block=16, window=7))
    on_device = kind(cached, torch.device("cuda"))
    for one, other in zip(cached.batches(5, 2, 50, 3), on_device.batches(5, 2, 50, 3), strict=True):
        assert torch.equal(one.ids, other.ids.cpu())
        assert torch.equal(one.labels, other.labels.cpu())
        assert torch.equal(one.rows, other.rows.cpu())
