"""Look: what a model repository holds now, by listings of directories and facts about files; digests are not read."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..protos import manifest
from ..protos.errors import Malformed, MissingFile, NotFound, QuoremError, UnsafePath
from . import labels
from .policy import Policy
from .settings import Version


@dataclass(frozen=True)
class Wanted:
    """What a look found, and which of it is to be served if it is good.

    present: the versions of every model that is not unloaded, rising.
    labels: of the models that have a `labels.json`; None where it cannot be understood, and the last good labels stay.
    policy: which versions are served, besides those with labels.
    unread: models whose directory could not be listed: nothing is known about them.
    problems: where something is wrong, as MODEL, MODEL/VERSION or MODEL/labels.json, and what.
    """

    present: Mapping[str, tuple[Version, ...]]
    labels: Mapping[str, Mapping[str, int] | None]
    policy: Policy
    unread: frozenset[str]
    problems: tuple[tuple[str, QuoremError], ...]

    @property
    def versions(self) -> tuple[Version, ...]:
        """All that are present."""
        return tuple(version for versions in self.present.values() for version in versions)


def look(root: Path, policy: Policy, unloaded: frozenset[str] = frozenset()) -> Wanted:
    """List `<root>/<model>/<version>/` and read the labels, but for models that are unloaded; hidden names are ignored.

    Raises:
        OSError: the root cannot be listed.
    """
    present, found = dict[str, tuple[Version, ...]](), dict[str, Mapping[str, int] | None]()
    unread, problems = set[str](), list[tuple[str, QuoremError]]()
    real = os.path.realpath(root)
    for model in sorted(root.iterdir()):
        name = model.name
        if name.startswith(".") or name in unloaded:
            continue
        try:
            if not model.is_dir():
                continue
            _check_name(model)
            _check_inside(real, model)
            present[name] = _versions(real, model, problems)
        except OSError as error:
            unread.add(name)
            problems.append((name, _unread(error)))
            continue
        except QuoremError as error:
            problems.append((ascii(name)[1:-1], error))
            continue
        path = model / labels.NAME
        try:
            _check_inside(real, path)
            found[name] = labels.read(path)
        except (OSError, QuoremError) as error:
            found[name] = None
            problems.append((f"{name}/{path.name}", _unread(error) if isinstance(error, OSError) else error))
        problems += _absent(path, found[name] or {}, present[name])
    return Wanted(present, found, policy, frozenset(unread), tuple(problems))


def _versions(root: str, model: Path, problems: list[tuple[str, QuoremError]]) -> tuple[Version, ...]:
    versions = list[Version]()
    for number in reversed(manifest.version_numbers(model)):
        directory, edition = model / str(number), ""
        try:
            _check_inside(root, directory)
            edition = _edition(directory)
        except FileNotFoundError:
            continue  # gone since it was listed
        except OSError as error:
            problems.append((f"{model.name}/{number}", _unread(error)))
        except UnsafePath as error:
            problems.append((f"{model.name}/{number}", error))
            continue
        versions.append(Version(model.name, number, directory, edition))
    return tuple(versions)


def _edition(directory: Path) -> str:
    """A word that changes when a file of a version does: a copy may be met half-way, or take another's place."""
    files = list[tuple[str, int, int, int, int]]()
    with os.scandir(directory) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                facts = entry.stat(follow_symlinks=False)
                files.append((entry.name, facts.st_mode, facts.st_ino, facts.st_size, facts.st_mtime_ns))
    return hashlib.blake2b(repr(sorted(files)).encode(), digest_size=16).hexdigest()


def _check_name(model: Path) -> None:
    if not model.name.isprintable():  # nor are bytes that are no text, which no message can carry
        raise Malformed(
            "a model's name is printable text",
            found=ascii(model.name),
            where=ascii(str(model.parent)),
            remedy="Rename the directory",
        )


def _check_inside(root: str, path: Path) -> None:
    if path.is_symlink() and os.path.commonpath((root, real := os.path.realpath(path))) != root:
        raise UnsafePath(
            "a symbolic link of a model repository leads to somewhere within it",
            found=real,
            where=str(path),
            remedy="Copy what it leads to into the repository, or serve the directory that holds both",
        )


def _absent(path: Path, given: Mapping[str, int], versions: tuple[Version, ...]) -> list[tuple[str, QuoremError]]:
    numbers = {version.number for version in versions}
    return [
        (
            f"{path.parent.name}/{path.name}",
            NotFound(
                "a label names a version that is there",
                found=f"{label!r} for version {number}",
                where=str(path),
                remedy=f"Name one of {sorted(numbers)}; until then the label stays where it was",
            ),
        )
        for label, number in given.items()
        if number not in numbers
    ]


def _unread(error: OSError) -> MissingFile:
    return MissingFile("this process may read every directory of a model repository", found=str(error))
