"""Access log: one JSON line a call, written by a thread of its own, so that a slow disk never delays an answer.

A line has `time` (UTC), `worker` (process id), `method`, `model` and `version` (not where a call never got so far),
`rows`, `status`, `total_us`, `caller` (the name of its token, if it had one), `request_bytes` and `reply_bytes`;
nothing of what was asked or answered.
"""

import itertools
import json
import logging
import os
import select
import stat
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any

from ..protos.errors import Unavailable
from .call import Call
from .statuses import Status

DEPTH = 8192  # lines that may wait to be written; later ones are dropped, and counted
PAUSE_S = 0.05  # between batches: under load one write carries many lines
CLOSE_S = 2.0  # for the last lines to be written

log = logging.getLogger(__name__)


class AccessLog:
    """The access log of one worker; several workers append to one file. Safe to call from several threads.

    dropped: lines that were not written: too many waited, or the disk refused them.
    """

    def __init__(self, path: Path, sample: int = 1) -> None:
        """Open the file, or make it.

        Args:
            path: the file; moved away, it is made anew. `/dev/stdout` is one too.
            sample: of the calls that ended with OK one in so many is told, of all others every one.

        Raises:
            Unavailable: it cannot be appended to.
        """
        self.dropped = 0
        self._path, self._sample, self._pid = path, sample, os.getpid()
        self._calls, self._counting, self._told = itertools.count(), Lock(), False
        self._queue: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        try:
            self._file = _open(path)
        except OSError as error:
            raise Unavailable(
                "the access log is a file that the server may append to",
                found=str(error),
                where=str(path),
                remedy="Name another file by --access-log, or serve without",
            ) from None
        self._thread = Thread(target=self._write, name="access-log", daemon=True)
        self._thread.start()

    def record(self, method: str, call: Call, status: Status, total_s: float) -> None:
        """Tell of a call that has ended; returns at once, whatever the disk does.

        Args:
            method: `Service/Method`.
            call: what was scored, and for whom; its token is not read.
            status: how it ended.
            total_s: from its arrival to its reply.
            request_bytes: of the message, without headers.
            reply_bytes: the same of the reply; 0 where there was none.
        """
        if status == Status.OK and next(self._calls) % self._sample:
            return
        if self._queue.qsize() >= DEPTH:
            self._drop(1)
            return
        line: dict[str, Any] = {"time": time.time(), "worker": self._pid, "method": method}
        if call.model:
            line |= {"model": call.model, "version": call.version}
        line |= {"rows": call.rows, "status": status.name, "total_us": round(total_s * 1e6)}
        if call.caller:
            line["caller"] = call.caller
        self._queue.put(line | {"request_bytes": call.request_bytes, "reply_bytes": call.reply_bytes})

    def close(self) -> None:
        """Write what waits, for two seconds at most, and end."""
        self._queue.put(None)
        self._thread.join(CLOSE_S)

    def _write(self) -> None:
        ending = False
        while not ending:
            batch = [self._queue.get()]
            if batch[0] is not None:
                time.sleep(PAUSE_S)
                batch += _waiting(self._queue)
            ending = None in batch
            lines = [line for line in batch if line is not None]
            self._reopen_if_moved()
            for chunk in _chunks(map(_encode, lines)):
                self._append(chunk)
        os.close(self._file)

    def _append(self, chunk: bytes) -> None:
        """Write whole lines, which an append of so few bytes keeps apart from those of other workers."""
        try:
            written = os.write(self._file, chunk)
        except OSError:
            written = 0
        self._drop(chunk[written:].count(b"\n"))

    def _drop(self, lines: int) -> None:
        with self._counting:
            self.dropped += lines

    def _reopen_if_moved(self) -> None:
        """Follow the path to its new file; until that can be made, lines still go to the one that was moved."""
        opened = os.fstat(self._file)
        if not stat.S_ISREG(opened.st_mode) or _is_at(opened, self._path):
            return
        try:
            moved, self._file = self._file, _open(self._path)
        except OSError as error:
            if not self._told:
                log.warning("the access log was moved and cannot be opened anew: %s", error)
            self._told = True
        else:
            os.close(moved)
            self._told = False


def _is_at(opened: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(opened, path.stat())
    except OSError:
        return False


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _waiting(queue: "SimpleQueue[dict[str, Any] | None]") -> Iterator[dict[str, Any] | None]:
    try:
        while True:
            yield queue.get_nowait()
    except Empty:
        return


def _encode(line: dict[str, Any]) -> bytes:
    line["time"] = datetime.fromtimestamp(line["time"], UTC).isoformat(timespec="milliseconds")
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def _chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines in as few pieces as a pipe, too, takes whole."""
    chunk = b""
    for line in lines:
        if len(chunk) + len(line) > select.PIPE_BUF:
            yield chunk
            chunk = b""
        chunk += line
    if chunk:
        yield chunk
