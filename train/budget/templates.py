"""Templates: plans within a budget that a person would try, one scheme and one number of bits for all large fields.

They stand beside the plan that the choice has learnt, so that a search never ends below what is uniform.
"""

from collections.abc import Callable, Mapping
from itertools import zip_longest

from .fitted import Fitter
from .options import Option

SCHEMES = 2  # whose templates are tried in turns
LARGE = 0.05  # of all tables: fields that take as much are made wider first
UNUSED = 0.5  # of a budget: a template that leaves more, its dims at their widest, is one for a smaller budget
Templates = Mapping[tuple[int, int], list[Option]]  # (scheme, bits), by number -> an option of each field


def templates(fitter: Fitter, budget: int) -> Templates:
    """Of each scheme and bits the plan of the widest dims that fit: of large fields together, then of the others."""
    options, found = fitter.options, dict[tuple[int, int], list[Option]]()
    for scheme in range(max(map(len, options.ladders.values()))):
        for bits in range(len(options.bits)):
            filled = _filled(fitter, budget, scheme, bits)
            if filled is not None and filled not in found.values():
                found[scheme, bits] = filled
    return found


def _filled(fitter: Fitter, budget: int, scheme: int, bits: int) -> list[Option] | None:
    options = fitter.options
    dims = [sorted({dim for _, dim, _ in options.of(field)}) for field in range(len(options.features))]
    schemes = [min(scheme, len(ladder) - 1) for ladder in options.ladders.values()]
    plan: list[Option] = [(own, each[0], bits) for own, each in zip(schemes, dims, strict=True)]
    if fitter.bytes(plan) > budget:
        return None

    def size(field: int, option: Option) -> int:
        return int(options.sizes[field, *option])

    room = budget - fitter.bytes(plan) + sum(size(field, own) for field, own in enumerate(plan))
    held = sum(size(field, own) for field, own in enumerate(plan))
    order = sorted(range(len(plan)), key=lambda field: -size(field, plan[field]))
    large = [field for field in order if size(field, plan[field]) >= LARGE * held]
    widest = 0
    for together in (large, [field for field in order if field not in large]):
        for step in range(1, max(map(len, dims))):
            for field in together:
                if step < len(dims[field]):
                    wider = (schemes[field], dims[field][step], bits)
                    more = size(field, wider) - size(field, plan[field])
                    if held + more <= room and fitter.bytes([*plan[:field], wider, *plan[field + 1 :]]) <= budget:
                        plan[field], held = wider, held + more
                        widest += step == len(dims[field]) - 1
    return None if widest == len(plan) and held < UNUSED * room else plan


def in_turns(found: Templates, loss: Callable[[list[Option]], float]) -> list[tuple[tuple[int, int], list[Option]]]:
    """Templates in the order in which they are tried: the best of the roomiest scheme, of the next one, and so on.

    By `loss` alone one scheme might take all places, and what was measured in company is no judge between schemes.
    """
    ordered = sorted(found.items(), key=lambda each: loss(each[1]))
    first = sorted({scheme for scheme, _ in found})[:SCHEMES]
    queues = [[each for each in ordered if each[0][0] == scheme] for scheme in first]
    turns = [each for turn in zip_longest(*queues) for each in turn if each is not None]
    return [*turns, *(each for each in ordered if each not in turns)]
