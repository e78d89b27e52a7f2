"""The table `[data.synthetic]` of a recipe: which clicks are made."""

import math
from fractions import Fraction
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

# fmt: off
CRITEO = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652,
    2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)
# fmt: on
"""Cardinalities of Criteo Kaggle's 26 categorical columns."""

RANK, SCALE = 4, 0.001  # unless the recipe says others

Count = Annotated[int, Field(gt=0)]
Cardinality = Annotated[int, Field(gt=0, lt=2**31)]
Rank = Annotated[int, Field(ge=1, le=64)]
Share = Annotated[float, Field(ge=0, le=1)]


class Rows(BaseModel):
    """How many rows each split has."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    train: Count
    valid: Count
    test: Count


class SyntheticConfig(BaseModel):
    """The table `[data.synthetic]` of a recipe.

    Attributes:
        rows: rows of train, valid and test.
        scale: Criteo's cardinalities are multiplied by it; none falls below 3 by it; .001 unless said.
        zipf: exponent of the ids' law; 0 is uniform.
        dense: number of dense columns I1, I2, …: float32, mean 0, variance 1.
        rank: rank of the planted model's factors; 4 unless said.
        ranks: instead of `rank`, the rank of each field, C1's first: the dim that its vector needs, and no more. Fields
            beyond the list have no part in the label.
        cardinalities: instead of Criteo's, how many ids the fields of `ranks` have; there are no others then.
        shares: of the logit's variance, that the fields' weights, their interactions and the dense columns have; they
            sum to 1. Where `dense` is 0 the others share its part.
        auc: best possible AUC, about; the exact one of the test split is in the facts.
        positives: share of positives, about.
        noise: share of rows whose label is a coin; lowers the best possible AUC.
        strings: C1 to C26 as text of 8 hexadecimal digits instead of integers.
        bag: when not 0, a column B1 of lists of 1 to `bag` ids.
        seed: of everything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rows: Rows
    scale: Annotated[float, Field(gt=0, le=1)] | None = None
    zipf: Annotated[float, Field(ge=0, le=8)] = 1.1
    dense: Annotated[int, Field(ge=0, le=1000)] = 13
    rank: Rank | None = None
    ranks: Annotated[tuple[Rank, ...], Strict(False), Field(min_length=2, max_length=len(CRITEO))] | None = None
    cardinalities: Annotated[tuple[Cardinality, ...], Strict(False)] | None = None
    shares: Annotated[tuple[Share, Share, Share], Strict(False)] = (0.5, 0.3, 0.2)
    auc: Annotated[float, Field(ge=0.55, le=0.95)] = 0.8
    positives: Annotated[float, Field(gt=0, lt=1)] = 0.25
    noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
    strings: bool = False
    bag: Annotated[int, Field(ge=0, le=1000)] = 0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        first, pairs, dense = self.shares
        if not math.isclose(first + pairs + dense, 1, abs_tol=1e-9):
            raise ValueError(f"`shares` sum to 1; found {first + pairs + dense:.9g}")
        if not (first or pairs or (dense and self.dense)):
            raise ValueError(f"`shares` leave the label something to follow; found {dense} for `dense` = {self.dense}")
        if self.ranks is None:
            if self.cardinalities is not None:
                raise ValueError("`cardinalities` are those of the fields of `ranks`; found no `ranks`")
            return self
        if self.rank is not None:
            raise ValueError(f"`ranks` go instead of `rank`; found rank = {self.rank} as well")
        if self.bag:
            raise ValueError(f"`ranks` are of fields, and the bag has none; found bag = {self.bag}")
        if self.cardinalities is not None:
            if self.scale is not None:
                raise ValueError(f"`cardinalities` go instead of `scale`; found scale = {self.scale} as well")
            if len(self.cardinalities) != len(self.ranks):
                raise ValueError(
                    f"`cardinalities` have a number for each of `ranks`; found {len(self.cardinalities)} "
                    f"for {len(self.ranks)}"
                )
        alone = [f"C{field}" for field, rank in enumerate(self.ranks, 1) if rank == max(self.ranks)]
        if len(alone) == 1:
            raise ValueError(
                f"two fields or more have the largest of `ranks`, or its last components would meet no others and "
                f"never be seen; found {max(self.ranks)} for {alone[0]} only"
            )
        for field, (rank, ids) in enumerate(zip(self.ranks, self.sizes, strict=False), 1):
            if ids <= rank:
                raise ValueError(
                    f"a field has more ids than its rank, or they cannot show it; found {ids} ids of rank {rank} for "
                    f"C{field}"
                )
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many ids C1, C2, … have; there are so many of these columns."""
        return self.cardinalities or tuple(self.cardinality(full) for full in CRITEO)

    def cardinality(self, full: int) -> int:
        """The number of ids of a column that has `full` of them at scale 1."""
        return min(full, max(3, math.ceil(full * Fraction(repr(self.scale or SCALE)))))
