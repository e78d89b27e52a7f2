"""The study: arms, grids of arms, and what is compared with what, as frozen, validated config."""

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from ..section import Section

Scalar = bool | int | float | str
Value = Scalar | Annotated[tuple[Scalar, ...], Strict(False)]  # TOML's lists are taken
Values = Annotated[tuple[Value, ...], Strict(False), Field(min_length=1)]
Words = Annotated[tuple[str, ...], Strict(False)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Strict(False), Field(min_length=1)]
Factor = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]  # it names files
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f|]+$")]  # it stands in tables


class StudyConfig(Section):
    """The section `[study]`: what holds for every arm that does not say otherwise.

    recipe: a file, relative to the study's, or the name of a shipped recipe.
    set: settings `key=value` laid over the recipe.
    against: the arm that all others are compared with.
    epochs: how many epochs a run is expected to take, for the estimate of time alone.
    """

    title: Name
    recipe: str
    set: Words = ()
    seeds: Seeds
    against: str | None = None
    epochs: int | None = Field(default=None, ge=1)


class _Arms(Section):
    """What an arm and a grid of arms have in common.

    factor, factors: the questions that it belongs to: a section of the table and a pair of figures each.
    series: the line that it belongs to in figures; its own name unless said.
    against: further arms to compare it with.
    tune: values to choose from, by the validation AUC of the first seed.
    search: `quorem search` finds the plan that is trained, with these settings laid over the arm's for that alone.
    measure: "training", or "search": the metrics are those of the search (AutoDim-s), and nothing is trained after it.
    """

    name: Name
    factor: Factor | None = None
    factors: Annotated[tuple[Factor, ...], Strict(False)] = ()
    series: Name | None = None
    set: Words = ()
    seeds: Seeds | None = None
    recipe: str | None = None
    against: str | Words = ()
    tune: dict[str, Values] = Field(default_factory=dict)
    search: Words | None = None
    measure: Literal["training", "search"] = "training"

    @model_validator(mode="after")
    def _has_factors(self) -> Self:
        if (self.factor is None) == (not self.factors):
            raise ValueError("an arm names the `factor` that it belongs to, or several `factors`")
        return self

    @model_validator(mode="after")
    def _has_a_search(self) -> Self:
        if self.search is None and self.measure == "search":
            raise ValueError('measure = "search" goes with `search`, the settings of what is measured (or none: [])')
        return self

    @property
    def belongs_to(self) -> tuple[str, ...]:
        """Its factors, each once."""
        return tuple(dict.fromkeys(self.factors if self.factor is None else (self.factor,)))

    @property
    def held_against(self) -> tuple[str, ...]:
        """The arms that it names to be compared with."""
        return (self.against,) if isinstance(self.against, str) else self.against


class ArmConfig(_Arms):
    """One arm: a recipe with settings, run once for each seed."""


class GridConfig(_Arms):
    """An arm for each combination of the values in `over`; `{collisions}` in its names is the value of that key."""

    over: Annotated[dict[str, Values], Field(min_length=1)]


class Study(Section):
    """A whole study."""

    study: StudyConfig
    arms: Annotated[tuple[ArmConfig, ...], Strict(False)] = ()
    grids: Annotated[tuple[GridConfig, ...], Strict(False)] = ()

    @model_validator(mode="after")
    def _has_arms(self) -> Self:
        if not self.arms and not self.grids:
            raise ValueError("a study has `[[arms]]` or `[[grids]]`")
        return self
