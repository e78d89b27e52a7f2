"""H2load: the closed loop driven by nghttp2's program of that name, whose calls cost a fifth of a Python client's.

It sends one request again and again, on a connection for each call in flight, and knows HTTP but not gRPC: a call that
the server refuses looks like an answered one. What tells them apart are the bytes of the replies, which are added up
over every run; what the refused calls' status was, only the other driver tells.
"""

import os
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import numpy as np
import numpy.typing as npt

from ...protos.errors import DataError, NotFound, Unavailable
from ..channel import Access, error_of
from .drive import Arrivals, Window, record
from .load import Load
from .loops import Closed

PROGRAM = "h2load"
HEADERS = ("-H", "te: trailers", "-H", "content-type: application/grpc")
PREFIX = struct.Struct(">BI")  # of a gRPC message: not compressed, its length
WINDOWS = 3  # of one run of the program
SLACK = 4  # bytes that a reply may fall short: the server's timings in it have as many digits as they need
ANSWERED, DROPPED = 200, -1  # statuses in the log, the latter of a call whose connection ended
TICKS = os.sysconf("SC_CLK_TCK")


class H2load:
    """Measures as `drive.Drivers` does, by the program."""

    def windows(
        self,
        access: Access,
        path: str,
        load: Load,
        arrivals: Arrivals,
        warmup_s: float,
        window_s: float,
        timeout_s: float,
    ) -> Generator[Window]:
        """Keep calls in flight and tell what came of each `window_s`; closing it ends the program.

        Every third window is followed by new connections and another warm-up.

        Raises:
            DataError: a load, arrivals or an access that the program cannot make.
            NotFound: the program is not installed.
            Unavailable: no answers, or answers without scores.
        """
        concurrency, program = _checked(access, load, arrivals), found()
        request = load.requests[0]
        call = partial(_reply_bytes, access, path, request, timeout_s)
        reply_bytes = PREFIX.size + call()
        with TemporaryDirectory(prefix="quorem-bench-") as directory:
            body = Path(directory) / "body"
            body.write_bytes(framed(request))
            while True:
                log, said = Path(directory) / "log", Path(directory) / "said"
                log.write_bytes(b"")  # the program appends
                whole_s = warmup_s + WINDOWS * window_s
                run_it = command(program, concurrency, 1, whole_s, timeout_s, body, log, access.endpoint + path)
                with said.open("wb") as out:
                    process = subprocess.Popen(run_it, stdout=out, stderr=out)
                run = _Run(process, log, said, access.endpoint, load.counts[0], call)
                try:
                    yield from run.windows(warmup_s, window_s, reply_bytes)
                finally:
                    process.kill()
                    process.wait()


