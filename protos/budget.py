"""A budget as search.json tells of it: what was asked, what the plan takes, and what each field might have had.

Bytes are those of `tables.bin`, all of it; those of an option are of its field's tables.
"""

import itertools
import math
from collections.abc import Mapping
from typing import NoReturn

from . import manifest_pb2 as pb
from . import plan
from .errors import Malformed
from .low_bits import BITS
from .tables_bin import plan_bytes

METHOD = "budget"
LARGEST = 2.0**128  # of losses: those of float32 are below
AGAIN = "Search again with `quorem search --budget`; a plan directory is not edited by hand"


def check(made: pb.Plan, search: pb.Search, where: str) -> None:
    """Check what a search tells of its budget against the plan, whose fields are checked, as its choices are.

    Raises:
        Malformed.
    """
    told = search.HasField("budget")
    if told != (search.method == METHOD):
        found = f"{'a' if told else 'no'} budget, method {search.method!r}"
        _refuse("a search has a budget where its method is `budget`, and only there", found, f"{where}, budget")
    if told:
        _check_amounts(search.budget, sum(plan_bytes(search.schema, made).values()), f"{where}, budget")
    terms = {field.feature: field for field in made.first_order}
    for field, choice in zip(made.fields, search.choices, strict=True):
        place = f"{where}, choices, feature {choice.feature!r}, options"
        if told:
            _check_options(choice, place)
            own_option(field, terms, choice, place)
        elif choice.options:
            _refuse("options belong to a budget", f"{len(choice.options)}", place)


def own_option(field: pb.Field, terms: Mapping[str, pb.Field], choice: pb.Choice, where: str) -> int:
    """The number of the option that is the field's own, in the plan.

    Raises:
        Malformed: it is not there, once, with the field's bytes, and with a loss of nothing.
    """
    own = (field.scheme, [table.rows for table in field.tables], choice.dim, field.tables[0].bits)
    places = [
        place for place, each in enumerate(choice.options) if (each.scheme, list(each.rows), each.dim, each.bits) == own
    ]
    if len(places) != 1:
        _refuse("what was chosen is one of the options", f"{len(places)} times", where)
    option, held = choice.options[places[0]], field_bytes(field, terms)
    if option.bytes != held:
        _refuse("what was chosen takes the bytes of the field's tables", f"{option.bytes} for {held}", where)
    if option.loss != 0:
        _refuse("losses are told less that of what was chosen", f"{option.loss} of its own", where)
    return places[0]


def field_bytes(field: pb.Field, terms: Mapping[str, pb.Field]) -> int:
    """Bytes of a field's tables, those of first order with them."""
    twin = terms.get(field.feature)
    return plan.table_bytes(field) + (plan.weight_bytes(twin) if twin is not None else 0)


def _check_amounts(budget: pb.Budget, taken: int, where: str) -> None:
    if not budget.asked:
        _refuse("a budget says what was asked for", "nothing", where)
    if budget.taken != taken:
        _refuse("`taken` are the bytes that the plan takes of tables.bin", f"{budget.taken} for {taken}", where)
    if not budget.smallest <= taken <= budget.bytes:
        found = f"smallest {budget.smallest}, taken {taken}, budget {budget.bytes}"
        _refuse("a plan takes at most its budget, and no less than the smallest plan", found, where)
    if not budget.full:
        _refuse("full tables take bytes", "0", where)
    if not (math.isfinite(budget.price) and budget.price >= 0):
        _refuse("the price of bytes is a number of 0 or more", f"{budget.price}", where)


def _check_options(choice: pb.Choice, where: str) -> None:
    for option in choice.options:
        if option.scheme not in plan.SCHEMES or not option.rows or min(option.rows) < 1:
            _refuse("an option has a scheme, and tables with rows", f"{option.scheme}, rows {list(option.rows)}", where)
        if option.dim not in choice.candidates:
            _refuse("an option's dim is one of the candidates", f"{option.dim} of {list(choice.candidates)}", where)
        if option.bits not in (0, *BITS):
            _refuse(f"values have {', '.join(map(str, BITS))} bits, or 0: float32", f"{option.bits}", where)
        if not abs(option.loss) < LARGEST:  # NaN is not, either
            _refuse("a loss is a finite number", f"{option.loss}", where)
    sizes = [option.bytes for option in choice.options]
    if any(a > b for a, b in itertools.pairwise(sizes)):
        _refuse("options stand by rising bytes", f"{sizes[:8]}", where)


def _refuse(rule: str, found: str, where: str) -> NoReturn:
    raise Malformed(rule, found=found if len(found) <= 200 else f"{found[:200]} …", where=where, remedy=AGAIN)
