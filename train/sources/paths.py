"""Paths: what a recipe writes for a file becomes the files it means."""

import os
import re
from pathlib import Path

from ...protos.errors import DataError

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def resolve(pattern: str, base: Path, key: str) -> tuple[Path, ...]:
    """The files that a path or a glob of the recipe means, sorted by name.

    Args:
        pattern: a path or a glob; `~`, `$NAME` and `${NAME}` are expanded.
        base: the directory that a relative path starts from: the recipe's.
        key: the recipe's key that holds it, for errors.

    Raises:
        DataError: a variable is not set, or no such file is there.
    """
    path = Path(expand(pattern, key)).expanduser()
    full = base / path
    if full.is_file():
        return (full,)
    root = Path(full.anchor) if path.is_absolute() else base
    magic = any(sign in str(path) for sign in "*?[")
    found = sorted(file for file in root.glob(str(path.relative_to(path.anchor))) if file.is_file()) if magic else []
    if not found:
        raise DataError(
            "a path of the recipe names at least one file",
            found=f"no file matches {full}" if magic else f"no file {full}",
            where=f"{key} = {pattern!r}",
            remedy=f"Correct the path; a relative one starts from {base}",
        )
    return tuple(found)


def expand(pattern: str, key: str) -> str:
    """A path of the recipe with the values of its environment variables; `key` holds it, for errors."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise DataError(
                "every environment variable in a path is set",
                found=f"${name} is not set",
                where=f"{key} = {pattern!r}",
                remedy=f"Export {name}=DIRECTORY before the command, or write the directory into the recipe",
            )
        return os.environ[name]

    return _VARIABLE.sub(value, pattern)
