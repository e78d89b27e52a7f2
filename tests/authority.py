"""An authority that issues certificates for the tests, by the command `openssl`."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CONFIG = "[req]\ndistinguished_name = dn\n[dn]\n"  # none of the machine's own extensions


@dataclass(frozen=True)
class Issued:
    """A certificate with its key, PEM."""

    cert: Path
    key: Path

    def put(self, cert: Path, key: Path) -> None:
        """Take the place of two files, as a tool that renews certificates does it: one rename each."""
        for new, old in ((self.cert, cert), (self.key, key)):
            shutil.copy(new, beside := old.with_suffix(".new"))
            beside.replace(old)


class Authority:
    """A certificate authority in a directory of its own, and what it issued."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        (directory / "config").write_text(CONFIG)
        self.own = self._make("ca", [], ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"])

    def issue(self, name: str) -> Issued:
        """A certificate for localhost and for callers, valid from now on."""
        signed = ["-CA", str(self.own.cert), "-CAkey", str(self.own.key)]
        return self._make(name, signed, ["basicConstraints=CA:FALSE", "subjectAltName=DNS:localhost,IP:127.0.0.1"])

    def _make(self, name: str, signed: list[str], extensions: list[str]) -> Issued:
        made = Issued(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-config", str(self._directory / "config"), "-keyout", str(made.key), "-out", str(made.cert)]
        added = [part for extension in extensions for part in ("-addext", extension)]
        try:
            subprocess.run(
                ["openssl", "req", "-x509", *curve, *files, *signed, *added, "-days", "2", "-subj", f"/CN={name}"],
                check=True,
                capture_output=True,
                text=True,
            )
        except FileNotFoundError:
            pytest.skip("the command openssl is not installed")
        return made
