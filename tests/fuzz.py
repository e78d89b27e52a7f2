"""Fuzz: bundles that are spoilt at random are taken or refused by name: `python tests/fuzz.py [SEED …]`.

Without seeds it runs for FUZZ_SECONDS (default 600) from FUZZ_SEED on (default: drawn, and told). Every case is made
from its seed alone and judged in a process of its own, so that a crash, a hang and a flood of memory are found as well;
a case that fails is kept in build/fuzz/.

Digests are written anew for half of the cases, those of graphs too: whoever signs a graph may let it compute what they
like, but what is no graph must be told by name.
"""

import copy
import faulthandler
import json
import multiprocessing
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import runs
from quorem.export.bundle import export, prove_bundle
from quorem.protos import inspect_run
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from quorem.protos.errors import QuoremError
from quorem.serve.model import Model
from quorem.serve.survey import survey

HANG_S = 60.0
LONGEST = 5000  # characters of an error
MEMORY_BYTES = 16 << 30  # of addresses: what a graph may ask for before it is told that there is none
KEPT = Path(__file__).resolve().parents[1] / "build" / "fuzz"
PRECISIONS = {
    "floats": pb.Precision(tables=pb.FP32, dense=pb.FP32),
    "codes": pb.Precision(tables=pb.INT8, dense=pb.INT8),
}
ODD_VALUES = [None, True, -1, 0, 1, 2, 2**31, 2**32 - 1, 2**63 - 1, 2**64, 0.5, 1e-300, 1e400, "", "NaN", "Infinity"]
ODD_VALUES += ["-1", "..", "../tables.bin", "/etc/hostname", "\x00", "\x1b[2J", "🦆", "INT8", [], {}, [[]], {"a": 1}]
ODD_BYTES = [struct.pack("<f", each) for each in (float("nan"), float("inf"), 3e38, -0.0, 1e-40)]
ODD_BYTES += [struct.pack("<q", each) for each in (-1, 2**62, -(2**63), 2**31, 0)] + [
    b"\xff" * 9 + b"\x01",
    b"",
    b"{",
    b'"',
]


@dataclass(frozen=True)
class Failure:
    """A case that was neither taken nor refused by name: what happened."""

    seed: int
    told: str


def make_bundles(root: Path) -> list[Path]:
    """Small bundles of every kind of feature and of several schemes, one for each of PRECISIONS."""
    found = list[Path]()
    for name, precision in PRECISIONS.items():
        features = [
            runs.categorical("user", "hash", 60),
            runs.categorical("item", "vocabulary", 20),
            runs.categorical("brand", "hash", 30),
            runs.categorical("price", "bucket", 4),
            runs.categorical("seen", "id", 24, bag=2, mean=True),
            runs.number("age", pb.STANDARD, 1, 2),
        ]
        features[0].side = pb.CONTEXT
        schemes = {"user": "qr", "item": "full", "brand": "completed", "price": "full", "seen": "chinese_remainder"}
        fields = [
            runs.field(each, schemes[each.name], pb.MULT, 4, bits=3 * (each.name == "seen"))
            for each in features
            if each.name in schemes
        ]
        manifest = runs.model(features, fields, "deepfm", mlp=[64, 16, 8])
        runs.make_run(root / name / "run", manifest, np.random.default_rng(0), 12)
        found.append(export(root / name / "run", root / name / "models" / "ctr", precision=precision))
    return found


def judge(bundle: Path) -> str:
    """What `quorem export --check`, `quorem inspect` and the server's loader say of a bundle: all of it by name."""
    said = [
        _name(lambda: prove_bundle(bundle)),
        _name(lambda: inspect_run.describe(bundle)),
        _name(lambda: _load(bundle)),
    ]
    return " ".join(said)


def _load(bundle: Path) -> None:
    """As the supervisor surveys and a worker opens."""
    (version,) = survey(bundle.parents[1]).versions
    Model(version, "cpu").warm()


def _name(call: Callable[[], object]) -> str:
    try:
        call()
    except QuoremError as error:
        if not error.rule or len(str(error)) > LONGEST:
            raise ValueError("an error states its rule, and can be read") from error
        return type(error).__name__
    return "taken"


def spoil(dice: random.Random, bundle: Path) -> None:
    """Change one file of a bundle, or two, and perhaps write the digests anew."""
    names = sorted(path.name for path in bundle.iterdir())
    for _ in range(dice.choice([1, 1, 1, 2])):
        name = dice.choice([*names, "manifest.json", "manifest.json", "tables.bin", "golden.safetensors"])
        data = (bundle / name).read_bytes()
        tree = _parsed(data) if name == "manifest.json" and dice.random() < 0.75 else None
        if isinstance(tree, dict):
            (bundle / name).write_text(json.dumps(_odd_tree(dice, tree)))
        else:
            other = (bundle / dice.choice(names)).read_bytes()
            (bundle / name).write_bytes(_odd_bytes(dice, data, other))
    if dice.random() < 0.5:
        sign(bundle)


def _parsed(data: bytes) -> Any:
    """JSON, unless it was spoilt before."""
    try:
        return json.loads(data)
    except ValueError:
        return None


