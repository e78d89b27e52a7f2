"""`python -m benchmarks.graphs.bundles --work DIR`: bundles of Criteo's cardinalities, their bytes, opened and served.

A DLRM over tables of random weights: full ones, and three plans at lower precisions. Each is exported, its tables.bin
counted beside what the plan says, and served: golden rows go through a client, and a request of one context and many
candidates against the same rows whole. What a server holds of the greatest bundle is measured in processes of its own.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from quorem.export import tables
from quorem.export.bundle import publish
from quorem.export.graph import TABLES, Array
from quorem.export.model import Blueprint
from quorem.export.parity import score
from quorem.export.precision import parse
from quorem.export.run_directory import REFERENCE, WEIGHTS
from quorem.export.tensors import open_tensors
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from quorem.protos import models, packing, partitions, plan
from quorem.protos.encode import Column
from quorem.serve.client import Client
from safetensors.numpy import load_file, save_file

from . import criteo
from .clock import machine

RESULTS, ROOT = Path(__file__).parent / "results", Path(__file__).resolve().parents[2]
MODEL = "model.onnx"
ROWS, CANDIDATES = 256, 200
OPENINGS, PROCESSES = 9, 4
MEBIBYTE = 1 << 20
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Variant:
    """A plan and a precision. collisions: 1 for full tables; k: how many tables, 3 for mixed radices."""

    name: str
    precision: str
    collisions: int = 1
    k: int = 2

    def fields(self) -> list[pb.Field]:
        """The plan of the 26 columns; whole tables up to the threshold."""
        found = list[pb.Field]()
        for number, n in enumerate(criteo.CARDINALITIES, 1):
            if n <= criteo.THRESHOLD or (self.collisions == 1 and self.k == 2):
                pairs, scheme = partitions.full(n), pb.FULL
            elif self.k == 2:
                pairs, scheme = partitions.quotient_remainder(n, -(-n // self.collisions)), pb.QUOTIENT_REMAINDER
            else:
                pairs, scheme = partitions.mixed_radix(n, self.k), pb.MIXED_RADIX
            found.append(plan.build_field(f"C{number}", n, pairs, scheme=scheme, combine=pb.MULT, dim=criteo.DIM))
        return packing.pack(found)


VARIANTS = (
    Variant("full", "fp32"),
    Variant("c=4", "fp16", 4),
    Variant("c=60", "int8", 60),
    Variant("k=3", "fp16", 1, 3),
)


def main() -> None:
    """Build, serve and measure; write `bundles.json` and `bundles.md`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.graphs.bundles", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="a directory for runs and bundles, up to 6.5 GB")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go")
    args = parser.parse_args()
    rows, opened = list[dict[str, Any]](), dict[str, Any]()
    for variant in VARIANTS:
        work = args.work / variant.name
        shutil.rmtree(work, ignore_errors=True)
        manifest = write_run(work / "run", variant)
        bundle, _ = publish(work / "run", work / "models" / "ctr", precision=parse(variant.precision))
        shutil.rmtree(work / "run")
        rows.append({"plan": variant.name, "precision": variant.precision, **_sizes(variant, manifest, bundle)})
        rows[-1] |= _served(bundle)
        if variant.collisions == 1 and variant.k == 2:
            opened = _memory(bundle)
        print(json.dumps(rows[-1]), flush=True)
        shutil.rmtree(work)
    results = {"machine": machine(), "bundles": rows, "opened": opened}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "bundles.json").write_text(json.dumps(results, indent=1) + "\n")
    text = f"{results['machine']}.\n\n{_table(rows)}\n\n{_told(opened)}\n"
    (args.out / "bundles.md").write_text(text)
    print(text)


