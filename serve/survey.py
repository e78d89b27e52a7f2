"""Survey: which versions of a model repository can be served, proved by their manifests, digests and classes."""

from dataclasses import dataclass
from pathlib import Path

from ..protos.errors import NotFound, QuoremError
from .catalogue import Catalogue, resolve
from .look import look
from .policy import Policy
from .remembered import Remembered
from .settings import Version
from .verified import Verified

GRAPH, RANK, GOLDEN = "model.onnx", "rank.onnx", "golden.safetensors"
LATEST = Policy()


@dataclass(frozen=True)
class Survey:
    """What can be served, and why other versions, models or labels that were wanted were passed over.

    refused: MODEL, MODEL/VERSION or MODEL/labels.json, and what is wrong with it.
    verified: the verdicts, so that nobody needs to verify these versions again.
    """

    catalogue: Catalogue
    refused: tuple[tuple[str, QuoremError], ...]
    verified: Verified

    @property
    def versions(self) -> tuple[Version, ...]:
        """Every version that can be served."""
        return self.catalogue.all


def survey(root: Path, policy: Policy = LATEST, remembered: Remembered | None = None) -> Survey:
    """Read and verify, digests and classes included, the versions of `<root>/<model>/<version>/` that a policy chooses.

    Raises:
        NotFound: no such directory, or nothing in it that can be served; says why for each version.
        OSError: the directory cannot be listed.
    """
    if not root.is_dir():
        raise NotFound(
            "a model repository is a directory",
            found="none",
            where=str(root),
            remedy="Name the directory above the models, as in `quorem export RUN --to MODELS/NAME`",
        )
    wanted, verified = look(root, policy), Verified(remembered)
    while unknown := resolve(wanted, verified).unknown:
        for version in unknown:
            verified.verify(version)
    catalogue = resolve(wanted, verified).catalogue
    refused = (*wanted.problems, *((str(version), error) for version, error in verified.bad()))
    if not catalogue.names:
        reasons = "; ".join(f"{where}: {error}" for where, error in refused)
        others = f"no version that the policy {policy} chooses" if any(wanted.present.values()) else ""
        raise NotFound(
            "a model repository holds at least one model that can be served, as MODELS/NAME/1/model.onnx",
            found=reasons or others or "no version of any model",
            where=str(root),
            remedy="Export a run into it: `quorem export RUN --to MODELS/NAME`",
        )
    return Survey(catalogue, refused, verified)
