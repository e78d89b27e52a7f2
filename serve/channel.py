"""Channel: how a client reaches a server: its address, TLS, a token, and what is tried again when it fails."""

import argparse
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio

from ..protos.errors import DataError, Malformed, MissingFile, Overloaded, QuoremError, TooLarge, TooLate, Unavailable
from .statuses import ERROR_OF, RETRY_AFTER, Status

TIMEOUT_S = 30.0
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for every channel: each may reach another worker
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),  # gRPC's own second outlasts every retry
]
REMEDIES: dict[type[QuoremError], str] = {
    TooLarge: "Send fewer rows per call",
    TooLate: "Allow more time, or send fewer rows per call",
    Overloaded: "Try again later, or keep fewer calls in flight",
}


@dataclass(frozen=True)
class Tls:
    """PEM files of a client.

    ca: the authorities that vouch for the server; None: those that gRPC brings along.
    cert, key: who the client is, for servers that ask; both or neither.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """gRPC's form of them, read and checked: gRPC itself would only say that no handshake succeeds.

        Raises:
            MissingFile, Malformed: a file that cannot be read, or is not what it should be.
            DataError: a certificate without its key.
        """
        import ssl  # only where TLS is asked for

        if (self.cert is None) != (self.key is None):
            raise DataError(
                "a client's certificate and its key come together",
                found="one of them",
                where=str(self.cert or self.key),
                remedy="Name both, or neither",
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key, password="")
            read = [None if path is None else path.read_bytes() for path in (self.ca, self.key, self.cert)]
        except OSError as error:  # of which ssl.SSLError is one
            kind = Malformed if isinstance(error, ssl.SSLError) else MissingFile
            raise kind(
                "certificates and keys are PEM files, a key is its certificate's and has no password",
                found=str(error),
                where=", ".join(str(path) for path in (self.ca, self.cert, self.key) if path is not None),
                remedy="Mend it, or name another",
            ) from None
        return grpc.ssl_channel_credentials(*read)


@dataclass(frozen=True)
class Access:
    """What it takes to call a server.

    token_file: its text, without spaces around it, is the bearer token of every call; read when a client is made.
    insecure_token: allow it without TLS, where whoever carries the bytes can read it.
    """

    endpoint: str
    tls: Tls | None = None
    token_file: Path | None = None
    insecure_token: bool = False

    def channel(self) -> grpc.Channel:
        """A channel with a connection of its own.

        Raises:
            QuoremError: as `Tls.credentials`.
        """
        if self.tls is None:
            return grpc.insecure_channel(self.endpoint, options=OPTIONS)
        return grpc.secure_channel(self.endpoint, self.tls.credentials(), options=OPTIONS)

    def aio_channel(self) -> grpc.aio.Channel:
        """The same for asyncio.

        Raises:
            QuoremError: as `Tls.credentials`.
        """
        if self.tls is None:
            return grpc.aio.insecure_channel(self.endpoint, options=OPTIONS)
        return grpc.aio.secure_channel(self.endpoint, self.tls.credentials(), options=OPTIONS)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call.

        Raises:
            MissingFile, Malformed: no such file, or no token in it.
            DataError: it would travel in the clear.
        """
        if self.token_file is None:
            return ()
        if self.tls is None and not self.insecure_token:
            raise DataError(
                "a token travels over TLS",
                found="a connection without",
                where=str(self.token_file),
                remedy="Use TLS (--tls-ca), or allow an insecure token (--insecure-token) where nobody listens",
            )
        try:
            token = self.token_file.read_text(encoding="utf-8", errors="replace").strip()
        except OSError as error:
            raise MissingFile(
                "a token file is there, and this process may read it",
                found=error.strerror or str(error),
                where=str(self.token_file),
                remedy="Write the token into it",
            ) from None
        if not token or not all("!" <= each <= "~" for each in token):
            raise Malformed(
                "a client's token file holds one word of ASCII",
                found="something else" if token else "nothing",
                where=str(self.token_file),
                remedy="Write the token alone into it, without the name that it has in the server's file",
            )
        return (("authorization", f"Bearer {token}"),)


def access_of(args: argparse.Namespace) -> Access:
    """What a command's ENDPOINT and its options --tls-…, --token-file and --insecure-token ask for."""
    tls = Tls(args.tls_ca, args.tls_cert, args.tls_key)
    return Access(args.endpoint, None if tls == Tls() else tls, args.token_file, args.insecure_token)


@dataclass(frozen=True)
class Retry:
    """Which failed calls are made again: those that no server has answered; scoring twice does no harm.

    UNAVAILABLE waits `first_s`, then twice as long each time, at most `most_s`, less a random part, so that callers
    that failed together do not return together. RESOURCE_EXHAUSTED waits as long as the server asks for, and is final
    where it does not ask. Everything else is final, and nothing is tried after the call's time.

    attempts: in all; 1 never tries again.
    """

    attempts: int = 3
    first_s: float = 0.1
    most_s: float = 2.0


class Failure(Protocol):
    """What an RPC error tells: grpc's class of it has no such methods, its instances do."""

    def code(self) -> grpc.StatusCode:
        """The status."""
        ...

    def details(self) -> str | None:
        """The server's text, or grpc's own."""
        ...

    def trailing_metadata(self) -> Iterable[Any] | None:
        """Names and values that the server sent with the status."""
        ...


class Attempts:
    """The attempts of one call, which share its time."""

    def __init__(self, retry: Retry, timeout_s: float) -> None:
        self._retry, self._deadline, self._made = retry, time.monotonic() + timeout_s, 0

    @property
    def left_s(self) -> float:
        """Seconds that the call still has."""
        return max(0.0, self._deadline - time.monotonic())

    def wait_s(self, error: Failure) -> float | None:
        """Seconds until the next attempt, after one that failed; None if there is none."""
        self._made += 1
        code, wait_s = error.code(), None
        if code is grpc.StatusCode.UNAVAILABLE:
            wait_s = min(self._retry.most_s, self._retry.first_s * 2 ** (self._made - 1)) * random.uniform(0.5, 1)
        elif code is grpc.StatusCode.RESOURCE_EXHAUSTED and (asked_s := retry_after_s(error)) is not None:
            wait_s = asked_s * random.uniform(1, 1.25)
        return wait_s if wait_s is not None and self._made < self._retry.attempts and wait_s < self.left_s else None


def retry_after_s(error: Failure) -> float | None:
    """When the server wants to be asked again, seconds from now; None where it does not say."""
    for name, value in error.trailing_metadata() or ():
        if name == RETRY_AFTER and value.isdigit():
            return int(value) / 1000
    return None


def error_of(error: Failure, endpoint: str) -> QuoremError:
    """quorem's error for an RPC's: its class from the status, its text from the server."""
    status, details = Status(error.code().value[0]), error.details() or "no reason given"
    kind = ERROR_OF.get(status, QuoremError)
    if kind is Unavailable:
        return Unavailable(
            "the server answers",
            found=f"{error.code().name}: {details}",
            where=endpoint,
            remedy="Check that `quorem serve` runs there, and try again",
        )
    if status == Status.RESOURCE_EXHAUSTED:  # gRPC's own refusal of long messages has the status of a busy server
        kind = TooLarge if "larger than max" in details else Overloaded
    found = kind(details, where=endpoint, remedy=REMEDIES.get(kind, ""))
    if isinstance(found, Overloaded):
        found.retry_s = retry_after_s(error) or 0.0
    return found
