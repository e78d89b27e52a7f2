"""Labels: names for versions of a model, from `labels.json` beside them, such as {"stable": 3, "canary": 4}."""

import json
from pathlib import Path
from typing import Never

from ..protos.errors import Malformed

NAME = "labels.json"
LARGEST = 2**63 - 1
MAX_BYTES = 64 << 10
MAX_LENGTH = 64  # characters of a label
QUOTED = 200  # characters of what was found that an error repeats


def read(path: Path) -> dict[str, int]:
    """The labels in a file, and the version that each names; none where there is no file.

    It is read whole and at once: who writes a temporary file and renames it is never met half-way.

    Raises:
        Malformed: not what is described above.
        OSError: the file is there and cannot be read.
    """
    if not path.exists():
        return {}
    if not path.is_file():  # what is no file might never end
        _refuse(f"{NAME} is a file", "something else", path)
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        _refuse(f"{NAME} has at most {MAX_BYTES} bytes", "more", path)
    try:
        pairs: object = json.loads(data, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        _refuse(f"{NAME} is a JSON file", str(error), path)
    if not isinstance(pairs, tuple):
        _refuse(f"{NAME} is a JSON object", type(pairs).__name__, path)
    labels = dict[str, int]()
    for label, number in pairs:
        if not _is_label(label):
            _refuse(
                f"a label has 1 to {MAX_LENGTH} printable characters, no leading dot, and not digits alone",
                repr(label),
                path,
            )
        if label in labels:
            _refuse("a label names one version", f"{label!r} twice", path)
        if type(number) is not int or not 1 <= number <= LARGEST:
            _refuse("a label names a version, by a whole number from 1 on", f"{label!r}: {number!r}", path)
        labels[label] = number
    return labels


def _is_label(text: str) -> bool:
    return 1 <= len(text) <= MAX_LENGTH and text.isprintable() and text[0] != "." and not text.isdigit()


def _refuse(rule: str, found: str, path: Path) -> Never:
    remedy = 'Write it under another name and rename it, as {"stable": 3}; until then the labels stay as they were'
    raise Malformed(rule, found=found[:QUOTED], where=str(path), remedy=remedy)
