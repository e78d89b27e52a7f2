"""Survey: which versions of a model repository can be served, proved by their manifests and digests."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..protos import manifest
from ..protos.errors import MissingFile, NotFound, QuoremError
from .settings import Version

GRAPH, GOLDEN = "model.onnx", "golden.safetensors"


@dataclass(frozen=True)
class Survey:
    """The latest valid version of every model, and why each later version (or whole model) was passed over."""

    versions: tuple[Version, ...]
    refused: tuple[tuple[Version, QuoremError], ...]


def survey(root: Path) -> Survey:
    """Read and verify, digests included, the latest versions of `<root>/<model>/<version>/`.

    Raises:
        NotFound: no such directory, or nothing in it that can be served; says why for each version.
    """
    if not root.is_dir():
        raise NotFound(
            "a model repository is a directory",
            found="none",
            where=str(root),
            remedy="Name the directory above the models, as in `quorem export RUN --to MODELS/NAME`",
        )
    chosen, refused = list[Version](), list[tuple[Version, QuoremError]]()
    for model in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for version in _versions(model):
            try:
                _check(version)
            except QuoremError as error:
                refused.append((version, error))
            except OSError as error:
                unread = MissingFile("this process may read every file of a bundle", found=str(error))
                refused.append((version, unread))
            else:
                chosen.append(version)
                break
    if not chosen:
        reasons = "; ".join(f"{version}: {error}" for version, error in refused)
        raise NotFound(
            "a model repository holds at least one model that can be served, as MODELS/NAME/1/model.onnx",
            found=reasons or "no version of any model",
            where=str(root),
            remedy="Export a run into it: `quorem export RUN --to MODELS/NAME`",
        )
    return Survey(tuple(chosen), tuple(refused))


def _versions(model: Path) -> Iterator[Version]:
    """Latest first. Other names than plain numbers are no versions: temporary directories, notes, labels."""
    names = (path.name for path in model.iterdir() if path.is_dir())
    numbers = (int(name) for name in names if name.isascii() and name.isdigit() and name[0] != "0" and len(name) < 20)
    return (Version(model.name, number, model / str(number)) for number in sorted(numbers, reverse=True))


def _check(version: Version) -> None:
    manifest.read(version.directory, verify_digests=True)
    for name in (GRAPH, GOLDEN):
        if not (version.directory / name).is_file():
            raise MissingFile(
                f"a bundle holds {name}",
                found="none",
                where=str(version.directory),
                remedy="Export the run again, as a new version",
            )
