"""Training: one run of a study, a recipe with one seed, known by its digest."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What runs of about the same cost share: recipe and model; `name` tells it to a reader."""

    name: str
    model: str


@dataclass(frozen=True)
class Run:
    """One training.

    digest: of the resolved recipe, which holds the seed: the name of the run's directory, and what makes it one run
        whichever arms it belongs to.
    text: the resolved recipe, TOML.
    recipe, settings: what it was resolved from, as `quorem train` takes them.
    epochs: how many it is expected to take.
    """

    digest: str
    seed: int
    text: str
    recipe: str
    settings: tuple[str, ...]
    kind: Kind
    epochs: int
