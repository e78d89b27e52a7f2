"""Tokens: who may call, known by a secret that comes with the call as `authorization: Bearer TOKEN`.

The file has a line for each, a name and a token; a word that begins with `#` begins a comment. A name may have several
tokens, so that a new one can be handed out before the old one goes. Tokens are never logged, told, or part of an error.

    # name   token
    deploy   3b1f0c6e9a7d4f52
"""

import hmac
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TypeVar

from ..protos.errors import Malformed, MissingFile, Unauthenticated
from .call import Call
from .watched import Watched

SHORTEST = 16  # characters of a token
MAX_BYTES = 1 << 20
AGAIN = "Make one with `openssl rand -hex 16`, and write `name token` on a line of its own"
Request = TypeVar("Request")
Reply = TypeVar("Reply")
Known = tuple[tuple[bytes, str], ...]


class Tokens:
    """The tokens of a file, read again when it changes; safe to ask from several threads.

    A file that is gone or empty lets nobody in; one that breaks a rule leaves the tokens that were read before.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            MissingFile: none, or none that this process may read.
            Malformed: a line that is no name and token, a short token, one that two names share, no token at all.
        """
        if not read(path):
            raise Malformed("a token file holds a token", found="none", where=str(path), remedy=AGAIN)
        self._watched = Watched([path], lambda: read(path) if path.exists() else ())

    def name_of(self, token: str) -> str:
        """The name of a token's owner; takes the same time whichever token it is.

        Raises:
            Unauthenticated: no token, or one that is not known.
        """
        given = token.encode(errors="replace")
        names = [name for known, name in self._watched.get() if hmac.compare_digest(known, given)]
        if not names:
            raise Unauthenticated(
                "this call needs a token that the server knows",
                found="one that it does not know" if token else "none",
                remedy="Send the metadata `authorization: Bearer TOKEN`",
            )
        return names[0]


def guard(method: Callable[[Request, Call], Reply], tokens: Tokens) -> Callable[[Request, Call], Reply]:
    """The same method, for callers with a token; for others it raises Unauthenticated before it reads the request.

    The call then has the caller's name.
    """

    @wraps(method)
    def guarded(request: Request, call: Call) -> Reply:
        call.caller = tokens.name_of(call.token)
        return method(request, call)

    return guarded


def read(path: Path) -> Known:
    """The tokens of a file with their names; errors tell the line's number, never what stands there.

    Raises:
        MissingFile, Malformed: see `Tokens`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise MissingFile(
            "a token file is there, and this process may read it",
            found=error.strerror or str(error),
            where=str(path),
            remedy="Name a file with lines of `name token`",
        ) from None
    if len(data) > MAX_BYTES:
        raise Malformed(f"a token file has at most {MAX_BYTES} bytes", found="more", where=str(path), remedy=AGAIN)
    known = dict[bytes, str]()
    for number, line in enumerate(data.splitlines(), 1):
        words = line.split()
        words = words[: next((place for place, word in enumerate(words) if word.startswith(b"#")), None)]
        if not words:
            continue
        if found := _fault(words, known):
            raise Malformed(
                f"a line of a token file is a name and a token of at least {SHORTEST} printable ASCII characters, "
                "which no other line has",
                found=found,
                where=f"{path}, line {number}",
                remedy=AGAIN,
            )
        known[words[1]] = words[0].decode()
    return tuple(known.items())


def _fault(words: list[bytes], known: dict[bytes, str]) -> str:
    """What is wrong with a line; empty if nothing is."""
    if len(words) != 2:
        return f"{len(words)} words"
    if not all(word.isascii() and word.decode().isprintable() for word in words):
        return "other characters"
    if len(words[1]) < SHORTEST:
        return f"a token of {len(words[1])} characters"
    return "a token that stands above" if words[1] in known else ""
