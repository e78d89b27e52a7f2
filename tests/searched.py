"""Plan directories, as `quorem search` writes them, for the model of every_kind."""

from collections.abc import Mapping
from pathlib import Path

import every_kind
from quorem.protos import manifest_pb2 as pb
from quorem.protos import packing, plan, plan_directory

CANDIDATES = [2, 4, 8]
DIMS = {"price": 2, "user": 4, "ad": 4, "cité 🦆": 4, "brand": 8, "shop": 2, "zone": 4}
PROBABILITIES = {2: [0.5, 0.375, 0.125], 4: [0.125, 0.75, 0.125], 8: [0.25, 0.25, 0.5]}


def make_plan(dims: Mapping[str, int] = DIMS) -> pb.Plan:
    """The model's plan, with other dims."""
    made = every_kind.model().plan
    fields = [
        plan.build_field(
            field.feature,
            field.cardinality,
            plan.pairs(field),
            scheme=field.scheme,
            combine=field.combine,
            dim=dims[field.feature],
            hidden=field.hidden,
            classes=[*every_kind.CLASSES.values(), None] if field.scheme == pb.SEMANTIC else (),
            allow_collisions=field.allow_collisions,
        )
        for field in made.fields
    ]
    return pb.Plan(fields=packing.pack(fields), first_order=made.first_order)


def make_search(made: pb.Plan, seed: int = 1) -> pb.Search:
    """What a search tells of that plan."""
    dims = [(field.feature, plan.vector_dims(field)[0]) for field in made.fields]
    return pb.Search(
        method="autodim",
        model="deepfm",
        seed=seed,
        schema=every_kind.model().schema,
        choices=[
            pb.Choice(feature=name, candidates=CANDIDATES, probabilities=PROBABILITIES[dim], dim=dim)
            for name, dim in dims
        ],
        valid_metrics={"auc": 0.75, "logloss": 0.5},
        test_metrics={"auc": 0.5},
    )


def write(directory: Path, dims: Mapping[str, int] = DIMS, seed: int = 1) -> Path:
    """Write a plan directory; the directory again."""
    made = make_plan(dims)
    plan_directory.write_plan(directory, made, make_search(made, seed))
    return directory
