"""What a budget's plan holds: bytes of each field, what the next KiB would give it, what one given back would cost.

Bytes of a field are of its tables, those of first order with them. What an option gives was measured by the search: the
logloss of validation rows with it in the place of what was chosen, all other fields as they are.
"""

from collections.abc import Sequence

from rich.console import Console

from . import budget, tables_bin
from . import manifest_pb2 as pb
from .inspect_field import Facts, told_bits, told_tables
from .terminal import print_table, say, told_bytes

BAR = 32  # columns of the largest field's bar
KIB = 1024


def facts_of(made: pb.Plan, search: pb.Search) -> Facts:
    """The facts of a budget's plan, for a script; `fields` by feature. A loss is validation logloss, less is better."""
    told, terms = search.budget, {field.feature: field for field in made.first_order}
    fields = dict[str, Facts]()
    for field, choice in zip(made.fields, search.choices, strict=True):
        own = budget.own_option(field, terms, choice, choice.feature)
        fields[field.feature] = _field(choice, own, told.taken)
    return {
        "asked": told.asked,
        "budget": told.bytes,
        "bytes": told.taken,
        "full_bytes": told.full,
        "smallest_bytes": told.smallest,
        "compression": told.full / told.taken,
        "price": told.price,
        "rows": told.rows,
        "parts": tables_bin.plan_bytes(search.schema, made),
        "fields": fields,
    }


def _field(choice: pb.Choice, own: int, taken: int) -> Facts:
    held, options = choice.options[own].bytes, [_option(option) for option in choice.options]
    more = [_step(each, each["bytes"] - held) for each in options if each["bytes"] > held]
    less = [_step(each, held - each["bytes"]) for each in options if each["bytes"] < held]
    return {
        "bytes": held,
        "share": held / taken,
        "chosen": own,
        "next": min(more, key=_per_kib, default=None),
        "back": min(less, key=_per_kib, default=None),
        "options": options,
    }


def _option(option: pb.Option) -> Facts:
    return {
        "scheme": pb.Scheme.Name(option.scheme).lower(),
        "rows": list(option.rows),
        "dim": option.dim,
        "bits": option.bits,
        "bytes": option.bytes,
        "loss": option.loss,
    }


def _step(option: Facts, away: int) -> Facts:
    """An option that is so many bytes away, and its loss for each KiB of them."""
    return {**option, "away": away, "per_kib": option["loss"] / away * KIB}


def _per_kib(step: Facts) -> float:
    return step["per_kib"]


def show(facts: Facts, console: Console) -> None:
    """Print what was asked, the map of the fields, and what bytes would do to each."""
    sizes, fields = facts["budget"], facts["fields"]
    say(console, f"asked {told_amounts(sizes)}; the smallest plan takes {sizes['smallest_bytes']:,}")
    head = "feature >ids scheme tables >dim >bits >bytes >share of_tables.bin"
    largest, ink = max(each["budget"]["bytes"] for each in fields), "█" if console.encoding.startswith("utf") else "#"
    print_table(console, head, [_row(each, largest, ink) for each in fields])
    console.print()
    say(console, f"tables.bin: {', '.join(f'{name} {told_bytes(each)}' for name, each in sizes['parts'].items())}")
    say(
        console,
        f"what a KiB more would give a field, and one less cost, in logloss of {sizes['rows']:,} validation rows:",
    )
    head = "feature >gives with >costs without"
    print_table(console, head, [_steps(each) for each in sorted(fields, key=_gain)])
    console.print()


def told_amounts(sizes: Facts) -> str:
    """What was asked, and what the plan takes of it."""
    return (
        f"{sizes['asked']}: {sizes['bytes']:,} of {sizes['budget']:,} bytes, {sizes['compression']:.1f}x fewer than "
        f"full tables ({sizes['full_bytes']:,})"
    )


def _row(facts: Facts, largest: int, ink: str) -> list[str]:
    embedding, held = facts["embedding"], facts["budget"]
    return [
        facts["feature"],
        f"{facts['cardinality']:,}",
        embedding["scheme"].replace("_", " "),
        told_tables(embedding),
        str(facts["dim"]),
        told_bits(embedding) or "float32",
        told_bytes(held["bytes"]),
        f"{held['share']:.1%}",
        ink * -(-held["bytes"] * BAR // largest),
    ]


def _gain(facts: Facts) -> tuple[bool, float]:
    """The key by which those that would gain most come first."""
    step = facts["budget"]["next"]
    return (step is None, 0.0 if step is None else step["per_kib"])


def _steps(facts: Facts) -> list[str]:
    held = facts["budget"]
    return [
        facts["feature"],
        *_told(held["next"], "+"),
        *_told(held["back"], "-"),
    ]


def _told(step: Facts | None, sign: str) -> Sequence[str]:
    """What a KiB gives or costs, and the option that does; what is given is a loss that there is no more."""
    if step is None:
        return ["", ""]
    turned = 0.0 - step["per_kib"] if sign == "+" else step["per_kib"]
    tables = " + ".join(f"{rows:,}" for rows in step["rows"])
    named = f"{step['scheme'].replace('_', ' ')} {tables}, dim {step['dim']}, {told_width(step['bits'])}"
    return [f"{turned:.6f}", f"{named}: {sign}{told_bytes(step['away'])}, {step['loss']:+.5f}"]


def told_width(bits: int) -> str:
    """The bits of a number, in words."""
    return "float32" if not bits else f"{bits} bit{'' if bits == 1 else 's'}"
