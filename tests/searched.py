"""Plan directories, as `quorem search` writes them, for the model of every_kind."""

from collections.abc import Mapping
from pathlib import Path

import every_kind
from quorem.protos import manifest_pb2 as pb
from quorem.protos import packing, plan, plan_directory, tables_bin

CANDIDATES = [2, 4, 8]
DIMS = {"price": 2, "user": 4, "ad": 4, "cité 🦆": 4, "brand": 8, "shop": 2, "zone": 4}
PROBABILITIES = {2: [0.5, 0.375, 0.125], 4: [0.125, 0.75, 0.125], 8: [0.25, 0.25, 0.5]}


BITS = {"price": 1, "user": 4, "ad": 8}
LEAST = 3000  # bytes that the smallest plan is said to take


def make_plan(dims: Mapping[str, int] = DIMS, bits: Mapping[str, int] | None = None) -> pb.Plan:
    """The model's plan, with other dims, and bits for some fields."""
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
            bits=(bits or {}).get(field.feature, 0),
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


def make_budget(made: pb.Plan, asked: str = "10x", seed: int = 1) -> pb.Search:
    """What a budget's search tells of that plan: each field might have had any candidate dim, in its bits or in one.

    A loss is a thousandth for a dim less than the field's, and two for fewer bits.
    """
    search = make_search(made, seed)
    terms = {field.feature: field for field in made.first_order}
    for field, choice in zip(made.fields, search.choices, strict=True):
        own = field.tables[0].bits
        for dim in CANDIDATES:
            for bits in {own, 1}:
                choice.options.add(
                    scheme=field.scheme,
                    rows=[table.rows for table in field.tables],
                    dim=dim,
                    bits=bits,
                    bytes=plan.bytes_at(field, dim, bits) + plan.weight_bytes(terms[field.feature]),
                    loss=(choice.dim - dim) / 1000 + 2 * (bits != own) / 1000,
                )
        choice.options.sort(key=lambda option: (option.bytes, option.loss))
    taken = sum(tables_bin.plan_bytes(search.schema, made).values())
    search.method = "budget"
    search.budget.MergeFrom(
        pb.Budget(asked=asked, bytes=taken + 16, taken=taken, full=10 * taken, smallest=LEAST, price=0.5, rows=8192)
    )
    return search


def write_budget(
    directory: Path, dims: Mapping[str, int] = DIMS, bits: Mapping[str, int] | None = None, asked: str = "10x"
) -> Path:
    """Write a budget's plan directory; the directory again."""
    made = make_plan(dims, BITS if bits is None else bits)
    plan_directory.write_plan(directory, made, make_budget(made, asked))
    return directory


def write(directory: Path, dims: Mapping[str, int] = DIMS, seed: int = 1) -> Path:
    """Write a plan directory; the directory again."""
    made = make_plan(dims)
    plan_directory.write_plan(directory, made, make_search(made, seed))
    return directory
