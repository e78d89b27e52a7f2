"""Watched: what files hold, read again when they change."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from ..protos.errors import QuoremError

T = TypeVar("T")
READ_BY_OTHERS = 0o004
Stamp = tuple[tuple[int, int, int, int] | None, ...]

log = logging.getLogger(__name__)


class Watched(Generic[T]):
    """What some files hold now; safe to ask from several threads.

    Nothing runs in between: the files are looked at when somebody asks. A change that breaks a rule is told once in
    the log, and what was read before stays.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """Read for the first time.

        Args:
            paths: the files whose change (time, size, inode; links are followed) means a new look.
            read: what they hold; raises a QuoremError where that breaks a rule.

        Raises:
            QuoremError: of `read`.
        """
        self._paths, self._read, self._lock = tuple(paths), read, Lock()
        self._stamp = self._look()  # before reading: a change meanwhile is seen by the next look
        self._value = read()

    def get(self) -> T:
        """What the files hold, or held when they last kept the rules: the same object until they change."""
        if self._look() != self._stamp:
            with self._lock:
                self._renew()
        return self._value

    def _renew(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return  # another thread did it
        self._stamp = stamp
        try:
            self._value = self._read()
        except QuoremError as error:
            log.warning("%s (what was read before it changed stays in use)", error)

    def _look(self) -> Stamp:
        return tuple(map(_stamp, self._paths))


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def read_by_others(path: Path) -> bool:
    """Whether every user of the machine may read a file."""
    return bool(path.stat().st_mode & READ_BY_OTHERS)