def _odd_tree(dice: random.Random, tree: Any) -> Any:
    """Values replaced by odd ones, by one another, doubled or dropped; half of the time those of the export."""
    for _ in range(dice.choice([1, 1, 2, 4])):
        part = tree["export"] if dice.random() < 0.5 and isinstance(tree.get("export"), dict) else tree
        if not (found := _places(part)):
            continue
        (container, key), (other, other_key) = dice.choice(found), dice.choice(found)
        action = dice.randrange(6)
        if action == 0:
            container[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(container[key])
        elif action == 1:
            del container[key]
        elif action == 2 and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif action == 3 and isinstance(container[key], str) and container[key].isdigit():
            container[key] = str(int(container[key]) + dice.choice([-1, 1, 4, 4096, 2**32]))
        else:
            container[key] = copy.deepcopy(dice.choice(ODD_VALUES))
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON tree."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [place for key in keys for place in ((tree, key), *_places(tree[key]))]


def _odd_bytes(dice: random.Random, data: bytes, other: bytes) -> bytes:
    """Bits flipped, ends cut, slices dropped, doubled, overwritten, or taken from another file."""
    found = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 8])):
        start = dice.randrange(len(found) + 1)
        end = min(len(found), start + dice.choice([1, 4, 8, 40, 400]))
        action = dice.randrange(6)
        if action == 0 and start < len(found):
            found[start] ^= 1 << dice.randrange(8)
        elif action == 1:
            del found[start:]
        elif action == 2:
            found[start:end] = dice.randbytes(end - start)
        elif action == 3:
            odd = dice.choice(ODD_BYTES)
            found[start : start + len(odd)] = odd
        elif action == 4:
            found[start:end] = found[start:end] * dice.choice([0, 2])
        else:
            place = dice.randrange(len(other) + 1)
            found[start:end] = other[place : place + end - start]
    return bytes(found)


def sign(bundle: Path) -> None:
    """Write sizes and digests of the files into the manifest as they are now."""
    tree = _parsed((bundle / "manifest.json").read_bytes())
    try:
        for file in tree["files"]:
            path = bundle / file["name"]
            file.update(bytes=str(path.stat().st_size), sha256=manifests.sha256_of(path))
    except (ValueError, TypeError, KeyError, OSError, AttributeError):
        return  # there is no such list any more
    (bundle / "manifest.json").write_text(json.dumps(tree))


def make_case(seed: int, bundles: Sequence[Path], place: Path) -> Path:
    """The spoilt bundle of a seed."""
    dice = random.Random(seed)
    shutil.rmtree(place, ignore_errors=True)
    bundle = place / "models" / "ctr" / "1"
    shutil.copytree(dice.choice(bundles), bundle)
    spoil(dice, bundle)
    return bundle


def _judge_all(pipe: Connection, bundles: Sequence[Path], place: Path) -> None:
    """A child: judges the cases whose seeds it is sent."""
    log = os.open(place.with_name("log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 2)
    faulthandler.enable()
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    while (seed := pipe.recv()) is not None:
        try:
            pipe.send((True, judge(make_case(seed, bundles, place))))
        except BaseException:
            pipe.send((False, traceback.format_exc()))


class Judge:
    """A child process, started anew when a case ends it."""

    def __init__(self, bundles: Sequence[Path], place: Path) -> None:
        self._arguments = (bundles, place)
        self._start()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_judge_all, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()

    def judge(self, seed: int) -> tuple[bool, str]:
        """Whether a seed's case was taken or refused by name, and what was said."""
        try:
            self._pipe.send(seed)
            if self._pipe.poll(HANG_S):
                return self._pipe.recv()
            told = f"no answer after {HANG_S:g} s"
        except (EOFError, OSError):
            self._process.join()
            told = f"the process ended with {self._process.exitcode}"
        log = self._arguments[1].with_name("log")
        told += "\n" + log.read_text(errors="replace")[-4000:]
        self.close()
        self._start()
        return False, told

    def close(self) -> None:
        """End the child."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


@contextmanager
def judging() -> Iterator[tuple[Judge, Path]]:
    """A judge, and where its case stands."""
    with tempfile.TemporaryDirectory(prefix="quorem-fuzz-") as name:
        place = Path(name) / "case"
        place.with_name("log").touch()
        judge = Judge(make_bundles(Path(name)), place)
        try:
            yield judge, place
        finally:
            judge.close()


def fuzz(seeds: Iterator[int] | Sequence[int], kept: Path) -> tuple[Counter[str], list[Failure]]:
    """Judge the cases of seeds: how many were judged how, and which failed; those are copied into `kept`."""
    counts, failures = Counter[str](), list[Failure]()
    with judging() as (judge, place):
        for seed in seeds:
            well, told = judge.judge(seed)
            counts[told if well else "FAILED"] += 1
            if not well:
                failures.append(Failure(seed, told))
                shutil.rmtree(kept / str(seed), ignore_errors=True)
                shutil.copytree(place, kept / str(seed)) if place.is_dir() else (kept / str(seed)).mkdir(parents=True)
                (kept / str(seed) / "told").write_text(told)
                print(f"seed {seed} failed, kept in {kept / str(seed)}: {told.splitlines()[-1]}", flush=True)
    return counts, failures


def _seeds(first: int, seconds: float) -> Iterator[int]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield first
        first += 1


def main() -> int:
    """Judge the seeds that are named, or as many as the time allows; exit status 1 if one fails."""
    if named := [int(each) for each in sys.argv[1:]]:
        counts, failures = fuzz(named, KEPT)
    else:
        seconds = float(os.environ.get("FUZZ_SECONDS", "600"))
        first = int(os.environ.get("FUZZ_SEED", random.SystemRandom().randrange(2**31)))
        print(f"bundles spoilt from seed {first} on, for {seconds:g} s", flush=True)
        counts, failures = fuzz(_seeds(first, seconds), KEPT)
    print("\nsaid by export --check, inspect and the loader:")
    for said, count in counts.most_common():
        print(f"{count:8}  {said}")
    print(f"{counts.total()} cases, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