def write_run(run: Path, variant: Variant) -> pb.Manifest:
    """A run directory with random weights; its reference logits are those of the float32 row-wise graph."""
    run.mkdir(parents=True)
    made = pb.Plan(fields=variant.fields())
    net = models.dlrm(made, criteo.NUMBERS, bottom=[64, criteo.DIM], top=[64], batchnorm=False, dropout=0)
    manifest = pb.Manifest(format_version=manifests.FORMAT_VERSION, schema=criteo.schema(4), plan=made, net=net)
    manifest.training.source = "random"

    def scale_of(name: str, shape: tuple[int, ...]) -> float:
        if name.startswith("embedding."):
            return 0.3
        return (1 / shape[1]) ** 0.5 if len(shape) == 2 else 0.01

    criteo.write_weights(run / WEIGHTS, manifests.tensor_shapes(manifest), scale_of)
    rng = np.random.default_rng(2)
    dense = rng.standard_normal((ROWS, criteo.NUMBERS), np.float32)
    inputs = {"ids": criteo.random_ids(rng, criteo.CARDINALITIES, ROWS), "dense": dense}
    with open_tensors(run / WEIGHTS) as weights:
        model = Blueprint(manifest, weights.read).build()
        tables.write(run / TABLES, model.packed, weights)
    (run / MODEL).write_bytes(model.row_wise.SerializeToString())
    logit = score(run / MODEL, inputs)
    save_file({**inputs, "logit": logit, "label": np.zeros(ROWS, np.float32)}, run / REFERENCE)
    (run / TABLES).unlink()
    (run / MODEL).unlink()
    manifest.files.extend(manifests.describe_files(run, [REFERENCE, WEIGHTS]))
    manifests.write(run, manifest)
    return manifest


def _sizes(variant: Variant, manifest: pb.Manifest, bundle: Path) -> dict[str, Any]:
    """Bytes of the file, of its parts, and what the plan's numbers come to."""
    export = manifests.read(bundle, verify_digests=False).export
    parts = {part.name: part.bytes for part in export.parts}
    full = sum(map(plan.full_bytes, manifest.plan.fields))
    size = (bundle / TABLES).stat().st_size
    planned = plan.parameters(manifest.plan.fields) * BYTES[variant.precision]
    codes = sorted({pb.Code.Name(code.code).lower() for code in export.codes})
    return {
        "tables.bin": size,
        "planned": planned,
        "neutral and scales": parts["tables"] - planned,
        "alignment": parts["alignment"],
        "codes": codes,
        "full fp32": full,
        "ratio": full / size,
        "graphs": {name: (bundle / name).stat().st_size for name in (MODEL, "rank.onnx")},
        "parity_bound": export.parity_bound,
    }


# ---------------------------------------------------------------- served


@contextmanager
def _serving(models: Path) -> Iterator[str]:
    """The address of a `quorem serve` on a repository."""
    arguments = ["serve", str(models), "--port", "0", "--workers", "1", "--json"]
    command = [sys.executable, "-m", "quorem", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield json.loads(process.stdout.readline())["address"]
        finally:
            process.terminate()


def _served(bundle: Path) -> dict[str, Any]:
    """How far the scores of a server are from the golden logits, and those of the ranking graph from its own rows'."""
    golden, manifest = load_file(bundle / "golden.safetensors"), manifests.read(bundle, verify_digests=False)
    columns = _columns(manifest.schema, golden)
    context = {each.name for each in manifest.schema.features if each.side == pb.CONTEXT}
    once = {name: _rows(columns[name], np.zeros(1, np.int64)) for name in context}
    apart = {name: _rows(column, np.arange(CANDIDATES)) for name, column in columns.items() if name not in context}
    flat = apart | {name: _rows(columns[name], np.zeros(CANDIDATES, np.int64)) for name in context}
    with _serving(bundle.parents[1]) as address, Client(address) as client:
        rows = client.score("ctr", columns, ROWS, logit=True).scores
        ranked = client.score("ctr", apart, CANDIDATES, context=once, logit=True).scores
        whole = client.score("ctr", flat, CANDIDATES, logit=True).scores
    found = {"served": _off(rows, golden["logit"]), "ranked": _off(ranked, whole)}
    bound = manifest.export.parity_bound
    assert found["served"] <= bound, (found, bound)
    assert found["ranked"] <= 2 * bound, (found, bound)
    return found


def _off(found: Array, expected: Array) -> float:
    return float(f"{np.max(np.abs(found - expected) / np.maximum(1, np.abs(expected))):.2g}")


def _columns(schema: pb.Schema, rows: Mapping[str, Array]) -> dict[str, Column]:
    """Encoded rows as a caller sends them: ids are raw values here."""
    places = {"id": iter(rows["ids"].T), "dense": iter(rows["dense"].T)}
    found = dict[str, Column]()
    for feature in schema.features:
        kind = feature.WhichOneof("encoding") or ""
        values = np.ascontiguousarray(next(places[kind]))
        found[feature.name] = Column(integers=values) if kind == "id" else Column(floats=values)
    return found


def _rows(column: Column, rows: Array) -> Column:
    if column.integers is not None:
        return Column(integers=column.integers[rows])
    assert column.floats is not None
    return Column(floats=column.floats[rows])


# ---------------------------------------------------------------- memory and time


def _memory(bundle: Path) -> dict[str, Any]:
    """What a process adds by opening the bundle, how long that takes, and what several hold together."""
    opened = list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]()
    for _ in range(OPENINGS):
        with _child(bundle) as child:
            opened.append((_line(child), _line(child), _line(child)))
    children = [_start(bundle) for _ in range(PROCESSES)]
    lines = [[_line(child) for _ in range(3)] for child in children]
    for child in children:
        assert child.stdin
        child.stdin.write("\n")
        child.stdin.flush()
        _line(child)
    together = list[dict[str, Any]]()  # told again, now that all have touched all
    for child in children:
        assert child.stdin
        child.stdin.write("\n")
        child.stdin.flush()
        together.append(_line(child))
    for child in children:
        _end(child)
    size = sum(path.stat().st_size for path in bundle.iterdir())
    pss, before = sum(each["Pss"] for each in together), sum(each[0]["Pss"] for each in lines)
    private = [after["Private_Dirty"] - first["Private_Dirty"] for first, after, _ in opened]
    warm = [after["Private_Dirty"] - first["Private_Dirty"] for first, _, after in opened]
    anonymous = [after["Anonymous"] - first["Anonymous"] for first, after, _ in opened]
    sessions = [1000 * sum(after["sessions_s"]) for _, after, _ in opened]
    return {
        "bundle_bytes": size,
        "private_dirty_mib": _spread([each / MEBIBYTE for each in private]),
        "anonymous_mib": _spread([each / MEBIBYTE for each in anonymous]),
        "private_dirty_warm_mib": _spread([each / MEBIBYTE for each in warm]),
        "sessions_ms": _spread(sessions),
        "open_ms": _spread([1000 * after["open_s"] for _, after, _ in opened]),
        "processes": PROCESSES,
        "touched_bytes": [each["touched"] for each in together],
        "pss_bytes": pss,
        "pss_before_bytes": before,
        "pss_of_tables_bytes": sum(each["tables_pss"] for each in together),
        "pss_ratio": pss / size,
        "openings": OPENINGS,
    }


