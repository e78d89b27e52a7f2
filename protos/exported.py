"""Exported: what a bundle's manifest says of its export, checked against its schema, plan, net and files."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from . import manifest_pb2 as pb
from . import schema
from .errors import Malformed, MissingFile
from .manifest import QUOTED
from .tables_bin import PARTS

ROW_WISE, RANKING, TABLES, GOLDEN = "model.onnx", "rank.onnx", "tables.bin", "golden.safetensors"
# Of int8 layers in nets of wide logits, where rare sums of errors reach 1; nothing is proved beyond it.
WIDEST_BOUND = 8.0
STAGES = {side + name for side in ("", "context.") for name in ("ids", "lookup", "dense", "net", "output")}
CODES = {pb.FP32: set[int](), pb.FP16: {pb.HALF}, pb.INT8: {pb.HALF, pb.FIELD_SCALE, pb.ROW_SCALE}}
DENSE = (pb.FP32, pb.INT8)
MATRICES = ("linear", "cross_matrix")
AGAIN = "Export the run again, as a new version"
DIGEST = re.compile(r"[0-9a-f]{64}")
Broken = Iterator[tuple[str, str]]  # rules that do not hold, and what was found


def check(manifest: pb.Manifest, where: str) -> None:
    """Refuse a manifest that is no bundle's, or whose facts of the export cannot be.

    Versions before the second graph told no precision, graphs and parts: what is absent is not asked for.

    Args:
        manifest: checked as manifest.check does.
        where: its file.

    Raises:
        Malformed: facts that contradict the model, its files or one another.
        MissingFile: a file of a bundle that the manifest holds no digest of.
    """
    if not manifest.HasField("export"):
        raise Malformed("a bundle says what was exported", found="a run directory", where=where, remedy=AGAIN)
    _refuse(_graphs(manifest), where)
    for name in files(manifest):
        if name not in {file.name for file in manifest.files}:  # it would be used unverified
            raise MissingFile(
                f"a bundle's manifest holds the digest of {name}", found="none", where=where, remedy=AGAIN
            )
    for rules in (_numbers, _precision, _sizes):
        _refuse(rules(manifest), where)


def files(manifest: pb.Manifest) -> list[str]:
    """The files that scores are made from, and the rows that prove them: the graphs, the tables, the golden rows."""
    return [*graphs(manifest), TABLES, GOLDEN]


def graphs(manifest: pb.Manifest) -> list[str]:
    """The files of a bundle's graphs."""
    return [graph.file for graph in manifest.export.graphs] or [ROW_WISE]


def _refuse(broken: Broken, where: str) -> None:
    for rule, found in broken:
        told = found if len(found) <= QUOTED else found[:QUOTED] + " …"
        raise Malformed(rule, found=told, where=f"{where}, export", remedy=AGAIN)


def _numbers(manifest: pb.Manifest) -> Broken:
    export, places = manifest.export, schema.layout(manifest.schema)
    if not 0 < export.parity_bound <= WIDEST_BOUND:  # not a number is neither
        yield f"a bundle is proved within a parity bound above 0, at most {WIDEST_BOUND:g}", f"{export.parity_bound:g}"
    if (export.slots, export.dense) != (places.slot_count, places.dense_count):
        wanted = f"the graphs of this schema read {places.slot_count} slots and {places.dense_count} numbers"
        yield wanted, f"{export.slots} and {export.dense}"
    if not DIGEST.fullmatch(export.run_sha256):
        yield "run_sha256 is the digest of the run's manifest, 64 hex digits", repr(export.run_sha256)


def _precision(manifest: pb.Manifest) -> Broken:
    export, plan = manifest.export, manifest.plan
    kept = export.precision if export.HasField("precision") else pb.Precision(tables=pb.FP32, dense=pb.FP32)
    for each in (kept, *(candidate.precision for candidate in export.candidates)):
        if each.tables not in CODES or each.dense not in DENSE:
            rule = "tables are in fp32, fp16 or int8, dense layers in fp32 or int8"
            yield rule, f"numbers {each.tables} and {each.dense}"
    if export.candidates and kept not in [candidate.precision for candidate in export.candidates]:
        yield "the precision is one of the candidates that it was chosen from", "another"
    tables = [("embedding", each) for each in plan.fields] + [("first_order", each) for each in plan.first_order]
    bits = {f"{kind}.{each.feature}.{j}": table.bits for kind, each in tables for j, table in enumerate(each.tables)}
    named = [code.tensor for code in export.codes]
    yield from _names("codes are of the plan's tables, each once", named, set(bits))
    for tensor in sorted({each for each, few in bits.items() if few}.difference(named)):
        yield "a table of few bits has a code", f"none of {tensor!r}"
    for code in export.codes:
        known = {pb.COLUMN_SCALE} if bits.get(code.tensor) else CODES.get(kept.tables, set())
        if code.code not in known:
            yield f"tables of this precision, and of these bits, have codes {sorted(known)}", f"code {code.code}"
        if not 0 <= code.error < float("inf"):
            yield "the error of a code is a finite number from 0 on", f"{code.error:g}"
    matrices = {layer.name for layer in manifest.net.layers if layer.WhichOneof("kind") in MATRICES}
    wide = matrices if kept.dense == pb.INT8 else set[str]()
    yield from _names("layers in int8 are layers with a matrix, of dense layers in int8", export.int8_layers, wide)


def _graphs(manifest: pb.Manifest) -> Broken:
    export = manifest.export
    named = [graph.file for graph in export.graphs]
    if named not in ([], [ROW_WISE], [ROW_WISE, RANKING]):
        yield f"the graphs of a bundle are {ROW_WISE}, and {RANKING} behind it or not", str(named)
    if named and (RANKING in named) == bool(export.no_rank):
        yield f"a bundle has {RANKING}, or says why it has none", "both" if export.no_rank else "neither"
    if RANKING in named and len({feature.side for feature in manifest.schema.features}) < 2:
        yield f"{RANKING} is of schemas that have features on both sides", "features on one side"
    for graph in export.graphs:
        yield from _names("a graph has known stages, each once", [stage.name for stage in graph.stages], STAGES)


def _sizes(manifest: pb.Manifest) -> Broken:
    export = manifest.export
    size = next((file.bytes for file in manifest.files if file.name == TABLES), 0)
    if export.table_bytes > size:
        yield f"{TABLES} holds all tables", f"{export.table_bytes} bytes of them in {size}"
    if export.parts:
        yield from _names(f"{TABLES} has known parts, each once", [part.name for part in export.parts], set(PARTS))
        total = sum(part.bytes for part in export.parts)
        if total != size:
            yield f"the parts of {TABLES} add up to it", f"{total} of {size} bytes"


def _names(rule: str, found: Sequence[str], known: set[str]) -> Broken:
    for name, count in Counter(found).items():
        if name not in known or count > 1:
            yield rule, repr(name) if name not in known else f"{name!r} {count} times"
