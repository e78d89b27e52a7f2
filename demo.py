"""The command `quorem demo`: made clicks all the way to scores, every step a command of its own, told on one page."""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import signal
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from .demo_steps import Steps

DESCRIPTION = """\
The whole road in a few minutes, on made clicks: the same model is trained with full, hashed
and quotient-remainder tables, exported, served on a free port of this machine, scored and
benched. The findings go to OUT/index.html, one page with plots, and to a table here.

Needs `pip install 'quorem[all]'`, two cores, under 1.5 GB of memory and no network."""

EXAMPLES = """\
examples:
  quorem demo
  quorem demo --out /tmp/demo --keep      keep the runs and the model repository too
  quorem demo --quick --json              few rows: shows that all works, says little of the schemes

Each step is logged in OUT/demo.log with the command that made it. Ctrl-C ends all of them."""

SCHEMES = {
    "full": ("embedding.scheme=full",),
    "hash": ("embedding.scheme=hash", "embedding.hash_rows=qr"),  # as many rows as quotient-remainder holds
    "qr": ("embedding.scheme=qr",),
}
QUICK = ("data.synthetic.rows={train=30000,valid=4000,test=4000}", "data.synthetic.scale=0.002", "train.batch=256")
WINDOW_SECONDS, QUICK_WINDOW_SECONDS, WARMUP_SECONDS = 1.0, 0.15, 0.4

FACTS, PAGE, ROWS = "demo.json", "index.html", "rows.csv"
WORK = ("runs", "models", ROWS)  # what --keep keeps
PARITY = 1e-5  # of a logit, times max(1, |logit|)
TERMINATED = 143  # 128 + SIGTERM, as shells report it


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `demo` to the commands of `quorem`."""
    parser = commands.add_parser(
        "demo",
        help="the whole road in a few minutes, told on one page",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", metavar="OUT", type=Path, default=Path("demo-out"), help="directory to write (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="few rows and short benches")
    parser.add_argument("--keep", action="store_true", help=f"keep what the page was made from: {', '.join(WORK)}")
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON object, and errors too")
    parser.set_defaults(run=_run, extra="all")


def _run(args: argparse.Namespace) -> int:
    for module in ("torch", "onnx", "matplotlib"):
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    from rich.console import Console

    from . import demo_page, demo_steps
    from .protos.manifest import write_atomically

    _open(args.out, demo_steps.LOG)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        with demo_steps.Steps(args.out, Console(stderr=True, quiet=args.json, highlight=False)) as steps:
            findings = _walk(args.out, steps, quick=args.quick)
    finally:
        signal.signal(signal.SIGTERM, before)
    write_atomically(args.out / FACTS, f"{json.dumps(findings, indent=1)}\n".encode())
    write_atomically(args.out / PAGE, demo_page.render(findings).encode())
    if not args.keep:
        _remove(args.out, WORK)
    if args.json:
        print(json.dumps(findings | {"page": str(args.out / PAGE)}))
    else:
        demo_page.show(findings, Console(highlight=False))
        print(f"\nThe page: {args.out / PAGE}")
    return 0


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)


def _open(out: Path, log: str) -> None:
    """Make the directory, or clear an earlier demo's; nothing else is ever written over."""
    from .protos.errors import QuoremError

    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / log).is_file())):
        raise QuoremError(
            "a demo is written into a new or empty directory, or over an earlier demo",
            found="something else",
            where=str(out),
            remedy="Name another --out",
        )
    out.mkdir(parents=True, exist_ok=True)
    _remove(out, (*WORK, FACTS, PAGE))
    (out / log).write_bytes(b"")


