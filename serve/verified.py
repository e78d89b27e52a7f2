"""Verified: which versions have been proved, by their manifests, digests and classes, and which are bad and why."""

import os
from threading import Lock

from ..protos import exported, manifest
from ..protos.classes import check_stored
from ..protos.errors import MissingFile, QuoremError, UnsafePath
from . import tuning
from .remembered import Remembered
from .settings import Version

TABLES = "tables.bin"
_UNKNOWN = QuoremError("a version is verified before it is served")


class Verified:
    """Verdicts on versions, kept until their files change; safe to ask and to tell from several threads."""

    def __init__(self, remembered: Remembered | None = None) -> None:
        """Know nothing; digests of versions that are remembered are not computed again."""
        self._remembered = remembered or Remembered(None)
        self._verdicts = dict[Version, QuoremError | None]()
        self._guard = Lock()

    def is_good(self, version: Version) -> bool:
        """Whether a version was proved."""
        return self._verdicts.get(version, _UNKNOWN) is None

    def is_bad(self, version: Version) -> bool:
        """Whether a version was refused."""
        return self._verdicts.get(version) is not None

    def verify(self, version: Version) -> QuoremError | None:
        """Prove a version, reading all of its bytes unless that was done before; the verdict is None if it is good."""
        try:
            _check(version, digests=not self._remembered.holds(version))
        except QuoremError as error:
            return self.refuse(version, error)
        except OSError as error:
            unread = MissingFile("this process may read every file of a bundle", found=str(error))
            return self.refuse(version, unread)
        self._remember(version, None)
        self._remembered.add(version)
        return None

    def refuse(self, version: Version, error: QuoremError) -> QuoremError:
        """Remember that a version is bad, as a worker found when it opened it."""
        self._remember(version, error)
        return error

    def forget(self, name: str) -> None:
        """Have the bad versions of a model verified again, as who loads it asks."""
        with self._guard:
            for version, _ in self.bad():
                if version.name == name:
                    del self._verdicts[version]

    def prune(self) -> None:
        """Forget the versions whose directories are gone."""
        with self._guard:
            for version in self.known():
                if not os.path.isdir(version.directory):  # noqa: PTH112  # Path.is_dir raises where it may not look
                    del self._verdicts[version]

    def known(self) -> list[Version]:
        """The versions with a verdict, in the order in which they got one."""
        return list(self._verdicts)

    def reason(self, version: Version) -> str:
        """Why a version is bad; empty if it is not."""
        return str(self._verdicts.get(version) or "")

    def bad(self) -> list[tuple[Version, QuoremError]]:
        """The versions that were refused, and why, in the order in which they were."""
        return [(version, error) for version, error in self._verdicts.copy().items() if error is not None]

    def _remember(self, version: Version, error: QuoremError | None) -> None:
        with self._guard:
            self._verdicts[version] = error


def _check(version: Version, *, digests: bool) -> None:
    for name in (manifest.NAME, tuning.NAME):  # the manifest's own files are looked at as it is read
        if (path := version.directory / name).is_symlink():
            raise UnsafePath(
                "files of a version are no symbolic links",
                found=f"a link to {path.readlink()}",
                where=str(path),
                remedy="Copy what it leads to",
            )
    found = manifest.read(version.directory, verify_digests=digests)
    exported.check(found, str(version.directory / manifest.NAME))
    check_stored(version.directory / TABLES, found)
    tuning.read(version.directory)
