"""What `quorem export` does: publish a run or prove one, and tell what came of it."""

import argparse
import json
from pathlib import Path

import onnx

from ..protos import manifest as manifests
from ..protos import manifest_pb2 as pb
from ..protos.errors import ArtifactError
from .bundle import MODEL, prove_bundle, prove_run, publish
from .parity import Parity


def main(args: argparse.Namespace) -> int:
    """Export a run; with --check, prove a run or a bundle and publish nothing. Returns the exit status.

    Raises:
        QuoremError: the command tells it and exits with 2.
    """
    try:
        facts = _check(args.run_directory) if args.check else _export(args.run_directory, args.to, args.version)
    except OSError as error:
        raise ArtifactError(
            "export reads the run and writes the model repository",
            found=error.strerror or str(error),
            where=str(error.filename or args.to or args.run_directory),
            remedy="Give it a directory it may write, with room for the tables",
        ) from None
    print(json.dumps(facts) if args.json else _table(facts))
    return 0


def _export(run: Path, to: Path, version: int | None) -> dict[str, object]:
    bundle, parity = publish(run, to, version)
    nodes = onnx.load(str(bundle / MODEL), load_external_data=False).graph.node
    facts = _facts(manifests.read(bundle, verify_digests=False), parity)
    return {"path": str(bundle), "version": int(bundle.name), "nodes": len(nodes), **facts}


def _check(directory: Path) -> dict[str, object]:
    is_bundle = manifests.read(directory, verify_digests=False).HasField("export")
    manifest, parity = prove_bundle(directory) if is_bundle else prove_run(directory)
    facts = _facts(manifest, parity) | {"rows": parity.rows}
    return {"path": str(directory), "checked": "bundle" if is_bundle else "run", **facts}


def _facts(manifest: pb.Manifest, parity: Parity) -> dict[str, object]:
    return {
        "files": {file.name: file.bytes for file in manifest.files},
        "table_bytes": manifest.export.table_bytes,
        "parity_bound": manifest.export.parity_bound,
        "parity_found": parity.found,
    }


def _table(facts: dict[str, object]) -> str:
    files = facts["files"]
    assert isinstance(files, dict)
    rows = [(name, f"{count:,} bytes") for name, count in files.items()]
    if "nodes" in facts:
        rows.append(("nodes", f"{facts['nodes']}"))
    rows.append(("parity", f"{facts['parity_found']:.1e} of {facts['parity_bound']:.0e} * max(1, |logit|)"))
    if "rows" in facts:
        rows.append(("rows compared", f"{facts['rows']:,}"))
    told = f"checked the {facts['checked']}" if "checked" in facts else "published"
    width = max(len(name) for name, _ in rows)
    return "\n".join([f"{told} {facts['path']}", *(f"  {name:<{width}}  {text}" for name, text in rows)])