def _remove(out: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


def _walk(out: Path, steps: "Steps", *, quick: bool) -> dict[str, Any]:
    """The whole road; what was found, as the page tells it."""
    runs, repository = out / "runs", out / "models"
    settings = [part for setting in (QUICK if quick else ()) for part in ("--set", setting)]
    models = dict[str, dict[str, Any]]()
    for name, own in SCHEMES.items():
        chosen = [*settings, *(part for setting in own for part in ("--set", setting))]
        run = ["train", "synthetic", "--out", str(runs / name), "--device", "cpu", "--quiet", *chosen]
        trained = steps.run(f"train {name}", *run)
        models[name] = {
            "table_bytes": trained["bytes"] + trained["first_order_bytes"],
            "auc": trained["test"]["auc"],
            "logloss": trained["test"]["logloss"],
            "optimal_auc": trained["optimal_auc"],
        }
    for name, model in models.items():
        exported = steps.run(f"export {name}", "export", str(runs / name), "--to", str(repository / name))
        model |= {"file_bytes": exported["files"]["tables.bin"], "parity": exported["parity_found"]}
    _write_rows(runs / "full", out / ROWS)
    server, ready = steps.serve("serve", str(repository), "--port", "0")
    address, workers = ready["address"], ready["worker_pids"]
    for name, model in models.items():
        score = ["score", address, str(out / ROWS), "--model", name, "--logit"]
        scored = steps.run(f"score {name}", *score)
        model |= _compare(scored["scores"], runs / name)
    window = QUICK_WINDOW_SECONDS if quick else WINDOW_SECONDS
    for name, model in models.items():
        load = ["--rows-file", str(out / ROWS), "--concurrency", "1,8", "--rows", "1,128"]
        timing = ["--window", str(window), "--windows", "3", "--warmup", str(WARMUP_SECONDS), "--no-noop"]
        model["bench"] = steps.run(f"bench {name}", "bench", address, "--model", name, *load, *timing)["cells"]
    held = steps.memory.of_files(workers, {name: repository / name / "1" / "tables.bin" for name in models})
    for name, model in models.items():
        model["resident_bytes"] = held[name]
    served = {"workers": len(workers), "bytes": steps.memory.of_processes([ready["pid"], *workers])}
    steps.stop(server)
    return {
        "quick": quick,
        "optimal_auc": models["full"].pop("optimal_auc"),
        "models": models,
        "server": served,
        "steps": steps.done,
        "seconds": round(sum(step["seconds"] for step in steps.done), 1),
        "peak_bytes": steps.memory.peak(),
        "machine": _machine(),
        "versions": _versions(),
    }


def _write_rows(run: Path, to: Path) -> None:
    """The run's held-out rows as CSV: what `quorem score` sends. Numbers get the digits that read back the same."""
    from safetensors.numpy import load_file

    from .protos.manifest import write_atomically

    features = json.loads((run / "manifest.json").read_text("utf-8"))["schema"]["features"]
    reference = load_file(run / "reference.safetensors")
    dense, ids = iter(reference["dense"].T), iter(reference["ids"].T)  # in the order of the schema
    columns = [map(str, next(dense if "dense" in feature else ids)) for feature in features]
    lines = [",".join(feature["name"] for feature in features), *map(",".join, zip(*columns, strict=True))]
    write_atomically(to, "".join(f"{line}\n" for line in lines).encode())


def _compare(scores: list[float], run: Path) -> dict[str, Any]:
    """How far the served logits are from those that training wrote beside its held-out rows.

    Raises:
        ParityError: further than the bound.
    """
    from safetensors.numpy import load_file

    from .protos.errors import ParityError

    logits = load_file(run / "reference.safetensors")["logit"].tolist()
    differences = [abs(x - y) / max(1.0, abs(y)) for x, y in zip(scores, logits, strict=True)]
    if not max(differences) <= PARITY:
        raise ParityError(
            f"the server gives the logits of training, to {PARITY:g} x max(1, |logit|)",
            found=f"{max(differences):g}",
            where=f"row {differences.index(max(differences))} of {run}",
            remedy="This is a bug of quorem: please report it",
        )
    return {"rows_compared": len(scores), "largest_difference": max(differences)}


def _machine() -> dict[str, Any]:
    model, total = platform.processor() or platform.machine(), None
    if (info := Path("/proc/cpuinfo")).is_file():
        named = [line.partition(":")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
        model = named[0].strip() if named else model
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"system": platform.platform(terse=True), "processor": model, "cores": usable, "memory_bytes": total}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("quorem", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "grpcio", "protobuf"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
