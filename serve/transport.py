"""Transport: what carries the calls, chosen once before the server starts."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

from ..protos.errors import Unavailable

CHECK = "quorem.serve.nghttp2.library"
CHECK_S = 30.0
Name = Literal["nghttp2", "grpcio"]


@dataclass(frozen=True)
class Transport:
    """A transport's name, and why it is this one."""

    name: Name
    why: str


def choose(asked: Literal["nghttp2", "grpcio", "auto"]) -> Transport:
    """The transport that was asked for; of itself nghttp2 where it works, else grpcio.

    It is tried out in a process of its own: a library that does harm does none to the server.

    Raises:
        Unavailable: nghttp2 was asked for and does not work here.
    """
    if asked == "grpcio":
        return Transport("grpcio", "as asked for")
    try:
        tried = subprocess.run(
            [sys.executable, "-m", CHECK], capture_output=True, text=True, timeout=CHECK_S, check=False
        )
        status, said = tried.returncode, (tried.stderr if tried.returncode else tried.stdout).strip()
    except (OSError, subprocess.SubprocessError) as error:
        status, said = -1, str(error)
    if status == 0:
        return Transport("nghttp2", said)
    said = said.rpartition("\n")[2] or f"trying it out ended with exit status {status}"
    if asked == "auto":
        return Transport("grpcio", f"nghttp2 does not work here: {said}")
    raise Unavailable(
        "--transport nghttp2 works here",
        found=said,
        remedy="Install libnghttp2 (Debian: libnghttp2-14), or serve with --transport grpcio",
    )
