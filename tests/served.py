"""A model with every kind of feature, exported to a repository, its rows as a caller has them, and servers on it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import oracle
import runs
from quorem.export.bundle import export
from quorem.protos import manifest_pb2 as pb
from quorem.protos.encode import Column, Encoded, encode
from quorem.protos.errors import Unavailable
from quorem.serve.nghttp2.library import load

ROWS = 64
CATEGORIES = [b"", b"shoes", b"hats", "caf\u00e9".encode(), b"x" * 300]
CONTEXT = ("user", "age")


@dataclass(frozen=True)
class Rows:
    """The golden rows of the model, as raw columns, as arrays, and their logits."""

    schema: pb.Schema
    columns: dict[str, Column]
    encoded: Encoded
    logits: np.ndarray

    def take(self, count: int) -> dict[str, Column]:
        """The first rows as columns."""
        return {name: head(column, count) for name, column in self.columns.items()}

    @property
    def scores(self) -> np.ndarray:
        return 1 / (1 + np.exp(-self.logits.astype(np.float64)))


def head(column: Column, count: int) -> Column:
    """The first rows of a column."""
    values = count if column.lengths is None else int(column.lengths[:count].sum())
    cut = {
        name: None if (array := getattr(column, name)) is None else array[:values]
        for name in ("integers", "strings", "floats", "missing")
    }
    return replace(column, **cut, lengths=None if column.lengths is None else column.lengths[:count])


def features() -> list[pb.Feature]:
    """A checked id, a hashed string, a vocabulary, two bags, two numbers and a bucket."""
    user = runs.categorical("user", "id", 1000)
    user.id.out_of_range, user.side = pb.ERROR, pb.CONTEXT
    item = runs.categorical("item", "hash", 5000, seed=7)
    item.values = pb.STRING
    tags = runs.categorical("tags", "hash", 64, bag=4, mean=True)
    tags.values, tags.bag.delimiter = pb.STRING, "|"
    age = runs.categorical("age", "bucket", 5)
    age.side = pb.CONTEXT
    return [
        user,
        item,
        runs.categorical("city", "vocabulary", 30),
        tags,
        runs.categorical("seen", "id", 50, bag=3),
        age,
        runs.number("price", pb.LOG1P),
        runs.number("rank", pb.STANDARD, mean=1, scale=2),
    ]


def make_columns(known_cities: np.ndarray, rows: int, seed: int = 5) -> dict[str, Column]:
    """Raw rows: missing and unseen values, empty and full bags, numbers of every sign."""
    rng = np.random.default_rng(seed)
    lengths, seen = rng.integers(0, 5, rows), rng.integers(0, 4, rows)
    floats = rng.normal(size=(3, rows)).astype(np.float32) * 2
    floats[rng.random(floats.shape) < 0.2] = np.nan
    tags = [CATEGORIES[each] for each in rng.integers(0, len(CATEGORIES), int(lengths.sum()))]
    return {
        "user": Column(integers=rng.integers(0, 1000, rows), missing=rng.random(rows) < 0.2),
        "item": Column(strings=[b"item %d" % each for each in rng.integers(0, 40, rows)]),
        "city": Column(integers=np.where(rng.random(rows) < 0.7, rng.choice(known_cities, rows), 2**62 + 1)),
        "tags": Column(strings=tags, lengths=lengths),
        "seen": Column(integers=rng.integers(0, 60, int(seen.sum())), lengths=seen),
        "age": Column(floats=floats[0]),
        "price": Column(floats=floats[1]),
        "rank": Column(floats=floats[2]),
    }


def make_manifest() -> pb.Manifest:
    """The model: DeepFM over every kind of feature, under several schemes."""
    described = features()
    combines = {"item": "qr", "city": "qr", "tags": "hash"}
    fields = [
        runs.field(each, combines.get(each.name, "full"), pb.MULT, 4)
        for each in described
        if each.WhichOneof("encoding") != "dense"
    ]
    return runs.model(described, fields, "deepfm")


def make_repository(root: Path) -> Rows:
    """Export the model into `root`/models/ctr as version 1; its golden rows."""
    manifest, rng = make_manifest(), np.random.default_rng(3)
    weights = runs.weights(manifest, rng)
    columns = make_columns(weights["vocabulary.city.values"], ROWS)
    encoded = encode(manifest.schema, columns, ROWS, long_bags="refuse")
    logits = oracle.logits(manifest, weights, encoded.ids, encoded.dense).astype(np.float32)
    label = np.zeros(ROWS, np.float32)
    reference = {"ids": encoded.ids, "dense": encoded.dense, "logit": logits, "label": label}
    runs.write(root / "run", manifest, weights, reference)
    export(root / "run", root / "models" / "ctr")
    return Rows(manifest.schema, columns, encoded, logits)


@dataclass(frozen=True)
class Served:
    """A running `quorem serve`."""

    process: subprocess.Popen[str]
    address: str
    worker_pids: list[int]
    facts: dict[str, object]
    log: Path

    def workers(self) -> list[int]:
        """The pids of the workers that live now."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        found = list[int]()
        for pid in children:
            with suppress(OSError):  # it has just ended
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
        return sorted(found)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@contextmanager
def serving(models: Path, log: Path, *arguments: str) -> Iterator[Served]:
    """A server on a free port; killed if the test leaves it running. What it says stands in `log`."""
    with log.open("w") as err:
        process = subprocess.Popen(
            command("serve", models, "--port", "0", "--json", *arguments), stdout=subprocess.PIPE, stderr=err, text=True
        )
    with process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert line, log.read_text()
            facts = json.loads(line)
            yield Served(process, facts["address"], facts["worker_pids"], facts, log)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=30)


def without(transport: str) -> str:
    """Why a server cannot speak by a transport on this machine; empty where it can."""
    if transport != "nghttp2":
        return ""
    try:
        import uvloop  # noqa: F401  # the transport's

        load()
    except (ImportError, Unavailable) as error:
        return str(error)
    return ""


def command(*arguments: str | Path) -> list[str]:
    """`quorem` in a process of its own, where warnings are errors."""
    return [sys.executable, "-W", "error", "-m", "quorem", *map(str, arguments)]


def quorem(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; its exit status must be `status`."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, f"{done.returncode}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


def eventually(holds: Callable[[], object], within_s: float = 20.0) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it never held"
        time.sleep(0.02)


def alive(pids: Sequence[int]) -> bool:
    """Whether all of these processes are there."""
    try:
        for pid in pids:
            os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def connections(pid: int, address: str) -> int:
    """How many established connections to the address a process holds."""
    inodes = set[str]()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it has just been closed
            inodes.add(str(each.readlink()))
    port = f":{int(address.rpartition(':')[2]):04X}"
    lines = [Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:] for kind in ("tcp", "tcp6")]
    fields = [line.split() for line in (*lines[0], *lines[1])]
    return sum(each[1].endswith(port) and each[3] == "01" and f"socket:[{each[9]}]" in inodes for each in fields)
