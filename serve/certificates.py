"""Certificates: where a server's certificate and key stand, and whether they belong together."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from ..protos.errors import Malformed, MissingFile


@dataclass(frozen=True)
class Pem:
    """What the files hold, as TLS takes it.

    ca: the authorities whose certificates callers must have; None: callers need none.
    """

    cert: bytes
    key: bytes
    ca: bytes | None


@dataclass(frozen=True)
class Certificates:
    """PEM files: the server's certificate with its chain (leaf first), its key, the authorities of its callers."""

    cert: Path
    key: Path
    ca: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """The files there are."""
        return [self.cert, self.key, *([self.ca] if self.ca else [])]

    def read(self) -> Pem:
        """What the files hold.

        Raises:
            MissingFile: one that is not there, or that this process may not read.
            Malformed: one that is not PEM, a key with a passphrase, a key of another certificate.
        """
        pem = Pem(_bytes(self.cert), _bytes(self.key), _bytes(self.ca) if self.ca else None)
        _check_certificates(pem.cert, self.cert)
        if self.ca:
            _check_certificates(pem.ca or b"", self.ca)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key, password=_no_password)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None)
            mismatch = reason == "KEY_VALUES_MISMATCH"
            raise Malformed(
                f"a TLS key is that of the certificate {self.cert}" if mismatch else "a TLS key is an open PEM key",
                found="another key" if mismatch else f"none that OpenSSL can read ({reason or error})",
                where=str(self.key),
                remedy="Name the two files that were made together" if mismatch else "Write it without a passphrase",
            ) from None
        return pem


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MissingFile(
            "files of TLS are there, and this process may read them",
            found=error.strerror or str(error),
            where=str(path),
            remedy="Name a PEM file",
        ) from None


def _check_certificates(data: bytes, path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=data.decode("ascii"))
    except (OSError, ValueError):
        raise Malformed(
            "a file of certificates is PEM: -----BEGIN CERTIFICATE----- and so on",
            found="no certificate that OpenSSL can read",
            where=str(path),
            remedy="Convert it, as with `openssl x509 -inform DER -in FILE -out FILE.pem`",
        ) from None


def _no_password() -> bytes:
    """Instead of OpenSSL's question on the terminal."""
    return b""
