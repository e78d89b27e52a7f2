"""Plan directories that somebody edited by hand: what `quorem search` wrote, changed at one place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quorem.protos import manifest
from quorem.protos.plan_directory import PLAN, SEARCH

Json = dict[str, Any]


def tell(change: Callable[[Json], object]) -> Callable[[Path], object]:
    """Edit search.json."""

    def edit(directory: Path) -> None:
        tree = json.loads((directory / SEARCH).read_text())
        change(tree)
        (directory / SEARCH).write_text(json.dumps(tree))

    return edit


def choose(name: str, **values: Any) -> Callable[[Path], object]:
    """Edit a feature's choice in search.json."""
    return tell(lambda tree: next(each for each in tree["choices"] if each["feature"] == name).update(values))


def plan(change: Callable[[Json], object]) -> Callable[[Path], object]:
    """Edit plan.json, and search.json so that it has the digest."""

    def edit(directory: Path) -> None:
        tree = json.loads((directory / PLAN).read_text())
        change(tree)
        (directory / PLAN).write_text(json.dumps(tree))
        digest = {"name": PLAN, "bytes": str((directory / PLAN).stat().st_size)}
        tell(lambda told: told.update(files=[{**digest, "sha256": manifest.sha256_of(directory / PLAN)}]))(directory)

    return edit


def field(tree: Json, feature: str) -> Json:
    return next(each for each in tree["fields"] if each["feature"] == feature)
