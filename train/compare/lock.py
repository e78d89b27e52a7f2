"""The lock of a study's directory: one `quorem compare` at a time, counting the trainings of one that was killed."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...protos.errors import QuoremError
from .child import GRACE_SECONDS

NAME = ".lock"
LOOK_SECONDS = 0.1
PATIENCE_SECONDS = GRACE_SECONDS + 5.0


@contextmanager
def locked(directory: Path) -> Iterator[int]:
    """Hold a directory alone.

    The lock is of the open file, which children inherit: trainings whose study was killed hold it until they have
    saved themselves, and are waited for.

    Yields:
        The file descriptor that holds the lock, to be inherited.

    Raises:
        QuoremError: another one is at work there.
    """
    import fcntl  # POSIX alone has it

    handle = os.open(directory / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = _holder(directory / NAME)
                if _lives(holder) or time.monotonic() > deadline:
                    raise QuoremError(
                        "one `quorem compare` at a time works in a directory",
                        found=f"process {holder}" if _lives(holder) else "trainings of one that was killed",
                        where=str(directory),
                        remedy="Wait for it (--report tells of what is finished), stop it, or name another --out",
                    ) from None
            time.sleep(LOOK_SECONDS)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield handle
    finally:
        os.close(handle)


def _holder(path: Path) -> int:
    text = path.read_text()
    return int(text) if text.isascii() and text.isdigit() else 0


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process > 0
