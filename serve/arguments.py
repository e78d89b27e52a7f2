"""Arguments: those that several commands share, and how numbers are read. Importing it costs nothing."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

N = TypeVar("N", int, float)


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, line: str, text: str, examples: str
) -> argparse.ArgumentParser:
    """A command whose help is printed as it is written."""
    return commands.add_parser(
        name,
        help=line,
        description=text,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_file_options(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """What it takes to read rows of a file."""
    parser.add_argument(
        "--ignore",
        metavar="COLUMN",
        action="append",
        default=[],
        help="a column of the file that is no feature, such as the label (repeatable)",
    )


def add_access_options(parser: argparse.ArgumentParser) -> None:
    """What it takes to call a server, beside its address."""
    parser.add_argument("--tls-ca", metavar="FILE", type=Path, help="call over TLS; who vouches for the server (PEM)")
    parser.add_argument("--tls-cert", metavar="FILE", type=Path, help="the caller's certificate, for mutual TLS (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", type=Path, help="its key (PEM, without a password)")
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="holds the bearer token of every call")
    parser.add_argument("--insecure-token", action="store_true", help="send the token without TLS, too")


def number(kind: Callable[[str], N], low: N, high: N) -> Callable[[str], N]:
    """A parser of one number in [low, high]."""

    def number(text: str) -> N:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not in [{low}, {high}]")
        return value

    return number


def numbers(kind: Callable[[str], N], low: N, high: N) -> Callable[[str], list[N]]:
    """A parser of numbers with commas between them."""
    one = number(kind, low, high)

    def numbers(text: str) -> list[N]:
        return [one(part) for part in text.split(",")]

    return numbers
