"""Survey: which versions of a model repository can be served, proved by their manifests, digests and classes."""

from dataclasses import dataclass
from pathlib import Path

from ..protos import exported, manifest
from ..protos.classes import check_stored
from ..protos.errors import MissingFile, NotFound, QuoremError
from . import tuning
from .settings import Version

GRAPH, RANK, TABLES, GOLDEN = "model.onnx", "rank.onnx", "tables.bin", "golden.safetensors"


@dataclass(frozen=True)
class Survey:
    """The latest valid version of every model, and why each later version (or whole model) was passed over."""

    versions: tuple[Version, ...]
    refused: tuple[tuple[Version, QuoremError], ...]


def survey(root: Path) -> Survey:
    """Read and verify, digests and classes included, the latest versions of `<root>/<model>/<version>/`.

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
        for number in manifest.version_numbers(model):
            version = Version(model.name, number, model / str(number))
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


def _check(version: Version) -> None:
    found = manifest.read(version.directory, verify_digests=True)
    exported.check(found, str(version.directory / manifest.NAME))
    check_stored(version.directory / TABLES, found)
    tuning.read(version.directory)
