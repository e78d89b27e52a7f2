"""The standing of a budget: what was measured for it, its proposals, and how those that were tried came along; on disk.

A search that was interrupted goes on from here: what is written is not learnt, measured or tried again.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from ...protos.errors import Malformed, RecipeError
from ...protos.manifest import write_atomically
from ..section import Section
from .options import Option


class Proposal(Section):
    """A plan that is tried: an option of each field, and what it was taken from."""

    name: str
    options: tuple[Option, ...]


class Trial(Section):
    """What became of a proposal that was tried."""

    proposal: int
    auc: float
    logloss: float


class Standing(Section):
    """The file.

    losses: of each field, the validation loss of each option that was measured.
    dims: of each field, the probability of each candidate dim.
    """

    identity: str
    price: float
    dims: tuple[tuple[float, ...], ...]
    losses: tuple[tuple[tuple[Option, float], ...], ...]
    proposals: tuple[Proposal, ...]
    trials: tuple[Trial, ...] = ()

    def measured(self, field: int) -> Mapping[Option, float]:
        """The losses of a field's options."""
        return dict(self.losses[field])

    def with_trial(self, trial: Trial) -> "Standing":
        """The same, and one trial more."""
        return self.model_copy(update={"trials": (*self.trials, trial)})

    def with_trials_of(self, before: "Standing") -> "Standing":
        """The same, and the trials of one that has the same proposals."""
        return before if before.proposals == self.proposals else self

    def tried(self, proposal: int) -> Trial | None:
        """What became of a proposal, if that is known."""
        return next((each for each in self.trials if each.proposal == proposal), None)

    def best(self) -> Trial:
        """The trial of the highest validation AUC; of equal ones, the first."""
        return max(self.trials, key=lambda trial: trial.auc)


def write(path: Path, standing: Standing) -> None:
    """Write the file whole or not at all."""
    write_atomically(path, standing.model_dump_json(indent=1).encode() + b"\n")


def read(path: Path, identity: str) -> Standing:
    """The standing that is there.

    Raises:
        Malformed: not such a file. RecipeError: of another search.
    """
    try:
        found = Standing.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise Malformed(
            "a budget's standing holds what was measured and tried for it",
            found=str(error).splitlines()[0],
            where=str(path),
            remedy="Delete the directory and search again",
        ) from None
    if found.identity != identity:
        raise RecipeError(
            "a search goes on with the recipe and the data it was started with",
            found="another recipe, seed or data",
            where=str(path),
            remedy="Search into another directory",
        )
    return found
