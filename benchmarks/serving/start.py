"""`python -m benchmarks.serving.start --work DIR`: how soon four workers answer on 2.16 GB, and what they hold.

Full tables of Criteo's cardinalities in fp32 (benchmarks.graphs.bundles). The server is started again and again; told
are the seconds from its start to its line of readiness: digests read and proved, graphs opened, golden rows scored by
every worker; and the same where the digests were proved before (--remember). Then requests of uniform ids touch the
tables, and memory is counted: PSS of all processes, and how much of that are pages of tables.bin, one copy for all.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from quorem.export.bundle import publish
from quorem.export.precision import parse
from quorem.serve.bench.load import Drawn, build
from quorem.serve.bench.sizes import Fixed
from quorem.serve.bench.target import find
from quorem.serve.channel import Access
from quorem.serve.metrics import pss_bytes

from ..graphs import bundles
from ..graphs.clock import machine

TABLES = "tables.bin"
STARTS, CALLS = 5, 400


def main() -> None:
    """Build the bundle unless it is there, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.start", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="a directory for the bundle, 2.2 GB, kept")
    parser.add_argument("--workers", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a file for the results as JSON")
    args = parser.parse_args()
    models = args.work / "models"
    if not models.is_dir():
        variant = bundles.VARIANTS[0]
        bundles.write_run(args.work / "run", variant)
        publish(args.work / "run", models / "ctr", precision=parse(variant.precision))
        shutil.rmtree(args.work / "run")
    size = (models / "ctr" / "1" / TABLES).stat().st_size
    seconds, found = dict[str, list[float]](), dict[str, int]()
    kept = args.work / "verified.json"
    kept.unlink(missing_ok=True)
    ways: dict[str, list[str]] = {"read": [], "remembered": ["--remember", str(kept)]}
    for number in range(STARTS + 1):  # the first of each warms the page cache, and writes what is remembered
        for way, options in ways.items():
            begun = time.monotonic()
            command = [sys.executable, "-m", "quorem", "serve", str(models), "--port", "0", "--json", *options]
            command += ["--workers", str(args.workers)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout
                try:
                    facts = json.loads(process.stdout.readline())
                    if number:
                        seconds.setdefault(way, []).append(time.monotonic() - begun)
                    if number == STARTS and way == "remembered":
                        found = _memory(facts)
                finally:
                    process.terminate()
    results = {
        "machine": machine(),
        "tables_bytes": size,
        "workers": args.workers,
        "ready_s": {way: [round(each, 2) for each in found] for way, found in seconds.items()},
        "ready_median_s": {way: round(statistics.median(found), 2) for way, found in seconds.items()},
        **found,
    }
    print(json.dumps(results, indent=1))
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


def _memory(facts: dict[str, object]) -> dict[str, int]:
    """PSS before and after the tables were touched, and of tables.bin alone."""
    workers = facts["worker_pids"]
    assert isinstance(workers, list)
    pids = [int(str(facts["pid"])), *workers]
    idle = sum(pss_bytes(pid) or 0 for pid in pids)
    idle_tables = sum(map(_tables_pss, workers))
    access = Access(str(facts["address"]))
    target = find(access, "", "infer", None)
    load = build(target, Drawn(), Fixed(1024), 1)
    for number in range(CALLS):
        with access.channel() as channel:  # a new connection: another worker
            channel.unary_unary(target.path)(load.requests[number % len(load.requests)], timeout=60)
    return {
        "idle_pss_bytes": idle,
        "idle_tables_pss_bytes": idle_tables,
        "pss_bytes": sum(pss_bytes(pid) or 0 for pid in pids),
        "tables_pss_bytes": sum(map(_tables_pss, workers)),
    }


def _tables_pss(pid: int) -> int:
    """Bytes of a process's share of tables.bin."""
    total, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if not line.split(":", 1)[0].isalpha() and "-" in line.split(" ", 1)[0]:
            inside = line.endswith(TABLES)
        elif inside and line.startswith("Pss:"):
            total += int(line.split()[1]) * 1024
    return total


if __name__ == "__main__":
    main()
