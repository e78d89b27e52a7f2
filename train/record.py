"""The record of a run: `metrics.jsonl`, a JSON object a line, for each glance at the training and each validation.

kind            "step": a glance, some twenty of an epoch; or "validation": an epoch ended
step            batches learned from since the run began
epoch, batch    from 1; the batches of that epoch that are done
rows            rows learned from since the run began, those of every epoch counted
seconds         since the run began; what passed between an interruption and its resumption is left out
rows_per_s      of this epoch, by this process
lr              learning rate of the steps before
gpu_bytes       the most that tensors held on the GPU; absent without one

Of a glance, `loss` is the mean over the epoch's batches so far, and `auc` that of its rows that this process has seen,
each scored by the weights before its step (of several ranks, the first one's rows; null where they are of one class).
Of a validation, `train_loss` and `train_auc` are those numbers at the epoch's end; `auc`, `logloss` and the other
metrics are of the validation rows, and `best` says whether no AUC before was as high. A number that is not finite is
null.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..protos.errors import Malformed, MissingFile
from ..protos.manifest import write_atomically

NAME = "metrics.jsonl"
STEP, VALIDATION = "step", "validation"
ALWAYS = ("step", "epoch", "batch", "rows", "seconds", "lr")
MEASURED = {STEP: ("loss", "auc"), VALIDATION: ("train_loss", "auc", "logloss")}
Kind = Literal["step", "validation"]
Line = Mapping[str, Any]


class Record:
    """The record that a run writes."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME

    def add(self, kind: Kind, facts: Mapping[str, Any]) -> None:
        """Append a line."""
        line: dict[str, Any] = {"kind": kind, **facts}
        for name, value in facts.items():
            if isinstance(value, float) and not math.isfinite(value):
                line[name] = None
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def cut(self, epoch: int, batch: int) -> Line | None:
        """Go back to a checkpoint: drop what it does not know, whole or half-written.

        Args:
            epoch: the epochs that it knows to be over.
            batch: the batches that it knows of the next one.

        Returns:
            The last line that is left.
        """
        kept = list[str]()
        for text in self.path.read_text("utf-8").splitlines() if self.path.exists() else []:
            try:
                line = _parsed(text)
            except ValueError:
                break
            known = (epoch, 0) if line["kind"] == VALIDATION else (epoch + 1, batch)
            if (line["epoch"], 0 if line["kind"] == VALIDATION else line["batch"]) > known:
                break
            kept.append(text)
        write_atomically(self.path, "".join(f"{text}\n" for text in kept).encode())
        return _parsed(kept[-1]) if kept else None


def read_record(directory: Path) -> list[Line]:
    """The lines of a run's record, in order; a last one that is being written is left out.

    Raises:
        MissingFile: no record, or an empty one. Malformed: another file under that name.
    """
    path = directory / NAME
    lines = list[Line]()
    if path.is_file():
        texts = path.read_text("utf-8", errors="replace").split("\n")[:-1]
        for number, text in enumerate(texts, 1):
            try:
                lines.append(_parsed(text))
            except ValueError as error:
                raise Malformed(
                    f"a line of {NAME} is a JSON object with a kind, {', '.join(ALWAYS)}",
                    found=str(error),
                    where=f"{path}, line {number}",
                    remedy="Train again: an earlier quorem, or something else, wrote it",
                ) from None
    if not lines:
        raise MissingFile(
            f"a run has its metrics in {NAME}",
            found="an empty file" if path.is_file() else "no such file",
            where=str(directory),
            remedy="Name a directory that `quorem train` writes, or has written",
        )
    return lines


def validations(lines: Sequence[Line]) -> list[Line]:
    """The lines of validations."""
    return [line for line in lines if line["kind"] == VALIDATION]


def steps(lines: Sequence[Line]) -> list[Line]:
    """The lines of glances."""
    return [line for line in lines if line["kind"] == STEP]


def _parsed(text: str) -> dict[str, Any]:
    """A line; ValueError says what it is instead."""
    try:
        line = json.loads(text)
    except ValueError:
        raise ValueError(f"{text[:60]!r}") from None
    if not isinstance(line, dict) or line.get("kind") not in (STEP, VALIDATION):
        raise ValueError(f"{text[:60]!r}")
    for name in (*ALWAYS, *MEASURED[line["kind"]]):
        given = line.get(name, "nothing")
        if not isinstance(given, int | float) and (given is not None or name in ALWAYS):
            raise ValueError(f"{name}: {given!r}")
    return line