@dataclass
class _Run:
    """One run of the program, its log read while it writes. call: makes one call beside it, and raises if it fails."""

    process: subprocess.Popen[bytes]
    log: Path
    said: Path
    endpoint: str
    rows: int
    call: Callable[[], object]

    def windows(self, warmup_s: float, window_s: float, reply_bytes: int) -> Generator[Window]:
        """WINDOWS of them, after the warm-up; the last once the program has ended and its replies held scores."""
        begin = time.perf_counter()
        with self.log.open("rb") as log:
            time.sleep(warmup_s)
            rest, last, cpu_s = _split(log.read())[1], time.perf_counter(), self._cpu_s()
            for number in range(1, WINDOWS + 1):
                time.sleep(max(0.0, begin + warmup_s + number * window_s - time.perf_counter()))
                if number < WINDOWS and self.process.poll() is not None:
                    raise self._unavailable(f"the program ended after {number} of {WINDOWS} windows: {self._words()}")
                lines, rest = _split(rest + log.read())
                now, used_s = time.perf_counter(), self._cpu_s()
                if not lines:  # the program would wait for ever for a server that is gone
                    self.call()
                window = _window(lines, self.rows, now - last, used_s - cpu_s)
                last, cpu_s = now, used_s
                if number == WINDOWS:
                    self.process.wait()
                    self._prove(reply_bytes)
                yield window

    def _prove(self, reply_bytes: int) -> None:
        """Whether the replies were as long as a reply with scores is."""
        replies, missing = heard(self.said.read_text(errors="replace"), reply_bytes)
        if not replies:
            raise self._unavailable(f"none: {self._words()}")
        if missing:
            raise self._unavailable(f"{missing:.1%} of {replies} replies are missing or without scores")

    def _unavailable(self, found: str) -> Unavailable:
        return Unavailable(
            "h2load gets replies that hold scores",
            found=found,
            where=self.endpoint,
            remedy="Use --driver quorem, which tells the status of calls that fail",
        )

    def _words(self) -> str:
        """The line in which the program sums up, or the last that it said."""
        lines = [line for line in self.said.read_text(errors="replace").split("\n") if line.strip()]
        return next((line for line in lines if line.startswith("requests:")), lines[-1] if lines else "it said nothing")

    def _cpu_s(self) -> float:
        """Processor time of the program so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def found() -> str:
    """The program's path.

    Raises:
        NotFound: it is not installed.
    """
    path = shutil.which(PROGRAM)
    if path is None:
        raise NotFound(
            "--driver h2load finds the program h2load",
            found="none",
            where="PATH",
            remedy="Install nghttp2-client (Debian) or nghttp2, or use --driver quorem",
        )
    return path


def framed(request: bytes) -> bytes:
    """A request as it goes over the wire."""
    return PREFIX.pack(0, len(request)) + request


def command(
    program: str, connections: int, streams: int, seconds: float, timeout_s: float, body: Path, log: Path, where: str
) -> list[str]:
    """What to run to send a body again and again: on so many connections, so many at once on each."""
    return [
        *(program, f"-c{connections}", f"-m{streams}", "-t1", f"-D{ceil(1e3 * seconds)}ms", f"-N{ceil(timeout_s)}"),
        *(*HEADERS, f"-d{body}", f"--log-file={log}", f"http://{where}"),
    ]


def _checked(access: Access, load: Load, arrivals: Arrivals) -> int:
    """The calls in flight, of what the program can do."""
    rule, where = "h2load drives closed loops of one request, without TLS and tokens", "--driver h2load"
    if access.tls is not None or access.token_file is not None:
        raise DataError(rule, found="TLS or a token", where=where, remedy="Use --driver quorem")
    if not isinstance(arrivals, Closed):
        raise DataError(rule, found="arrivals at a rate", where=where, remedy="Use --driver quorem")
    if len(set(load.counts)) != 1:
        raise DataError(rule, found=f"requests of {load.name} rows", where=where, remedy="Ask for one number of --rows")
    return arrivals.concurrency


def _reply_bytes(access: Access, path: str, request: bytes, timeout_s: float) -> int:
    with access.channel() as channel:
        try:
            reply: bytes = channel.unary_unary(path)(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise error_of(error, access.endpoint) from None
    return len(reply)


def heard(told: str, reply_bytes: int) -> tuple[int, float]:
    """Of what the program said at its end: replies, and the share of them that is missing or too short."""
    found = re.search(r"(\d+) succeeded,.*^traffic:.*\((\d+)\) data$", told, re.DOTALL | re.MULTILINE)
    replies, data = map(int, found.groups()) if found else (0, 0)
    short = data < replies * (reply_bytes - SLACK)
    return replies, 1 - data / (replies * reply_bytes) if short else 0.0


def calls(lines: bytes) -> npt.NDArray[np.int64]:
    """Of the log's lines, (calls, 3): begin in microseconds, HTTP status, microseconds until the reply's end."""
    return np.array(lines.split(), np.int64).reshape(-1, 3)


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Whole lines, and the beginning of the next."""
    whole, end, rest = data.rpartition(b"\n")
    return whole + end, rest


def _window(lines: bytes, rows: int, wall_s: float, cpu_s: float) -> Window:
    """What came of the calls of those lines."""
    found = calls(lines)
    window, answered = Window(wall_s=wall_s, cpu_s=cpu_s, busiest=cpu_s / wall_s), found[:, 1] == ANSWERED
    record(window.latencies, 1000 * found[answered, 2])
    record(window.failed, 1000 * found[~answered, 2])
    window.answers = int(answered.sum())
    window.rows = rows * window.answers
    window.failures.update("UNAVAILABLE" if each == DROPPED else f"HTTP {each}" for each in found[~answered, 1])
    return window
