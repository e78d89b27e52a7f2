"""`python benchmarks/training/encode.py --work DIR`: how fast rows in Criteo's layout are encoded, and in what memory.

Rows are made: ids by Zipf's law at Criteo Kaggle's cardinalities, as 8 hexadecimal digits; 13 counts; a fifth of the
values missing; about 230 bytes a row. Each size is encoded by `quorem encode` in a process of its own, whose memory
(proportional set size, with its children's) is sampled: `anonymous` is its own, the rest are pages of mapped files,
which the system takes back when it wants to. Rows a second are of the whole command, its start included.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
from numpy.typing import NDArray
from quorem.train.sources.counter import bits, stream, uniform
from quorem.train.sources.synthetic import scatter
from quorem.train.sources.synthetic_config import CRITEO
from quorem.train.sources.zipf import ranks

CHUNK = 2**17
ZIPF, MISSING = 1.1, 0.2
INTERVAL_S = 0.1
RECIPE = """
[data]
source = "criteo"
path = "{path}"
split = {{ by = "share", valid = 0.1, test = 0.1 }}
[features]
"I1..I13" = {{ kind = "dense", transform = "log1p" }}
"C1..C26" = {{ kind = "categorical", encoding = "vocabulary", min_count = {min_count} }}
[model]
name = "dlrm"
bottom = [64]
top = [64]
"""


def make(path: Path, rows: int, start: int = 0) -> None:
    """Write rows of Criteo's layout as text."""
    with path.open("wb") as file:
        for first in range(start, start + rows, CHUNK):
            index = np.arange(first, min(first + CHUNK, start + rows), dtype=np.uint64)
            columns = [pa.array((uniform(stream(1), index) < 0.25).astype(np.int8))]
            for number in range(13):
                drawn = np.floor(-30 * np.log(uniform(stream(2, number), index))).astype(np.int64)
                columns.append(pa.array(drawn, mask=_missing(index, number)))
            for number, n in enumerate(CRITEO):
                ids = scatter(ranks(n, ZIPF, stream(3, number), index), n, stream(4, number))
                hashed = bits(stream(5, number), ids.astype(np.uint64)) & np.uint64(0xFFFFFFFF)
                columns.append(_text(hashed, _missing(index, 13 + number)))
            table = pa.table(dict(zip(map(str, range(40)), columns, strict=True)))
            arrow_csv.write_csv(
                table, file, arrow_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
            )


def _missing(index: NDArray[np.uint64], column: int) -> NDArray[np.bool_]:
    share = 2 * MISSING * column / 38  # from none in the first to twice as many in the last
    return uniform(stream(6, column), index) < share


def _text(values: NDArray[np.uint64], missing: NDArray[np.bool_]) -> pa.Array:
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = digits[(values[:, None] >> np.arange(28, -4, -4, dtype=np.uint64)).astype(np.int64) & 15]
    width = np.where(missing, 0, 8)
    offsets = np.r_[0, np.cumsum(width)].astype(np.int32)
    held = pa.py_buffer(np.ascontiguousarray(text[~missing]))
    valid = pa.array(~missing).buffers()[1]
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), held, valid)


def measure(recipe: Path, out: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Encode once, and say how fast and in what memory."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "quorem", "encode", str(recipe), "--out", str(out), "--json", *arguments]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    peaks = {"pss": 0, "anonymous": 0}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        ended = threading.Event()
        sampler = threading.Thread(target=_sample, args=(process.pid, ended, peaks))
        sampler.start()
        assert process.stdout is not None
        told = process.stdout.read()
        process.wait()
        ended.set()
        sampler.join()
    if process.returncode:
        raise SystemExit(process.returncode)
    seconds, after, report = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN), json.loads(told)
    rows = sum(report["rows"].values())
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    vocabularies = sum(each["values"] for each in report["vocabularies"].values())
    return {
        "rows": rows,
        "seconds": round(seconds, 2),
        "rows_per_s": round(rows / seconds),
        "rows_per_processor_s": round(rows / processor),
        "peak_pss_mb": peaks["pss"] // 10**6,
        "peak_anonymous_mb": peaks["anonymous"] // 10**6,
        "vocabulary_values": vocabularies,
        "vocabularies_mb": 12 * vocabularies // 10**6,
        "cache_bytes_per_row": round(report["bytes"] / rows, 1),
        "stages_s": report["stages"],
        "load": os.getloadavg()[0],
    }


def _sample(root: int, ended: threading.Event, peaks: dict[str, int]) -> None:
    while not ended.wait(INTERVAL_S):
        sums = {"pss": 0, "anonymous": 0}
        for pid in _family(root):
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:  # it has ended
                continue
            for line in lines:
                name, _, value = line.partition(":")
                if name in ("Pss", "Pss_Anon"):
                    sums["pss" if name == "Pss" else "anonymous"] += int(value.split()[0]) * 1024
        for name, value in sums.items():
            peaks[name] = max(peaks[name], value)


def _family(root: int) -> list[int]:
    found, waiting = list[int](), [root]
    while waiting:
        found.append(waiting.pop())
        for task in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            try:
                waiting += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def main() -> None:
    """Make rows, encode them, print a line of JSON for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a directory for rows and caches: 0.6 GB a million")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 4_000_000])
    parser.add_argument("--min-count", type=int, default=2)
    parser.add_argument("--jobs", default="2")
    parser.add_argument("--memory", default="4", help="GB")
    parser.add_argument("--out", type=Path, help="also write all results here, as JSON")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    results = list[dict[str, Any]]()
    for rows in args.rows:
        path = args.work / f"rows-{rows}.tsv"
        if not path.exists():
            make(path.with_suffix(".partial"), rows)
            path.with_suffix(".partial").rename(path)
        recipe = args.work / f"encode-{rows}.toml"
        recipe.write_text(RECIPE.format(path=path.absolute(), min_count=args.min_count))
        result = measure(recipe, args.work / f"cache-{rows}", ["--jobs", args.jobs, "--memory", args.memory])
        results.append({"bytes_per_row": round(path.stat().st_size / rows), **result})
        print(json.dumps(results[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
