"""Training: one run of a study, a recipe with one seed, known by its digest; and the search whose plan it trains."""

from dataclasses import dataclass
from typing import Literal, Self


@dataclass(frozen=True)
class Kind:
    """What runs of about the same cost share: recipe and model; `name` tells it to a reader.

    search: what a search costs by, beside them; empty for a training.
    trials, trial: how many trainings a search makes, and their kind; nothing for one that is no more than a few epochs.
    """

    name: str
    model: str
    search: str = ""
    trials: int = 0
    trial: "Kind | None" = None


@dataclass(frozen=True)
class Run:
    """One training, or one search.

    digest: of the resolved recipe, which holds the seed, and of what is done with it: the name of the run's directory,
        and what makes it one run whichever arms it belongs to.
    verb: the command of quorem that does it.
    text: the resolved recipe, TOML.
    recipe, settings: what it was resolved from, as `quorem train` takes them.
    epochs: how many it is expected to take.
    search: the run that finds the plan which is trained; None where the recipe says the tables.
    """

    digest: str
    seed: int
    verb: Literal["train", "search"]
    text: str
    recipe: str
    settings: tuple[str, ...]
    kind: Kind
    epochs: int
    search: Self | None = None
