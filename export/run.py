"""What `quorem export` does: publish a run or prove one, and tell what came of it."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..protos import manifest as manifests
from ..protos import manifest_pb2 as pb
from ..protos.errors import ArtifactError
from . import precision
from .bundle import FLOAT32, prove_bundle, prove_run, publish
from .parity import Parity
from .tune import NAME, tune


def main(args: argparse.Namespace) -> int:
    """Export a run; prove one, or a bundle, with --check; measure a bundle with --tune. Returns the exit status.

    Raises:
        QuoremError: the command tells it and exits with 2.
    """
    try:
        facts = _check(args) if args.check else _export(args) if args.to else _tune(args.run_directory)
    except OSError as error:
        raise ArtifactError(
            "export reads the run and writes the model repository",
            found=error.strerror or str(error),
            where=str(error.filename or args.to or args.run_directory),
            remedy="Give it a directory it may write, with room for the tables",
        ) from None
    print(json.dumps(facts) if args.json else _table(facts))
    return 0


def _export(args: argparse.Namespace) -> dict[str, object]:
    asked = precision.parse(args.precision)
    bundle, parity = publish(args.run_directory, args.to, args.version, asked, args.max_auc_loss, tuned=args.tune)
    facts = _facts(manifests.read(bundle, verify_digests=False), parity)
    tuned = {"tuned": json.loads((bundle / NAME).read_bytes())} if args.tune else {}
    return {"path": str(bundle), "version": int(bundle.name), **facts, **tuned}


def _check(args: argparse.Namespace) -> dict[str, object]:
    directory = args.run_directory
    is_bundle = manifests.read(directory, verify_digests=False).HasField("export")
    if is_bundle:
        manifest, parity = prove_bundle(directory)
    else:
        manifest, parity = prove_run(directory, precision.parse(args.precision), args.max_auc_loss)
    facts = _facts(manifest, parity) | {"rows": parity.rows}
    return {"path": str(directory), "checked": "bundle" if is_bundle else "run", **facts}


def _tune(directory: Path) -> dict[str, object]:
    if not manifests.read(directory, verify_digests=False).HasField("export"):
        raise ArtifactError(
            "--tune without --to measures a published version",
            found="a run directory",
            where=str(directory),
            remedy="Name a version, as in models/ctr/7, or publish the run with --to and --tune",
        )
    return {"path": str(directory), "tuned": asdict(tune(directory))}


def _facts(manifest: pb.Manifest, parity: Parity) -> dict[str, object]:
    export = manifest.export
    return {
        "files": {file.name: file.bytes for file in manifest.files},
        "table_bytes": export.table_bytes,
        "parts": {part.name: part.bytes for part in export.parts},
        "precision": precision.told(export.precision if export.HasField("precision") else FLOAT32),
        "nodes": {graph.file: sum(stage.nodes for stage in graph.stages) for graph in export.graphs},
        "no_rank": export.no_rank,
        "candidates": [
            {
                "precision": precision.told(each.precision),
                "bytes": each.bytes,
                "auc": each.auc,
                "logloss": each.logloss,
                "rmse": each.rmse,
            }
            for each in export.candidates
        ],
        "parity_bound": export.parity_bound,
        "parity_found": parity.found,
    }


def _table(facts: dict[str, Any]) -> str:
    tuned = list[tuple[str, str]]()
    if "tuned" in facts:
        least, batches = facts["tuned"]["rank_from"], facts["tuned"]["preferred_batch_sizes"]
        tuned.append(("rank.onnx pays", f"from {least} candidates on" if least else "never"))
        tuned += [("batches that pay", ", ".join(map(str, batches))), ("tuned on", facts["tuned"]["machine"])]
    if "files" not in facts:
        return _told(f"tuned {facts['path']}", tuned)
    rows = [(name, f"{count:,} bytes") for name, count in facts["files"].items()]
    rows += [(f"{name} nodes", f"{count}") for name, count in facts["nodes"].items()]
    if facts["no_rank"]:
        rows.append(("no rank.onnx", facts["no_rank"]))
    rows.append(("precision", facts["precision"]))
    for each in facts["candidates"]:
        told = (
            f"{each['bytes']:>14,} bytes  AUC {each['auc']:.6f}  logloss {each['logloss']:.6f}  rmse {each['rmse']:.1e}"
        )
        rows.append((f"  {each['precision']}", told))
    rows.append(("parity", f"{facts['parity_found']:.1e} of {facts['parity_bound']:.1e} * max(1, |logit|)"))
    if "rows" in facts:
        rows.append(("rows compared", f"{facts['rows']:,}"))
    did = f"checked the {facts['checked']}" if "checked" in facts else "published"
    return _told(f"{did} {facts['path']}", [*rows, *tuned])


def _told(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in rows)])
