"""Trials: the plans that a random search has trained, kept on disk so that an interrupted one goes on after them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from ...protos.errors import Malformed, RecipeError
from ...protos.manifest import write_atomically
from ..section import Section

NAME = "trials.json"


class Trial(Section):
    """A plan that was trained: its dims, by feature, and the metrics of its best epoch."""

    dims: dict[str, int]
    valid: dict[str, float]
    test: dict[str, float]


class Trials(Section):
    """The file trials.json: what the search belongs to, and the trials that are done."""

    identity: str
    trials: tuple[Trial, ...]


def write_trials(path: Path, identity: str, done: Sequence[Trial]) -> None:
    """Write the file whole or not at all."""
    trials = Trials(identity=identity, trials=tuple(done))
    write_atomically(path, trials.model_dump_json(indent=1).encode() + b"\n")


def read_trials(path: Path, identity: str, drawn: Sequence[Mapping[str, int]]) -> list[Trial]:
    """The trials that are done; none where the search was killed before it wrote anything.

    Raises:
        Malformed: not such a file. RecipeError: of a search with another identity, or of other plans than were drawn.
    """
    if not path.exists():
        return []
    try:
        found = Trials.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise Malformed(
            "trials.json holds the trials of a random search that are done",
            found=error.errors(include_url=False)[0]["msg"],
            where=str(path),
            remedy="Delete the directory and search again",
        ) from None
    if found.identity != identity or [trial.dims for trial in found.trials] != list(drawn[: len(found.trials)]):
        raise RecipeError(
            "a search goes on with the recipe and the data it was started with",
            found="another recipe, seed or data",
            where=str(path),
            remedy="Search into another directory",
        )
    return list(found.trials)
