"""Opened: a process that opens a bundle as a worker does and tells its own memory and time, as lines of JSON.

`python -m benchmarks.graphs.opened VERSION`: a line once quorem.serve is imported, one when both graphs are open, one
after golden rows went through both, and, for each line that it reads, one after every page of the tables was read.
"""

import ctypes
import json
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
from quorem.serve.graph import Graph
from quorem.serve.model import Model
from quorem.serve.settings import Version

PAGE = 4096
TOLD = {"Pss", "Private_Dirty", "Private_Clean", "Anonymous"}


def main() -> None:
    """Open the bundle named on the command line."""
    directory, made = Path(sys.argv[1]).resolve(), list[float]()
    build = Graph.__init__

    def timed(graph: Graph, *arguments: object) -> None:
        start = perf_counter()
        build(graph, *arguments)  # pyright: ignore[reportArgumentType]  # as they came
        made.append(perf_counter() - start)

    Graph.__init__ = timed
    tell(directory)
    start = perf_counter()
    model = Model(Version("ctr", int(directory.name), directory), "cpu")
    whole = perf_counter() - start
    tell(directory, sessions_s=made, open_s=whole)
    model.warm()
    tell(directory)
    for _ in sys.stdin:
        tell(directory, touched=touch(directory / "tables.bin"))


def tell(directory: Path, **more: object) -> None:
    """Print this process' memory in bytes: all of it, and of the pages that map the tables."""
    tables, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            ours = line.endswith(str(directory / "tables.bin"))
        elif ours and line.startswith("Pss:"):
            tables += _bytes(line)
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    memory = {line.partition(":")[0]: _bytes(line) for line in rollup if line.partition(":")[0] in TOLD}
    print(json.dumps({**memory, "tables_pss": tables, **more}), flush=True)


def touch(tables: Path) -> int:
    """Read a byte of every page where ONNX Runtime has mapped the tables; how many bytes that is."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(tables)):
            start, end = (int(each, 16) for each in line.split(" ", 1)[0].split("-"))
            mapped = np.ctypeslib.as_array((ctypes.c_uint8 * (end - start)).from_address(start))
            mapped[::PAGE].max()
            total += end - start
    return total


def _bytes(line: str) -> int:
    return int(line.split()[1]) * 1024


main()
