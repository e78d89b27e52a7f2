"""Remembered: which versions were read to their last byte before, in a file that outlives the server.

A version is known by its place and its edition: names, modes, inodes, sizes and times of its files. What changes any of
them is read again; what changes bytes and none of them (a failing disk, somebody who sets times) is not noticed.
"""

import json
import logging
from pathlib import Path

from ..protos.errors import Malformed, QuoremError
from ..protos.manifest import write_atomically
from .settings import Version

FORMAT = "quorem.verified/1"
MOST = 1024  # versions; the oldest are forgotten first

log = logging.getLogger(__name__)


class Remembered:
    """Editions by place; nothing where there is no file."""

    def __init__(self, path: Path | None) -> None:
        """Read what is there.

        Raises:
            Malformed: another file than `add` writes.
        """
        self._path, self._editions = path, dict[str, str]()
        if path is None or not path.exists():
            return
        try:
            found = json.loads(path.read_bytes())
            if found.pop("format") != FORMAT or not all(isinstance(each, str) for each in found["editions"].values()):
                raise ValueError("another format")
            self._editions = found["editions"]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise Malformed(
                f"a file of remembered versions is JSON of the format {FORMAT}",
                found=str(error),
                where=str(path),
                remedy="Name another file with --remember, or delete this one",
            ) from None

    def holds(self, version: Version) -> bool:
        """Whether this edition of a version was read before."""
        return bool(version.edition) and self._editions.get(_place(version)) == version.edition

    def add(self, version: Version) -> None:
        """Remember that a version was read and good; a file that cannot be written is told, and no error."""
        if self._path is None or not version.edition or self.holds(version):
            return
        self._editions.pop(_place(version), None)
        self._editions[_place(version)] = version.edition
        self._editions = dict(list(self._editions.items())[-MOST:])
        data = json.dumps({"format": FORMAT, "editions": self._editions}, indent=1) + "\n"
        try:
            write_atomically(self._path, data.encode())
        except (OSError, QuoremError) as error:
            log.warning("%s cannot be written: %s", self._path, error)


def _place(version: Version) -> str:
    return str(version.directory.resolve())
