"""The `quorem` command: one parser for every program, and one way for a command to fail."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence

from . import __version__, demo
from .export import command as export_command
from .protos import command as protos_command
from .protos.errors import QuoremError
from .serve import command as serve_command
from .serve.bench import command as bench_command
from .train import command as train_command
from .train import plot_command
from .train.compare import command as compare_command
from .train.encode import command as encode_command
from .train.search import command as search_command

# Which modules each extra of pyproject.toml installs, the smallest extra first.
EXTRAS = {
    "bench": ("matplotlib", "pyarrow"),
    "export": ("onnx",),
    "ray": ("ray",),
    "train": ("matplotlib", "pyarrow", "pydantic", "tomli_w", "torch"),
}

ALONE = ("compare", "demo", "encode", "search")  # several ranks of torchrun would each do all of it
SLOWEST = 1.0  # seconds that the first rank, which tells, may need: torchrun ends all when one has ended
REFUSED = 2  # exit status of a broken rule, as of an argument that argparse refuses
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
PIPE_CLOSED = 141  # 128 + SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; a broken rule is told on stderr, without a traceback."""
    try:
        try:
            return _run(_parser().parse_args(arguments))
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone: what is still buffered goes nowhere, so that the interpreter's last flush is quiet too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quorem",
        description="Train CTR models with compressed embedding tables, export them as ONNX, serve them over gRPC.",
        epilog="`quorem COMMAND --help` tells more about each; `quorem demo` shows the whole road in a few minutes.",
    )
    parser.add_argument("--version", action="version", version=f"quorem {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for module in (
        encode_command,
        train_command,
        search_command,
        compare_command,
        plot_command,
        export_command,
        serve_command,
        bench_command,
        protos_command,
        demo,
    ):
        module.register(commands)
    return parser


def _run(args: argparse.Namespace) -> int:
    if args.command in ALONE and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return _refuse_rank(args)
    try:
        return args.run(args)
    except QuoremError as error:
        return _refuse(args, str(error), error.as_dict())
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, a directory that may not be written: the system's own reason
        found = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
        return _refuse(args, found, {"error": type(error).__name__, "found": found})
    except ModuleNotFoundError as error:
        extra = _extra_of(error.name, args.extra)
        if extra is None:
            raise
        remedy = f"pip install 'quorem[{extra}]'"
        message = f"this needs {error.name}, which is not installed: {remedy}"
        return _refuse(args, message, {"error": "MissingExtra", "found": message, "remedy": remedy})


def _extra_of(module: str | None, preferred: str | None) -> str | None:
    """The extra that installs `module`: the command's own where it does (all does), else the first."""
    extras = [extra for extra, modules in EXTRAS.items() if module in modules]
    if preferred == "all" and extras:
        return preferred
    return preferred if preferred in extras else next(iter(extras), None)


def _refuse_rank(args: argparse.Namespace) -> int:
    """Refuse to run on several ranks; the first of them tells."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(SLOWEST)
        return REFUSED
    error = QuoremError(
        f"`quorem {args.command}` runs in one process; `quorem train` runs on several ranks",
        found=f"WORLD_SIZE={os.environ['WORLD_SIZE']}",
        where="the environment",
        remedy="Start it without torchrun",
    )
    return _refuse(args, str(error), error.as_dict())


def _refuse(args: argparse.Namespace, message: str, facts: dict[str, str]) -> int:
    print(json.dumps(facts) if args.json else f"quorem {args.command}: {message}", file=sys.stderr)
    return REFUSED
