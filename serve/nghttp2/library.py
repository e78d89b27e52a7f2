"""Library: libnghttp2 found, bound in the best way there is, and tried out on one call before it is used."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType

from ...protos.errors import Unavailable
from .bounds import Bounds
from .build import places
from .session import REQUEST, Session, bind

SHIM, FOREIGN = "the compiled shim", "libnghttp2.so.14 alone"
REMEDY = "Install libnghttp2 (Debian: libnghttp2-14), or serve with --transport grpcio"
# The client's greeting, an empty SETTINGS, HEADERS of a POST to /x, and DATA with the message "ping".
HEAD = b"\x83\x86\x04\x02/x\x01\x01x\x5f\x10application/grpc\x40\x02te\x08trailers"
CALL = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
CALL += bytes([0, 0, len(HEAD), 1, 4, 0, 0, 0, 1]) + HEAD + bytes([0, 0, 9, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 4]) + b"ping"
# HEADERS with :status 200, and DATA with the message "pong".
PONG = bytes([0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88]) + bytes([0, 0, 9, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 4]) + b"pong"


@dataclass(frozen=True)
class Library:
    """How sessions are made, in words and in deed."""

    kind: str
    session: Callable[[Bounds], Session]


@cache
def load() -> Library:
    """The library, tried out.

    Raises:
        Unavailable: it is not there, or does not do what it should; says what was tried.
    """
    failures = list[str]()
    for kind, way in ((SHIM, _compiled), (FOREIGN, _interpreted)):
        try:
            found = Library(kind, way())
            _try(found.session(Bounds()))
        except Exception as error:
            failures.append(f"{kind}: {str(error).partition('.  Additionally')[0]}")  # cffi says what else it tried
        else:
            return found
    raise Unavailable("the nghttp2 transport has its library", found="; ".join(failures), remedy=REMEDY)


def _compiled() -> Callable[[Bounds], Session]:
    place = next((each for each in places() if each.exists()), None)
    if place is None:
        raise FileNotFoundError("not built (python -m quorem.serve.nghttp2.build)")
    binding = bind(_module(place))
    return lambda bounds: Session(binding, bounds)


def _module(place: Path) -> ModuleType:
    name = place.name.partition(".")[0]
    spec = importlib.util.spec_from_loader(name, ExtensionFileLoader(name, str(place)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _interpreted() -> Callable[[Bounds], Session]:
    from .interpreted import Interpreted, bind

    binding = bind()
    return lambda bounds: Interpreted(binding, bounds)


def _try(session: Session) -> None:
    """Have a session answer a call that was written down beforehand."""
    try:
        records, blob = session.feed(CALL)
        told = [(stream, kind, blob[at + head :][:body]) for stream, kind, _, at, head, body, _ in records]
        session.reply(1, b":status\x00200\x00", b"pong", b"grpc-status\x000\x00")
        sent = session.take()
    finally:
        session.close()
    if told != [(1, REQUEST, b"\0\0\0\0\4ping")] or PONG not in sent:
        raise RuntimeError(f"it read {told} and wrote {sent}")


def main() -> int:
    """Say which way there is, or why there is none; the exit status."""
    try:
        import uvloop  # noqa: F401  # the transport needs it, too

        print(load().kind)
    except (ImportError, Unavailable) as error:
        print(error.found if isinstance(error, Unavailable) else error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
