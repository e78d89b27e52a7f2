"""The budget of a search: how many numbers its tables hold, and what no choice of dims can do."""

from collections.abc import Iterable, Mapping

from ...protos import manifest_pb2 as pb
from ...protos.errors import RecipeError, WrongDims
from ...protos.plan import parameters_at
from .config import SearchConfig


def supernet_parameters(config: SearchConfig, fields: Iterable[pb.Field]) -> int:
    """How many numbers the tables of all candidates hold together, whatever dims the fields have."""
    if config.lookup == "shared":
        return sum(parameters_at(field, config.width_of(field.feature)) for field in fields)
    return sum(parameters_at(field, dim) for field in fields for dim in config.candidates_of(field.feature))


def least_dim(field: pb.Field) -> int:
    """The smallest dim that the field's combine can share out: one, or one for each table that is concatenated."""
    return len(field.tables) if field.combine == pb.CONCAT else 1


def check_candidates(wide: pb.Plan, config: SearchConfig) -> None:
    """Refuse candidates that a field's tables cannot have.

    Raises:
        WrongDims.
    """
    for field in wide.fields:
        if (smallest := config.candidates_of(field.feature)[0]) < (least := least_dim(field)):
            raise WrongDims(
                "concatenated tables have a dimension each",
                found=f"candidate {smallest} for {least} tables",
                where=f"[search], field {field.feature!r}",
                remedy=f"Give the field candidates of {least} or more in [search.fields], or join by mult or add",
            )


def check_budget(wide: pb.Plan, smallest: Mapping[str, int], config: SearchConfig) -> None:
    """Refuse `search.parameters` below what the plan holds with every field's smallest dim.

    Raises:
        RecipeError.
    """
    least = sum(parameters_at(field, smallest[field.feature]) for field in wide.fields)
    if config.parameters is not None and config.parameters < least:
        raise RecipeError(
            f"the embedding tables of the smallest plan hold {least:,} numbers",
            found=f"at most {config.parameters:,} asked for",
            where="search.parameters",
            remedy=f"Set it to {least} or more, lower the smallest dims, or compress tables in [embedding]",
        )
