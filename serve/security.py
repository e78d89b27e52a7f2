"""Security: what a server demands of its callers, checked once before it starts."""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Never, TypeVar

from ..protos.errors import DataError
from .call import Call
from .certificates import Certificates
from .tokens import Tokens, guard
from .watched import read_by_others

CONTROL = ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")  # the index says why, with paths
Request = TypeVar("Request")
Reply = TypeVar("Reply")


@dataclass(frozen=True)
class Security:
    """What callers need.

    certificates: of the server and its callers; None: no TLS.
    token_file: names and tokens; None: nobody needs one.
    guarded: which methods need one, those of the repository, or all; grpc.health.v1 and reflection never do.
    allow_control: whether calls may change what is served (with a token).
    """

    certificates: Certificates | None = None
    token_file: Path | None = None
    guarded: Literal["control", "all"] = "control"
    allow_control: bool = False

    def check(self, host: str) -> list[str]:
        """Read every file once; warnings, a line each, for what is allowed and yet unwise.

        Args:
            host: the address that is bound.

        Raises:
            DataError: options that do nothing, or open the server, without another one.
            MissingFile, Malformed: a file that cannot be used.
        """
        self._check_options()
        secrets = [self.token_file] if self.token_file else []
        if self.certificates:
            self.certificates.read()
            secrets.append(self.certificates.key)
        if self.token_file:
            Tokens(self.token_file)
        warnings = [f"{path} can be read by every user of this machine" for path in secrets if read_by_others(path)]
        if self.token_file and not self.certificates and not _is_loopback(host):
            warnings.append(f"tokens reach {host} unencrypted: give --tls-cert and --tls-key, or bind 127.0.0.1")
        return warnings

    def restrict(
        self, methods: Mapping[str, Mapping[str, Callable[[Request, Call], Reply]]]
    ) -> dict[str, dict[str, Callable[[Request, Call], Reply]]]:
        """The same methods (service -> method -> function), of which some need a token.

        What nobody may call, the methods know themselves.

        Raises:
            MissingFile, Malformed: the token file breaks a rule now.
        """
        if not self.token_file:
            return {service: dict(calls) for service, calls in methods.items()}
        tokens = Tokens(self.token_file)
        return {
            service: {
                name: guard(method, tokens) if self.guarded == "all" or name in CONTROL else method
                for name, method in calls.items()
            }
            for service, calls in methods.items()
        }

    def _check_options(self) -> None:
        if self.allow_control and not self.token_file:
            _refuse("--allow-control needs --token-file: it lets callers change what is served", "--allow-control")
        if self.guarded == "all" and not self.token_file:
            _refuse("--token-for all needs --token-file", "--token-for")
        if self.token_file and not self.allow_control and self.guarded == "control":
            _refuse("--token-file guards control calls, or with --token-for all every call", "--token-file")


def tls_of(cert: Path | None, key: Path | None, ca: Path | None) -> Certificates | None:
    """What --tls-cert, --tls-key and --tls-ca name; None without any.

    Raises:
        DataError: one without those that it needs.
    """
    if cert and key:
        return Certificates(cert, key, ca)
    if cert or key or ca:
        _refuse("TLS needs both --tls-cert and --tls-key, and --tls-ca needs those", "--tls-*")
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse(rule: str, where: str) -> Never:
    raise DataError(rule, where=where, remedy="See `quorem serve --help`")
