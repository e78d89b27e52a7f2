"""Tuning: what `quorem export --tune` measured for a version on some machine; without it, constants.

`tuning.json` stands in the version's directory outside the digests, and may be deleted or written anew:

    {"format_version": 1, "rank_from": 24, "preferred_batch_sizes": [32, 128], "machine": "…"}
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never, TypeGuard

from ..protos import manifest
from ..protos.errors import Malformed, NewerFormat

NAME = "tuning.json"
FORMAT_VERSION = 1
LARGEST = 2**31 - 1
QUOTED = 200  # characters of what was found that an error repeats


@dataclass(frozen=True)
class Tuning:
    """What the server takes from it; the preferred batch sizes are for Triton.

    rank_from: the fewest candidates of one context that the ranking graph scores; None: it scores none.
    """

    rank_from: int | None = 24


def read(directory: Path) -> Tuning:
    """A version's tuning; the constants where nothing was measured.

    Raises:
        Malformed: not what is described above.
        NewerFormat: written by a later version of quorem.
    """
    path = directory / NAME
    try:
        found: object = json.loads(manifest.read_bytes(path))
    except FileNotFoundError:
        return Tuning()
    except (OSError, ValueError, RecursionError) as error:
        _refuse(f"{NAME} is a JSON file", str(error), path)
    if not isinstance(found, dict):
        _refuse(f"{NAME} is a JSON object", type(found).__name__, path)
    return _checked(found, path)


def _checked(found: dict[str, Any], path: Path) -> Tuning:
    version = found.get("format_version")
    if not _is_count(version):
        _refuse(f"{NAME} states its format_version, a whole number from 1 on", repr(version), path)
    if version > FORMAT_VERSION:
        raise NewerFormat(
            f"this version of quorem reads format {FORMAT_VERSION} of {NAME}",
            found=f"format {version}",
            where=str(path),
            remedy="Install the quorem that wrote it, or a later one",
        )
    known = ("format_version", "rank_from", "preferred_batch_sizes", "machine")
    if unknown := [name for name in found if name not in known]:
        _refuse(f"{NAME} has no keys but {', '.join(known)}", repr(unknown[0]), path)
    rank_from = found.get("rank_from", Tuning.rank_from)
    if rank_from is not None and not _is_count(rank_from):
        _refuse(f"rank_from is a whole number from 1 to {LARGEST}, or null for never", repr(rank_from), path)
    sizes = found.get("preferred_batch_sizes", [])
    if not isinstance(sizes, list) or not all(map(_is_count, sizes)):
        _refuse(f"preferred_batch_sizes is a list of whole numbers from 1 to {LARGEST}", repr(sizes), path)
    if not isinstance(machine := found.get("machine", ""), str):
        _refuse("machine is a text", repr(machine), path)
    return Tuning(rank_from)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 1 <= value <= LARGEST


def _refuse(rule: str, found: str, path: Path) -> Never:
    raise Malformed(
        rule, found=found[:QUOTED], where=str(path), remedy="Delete it, or write it again with `quorem export --tune`"
    )
