"""Placeholder until its author writes it: registers inspect."""

import argparse


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    for name in "inspect".split():
        parser = commands.add_parser(name, help="to come", epilog="examples: to come")
        parser.add_argument("--json", action="store_true")
        parser.set_defaults(run=_run, extra=None)


def _run(args: argparse.Namespace) -> int:
    from ..protos.errors import Unimplemented

    raise Unimplemented(f"{args.command} is not written yet")
