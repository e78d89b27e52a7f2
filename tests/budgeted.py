"""A small budget search on made rows: its recipe, how it is stopped, and in which files two of them differ."""

import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from commands import RECIPE

SMALL = RECIPE.replace("train = 4000, valid = 1000, test = 1000", "train = 1000, valid = 300, test = 300")
SMALL = SMALL.replace("dropout = 0.1", "dropout = 0.1\nbatchnorm = true")
SEARCH = """
[search]
candidates = [1, 2, 4]
fields = { C7 = [3, 8] }
lookup = "separate"
base = 8
choice = "soft"
penalty = 0.1
warmup = 1
epochs = 3
every = 2
lr = 0.05
tau_rate = 0.02
"""
HERE = ("--device", "cpu")
SAME = ("plan.json", "search.json", "map.svg", "recipe.toml", "budget-1.json", "history.jsonl")
BUDGET, BUDGETS = "14KB", "20KB,14KB"


def differing(one: Path, other: Path, names: Iterable[str] = SAME) -> list[str]:
    """The files that are not the same in both directories, to the byte."""
    return [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()]


def files_of(directory: Path) -> set[str]:
    """The files there, but for what a kill left of one that was being written: those begin with a dot."""
    found = (path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(directory)) for path in found}


def stop_at(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, count: int) -> Callable[[], None]:
    """Press Ctrl-C in the so-manieth call of a function; what is returned takes the finger away."""
    real, seen = getattr(module, name), list[int]()

    def called(*arguments: Any, **named: Any) -> Any:
        seen.append(1)
        if len(seen) == count:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, called)
    return lambda: monkeypatch.setattr(module, name, real)