def _start(bundle: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.graphs.opened", str(bundle)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@contextmanager
def _child(bundle: Path) -> Iterator["subprocess.Popen[str]"]:
    child = _start(bundle)
    try:
        yield child
    finally:
        _end(child)


def _end(child: "subprocess.Popen[str]") -> None:
    child.communicate()
    assert child.returncode == 0


def _line(child: "subprocess.Popen[str]") -> dict[str, Any]:
    assert child.stdout
    return json.loads(child.stdout.readline())


def _spread(found: Sequence[float]) -> dict[str, float]:
    told = {"median": median(found), "least": min(found), "greatest": max(found)}
    return {name: float(f"{value:.3g}") for name, value in told.items()}


# ---------------------------------------------------------------- told


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["plan", "precision", "tables.bin, bytes", "the plan's numbers", "neutral rows, scales", "alignment"]
    head += ["of full fp32", "served, off", "bound"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        counts = [f"{row[name]:,}" for name in ("tables.bin", "planned", "neutral and scales", "alignment")]
        cells = [row["plan"], row["precision"], *counts, f"1/{row['ratio']:.2f}", f"{row['served']:.1e}"]
        lines.append("| " + " | ".join([*cells, f"{row['parity_bound']:.1e}"]) + " |")
    return "\n".join(lines)


def _told(opened: Mapping[str, Any]) -> str:
    def spread(name: str) -> str:
        return "{median:g} [{least:g} {greatest:g}]".format(**opened[name])

    return "\n".join(
        [
            f"Opening both graphs of the {opened['bundle_bytes']:,} bytes, {opened['openings']} processes, "
            "median [least greatest]:",
            "",
            f"* private memory added: {spread('private_dirty_mib')} MiB (Private_Dirty), {spread('anonymous_mib')} MiB "
            f"(Anonymous); with golden rows scored {spread('private_dirty_warm_mib')} MiB",
            f"* both sessions made in {spread('sessions_ms')} ms; with the manifest read and checked "
            f"{spread('open_ms')} ms",
            f"* {opened['processes']} processes that touched every page hold {opened['pss_bytes']:,} bytes of PSS, "
            f"{opened['pss_ratio']:.3f} x the bundle; {opened['pss_before_bytes']:,} before they opened it, "
            f"{opened['pss_of_tables_bytes']:,} the tables",
        ]
    )


if __name__ == "__main__":
    main()
