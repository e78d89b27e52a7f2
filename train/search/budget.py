"""The budget of a plan: how many numbers its tables hold at other dims, and what no choice of dims can do."""

from collections.abc import Mapping

from ...protos import manifest_pb2 as pb
from ...protos import plan
from ...protos.errors import RecipeError, WrongDims
from .config import SearchConfig


def parameters_at(field: pb.Field, dim: int) -> int:
    """Numbers that the field's tables would hold at another dim: what plan.parameters counts after with_dims."""
    dims = plan.table_dims(field.combine, dim, field.hidden, len(field.tables))
    return sum(table.rows * width for table, width in zip(field.tables, dims, strict=True))


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
