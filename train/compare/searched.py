"""What a finished search tells, from its plan directory: the dims, and the size of the model with all candidates."""

import tomllib
from pathlib import Path
from typing import Any

from ...protos import plan as plans
from ...protos.plan_directory import read_plan
from .training import Run


def report_search(directory: Path, run: Run) -> dict[str, Any]:
    """The report of a search, as that of a training is (report.py): of the model that its metrics are of.

    Those of autodim are of the model with all candidates: every field's tables have the widest one's dim or, where
    candidates are looked up apart, there are tables for each. Those of random search are of the plan.

    Returns:
        embedding_parameters, bytes, first_order_bytes, collisions, valid and test; full_bytes, of full tables of the
        widest candidate's dim (mixed: of the widest dim there is); dims, the chosen ones, by feature in the schema's
        order, and widest, by feature.

    Raises:
        ArtifactError: the plan directory cannot be trusted.
    """
    plan, search = read_plan(directory)
    chosen = {choice.feature: choice.dim for choice in search.choices}  # in packing order, which hangs on the dims
    dims = {feature.name: chosen[feature.name] for feature in search.schema.features if feature.name in chosen}
    widest = {choice.feature: max([*choice.candidates, choice.dim]) for choice in search.choices}
    if search.method == "mixed":
        widest = dict.fromkeys(dims, max(dims.values()))
    held = {feature: [dim] for feature, dim in (widest if search.method == "autodim" else dims).items()}
    if search.method == "autodim" and tomllib.loads(run.text)["search"]["lookup"] == "separate":
        held = {choice.feature: list(choice.candidates) for choice in search.choices}
    parameters = sum(plans.parameters_at(field, dim) for field in plan.fields for dim in held[field.feature])
    classes = sum(map(plans.class_bytes, plan.fields))
    return {
        "embedding_parameters": parameters,
        "bytes": parameters * plans.FLOAT_BYTES + classes,
        "full_bytes": sum(field.cardinality * widest[field.feature] for field in plan.fields) * plans.FLOAT_BYTES,
        "first_order_bytes": sum(map(plans.weight_bytes, plan.first_order)),
        "collisions": sum(field.collisions for field in plan.fields),
        "valid": dict(sorted(search.valid_metrics.items())),
        "test": dict(sorted(search.test_metrics.items())),
        "dims": dims,
        "widest": widest,
    }
