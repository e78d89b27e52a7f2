"""Mixed dims: a field's dim falls as a power of its number of ids, with nothing learned.

Source: Ginart et al., Mixed dimension embeddings with application to memory-efficient recommendation systems, ISIT'21,
algorithm 1 with a field's share of the lookups the same for all; the baseline MDE of Zhao et al., WWW'21.

Legend: n ids of a field; n_min of the field with the fewest; s = (n / n_min)^-alpha its share of the base.
"""

from decimal import ROUND_HALF_UP, Context, Decimal

from ...protos import manifest_pb2 as pb
from ...protos.plan import parameters_at
from .budget import check_budget, least_dim
from .config import SearchConfig

EXACT = Context(prec=60, Emin=-(10**9), Emax=10**9)
SHARE, BASE = Context(prec=40), Context(prec=20)  # fewer digits each: what is a half or equal does not hang on the last


def mixed_dims(config: SearchConfig, wide: pb.Plan) -> dict[str, int]:
    """The dim of every field: base x s, to the nearest integer, halves up; the same on every machine.

    A field of a single id has nothing to tell apart: it does not count as the smallest one, and its dim is the least.
    No dim is below one, nor below the number of tables that are concatenated.

    With `parameters`, the base is lowered from `config.width` through the real numbers, until the tables hold no more:
    each plan on that way has one dim less than the one before, or several where fields have equally many ids.

    Raises:
        RecipeError: `parameters` is below what the smallest dims take.
    """
    least = {field.feature: least_dim(field) for field in wide.fields}
    check_budget(wide, least, config)
    shares = _shares(config, wide)
    dims = {name: max(least[name], _round(BASE.multiply(config.width, share))) for name, share in shares.items()}
    if config.parameters is None:
        return dims
    fields = {field.feature: field for field in wide.fields}
    held = sum(parameters_at(fields[name], dim) for name, dim in dims.items())
    # A dim falls from d to d - 1 as twice the base passes (2d - 1) / s; all that fall at one base fall together.
    falls = [
        (BASE.divide(2 * d - 1, shares[name]), name)
        for name, dim in dims.items()
        for d in range(least[name] + 1, dim + 1)
    ]
    falls.sort(key=lambda fall: fall[0])
    while held > config.parameters:
        doubled = falls[-1][0]
        while falls and falls[-1][0] == doubled:
            name = falls.pop()[1]
            dims[name] -= 1
            held -= parameters_at(fields[name], dims[name] + 1) - parameters_at(fields[name], dims[name])
    return dims


def _shares(config: SearchConfig, wide: pb.Plan) -> dict[str, Decimal]:
    """s of every field, to forty digits; zero for a field of one id."""
    counts = {field.feature: field.cardinality for field in wide.fields}
    smallest = min((n for n in counts.values() if n > 1), default=1)
    alpha = Decimal(repr(config.alpha))
    return {
        name: SHARE.plus(EXACT.power(EXACT.divide(smallest, n), alpha)) if n > 1 else Decimal()
        for name, n in counts.items()
    }


def _round(number: Decimal) -> int:
    return int(number.to_integral_value(ROUND_HALF_UP))
