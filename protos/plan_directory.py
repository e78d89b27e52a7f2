"""The plan directory: what `quorem search` found, on disk, written, read and verified.

Of its files, plan.json is the plan, and search.json says how each dim was chosen, for which schema, and the digests of
the others. It is written last: a directory with one is whole.
"""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

from . import budget, manifest, plan, schema
from . import manifest_pb2 as pb
from .errors import Malformed, MissingFile, WrongSchema

PLAN, SEARCH = "plan.json", "search.json"
AGAIN = "Search again with `quorem search`; a plan directory is not edited by hand"
BARE = "Name a plan directory of `quorem search`, or the `plan` of a manifest.json as a file of its own"
SUM_TOLERANCE = 1e-3  # of a field's probabilities, which may have been float32
TOLD = 8  # differences between two schemas that an error tells


def directory_of(path: Path) -> Path:
    """The plan directory that is meant by its own path, or by that of its plan.json or search.json."""
    return path.parent if path.name in (PLAN, SEARCH) and not path.is_dir() else path


def write_plan(directory: Path, made: pb.Plan, search: pb.Search) -> None:
    """Write a plan directory, plan.json first; files that `search` names already are kept beside it.

    Raises:
        Malformed, PlanError: what `read_plan` would refuse.
    """
    check(made, search, directory)
    directory.mkdir(parents=True, exist_ok=True)
    manifest.write_message(directory / PLAN, made)
    whole = pb.Search()
    whole.CopyFrom(search)
    whole.format_version = manifest.FORMAT_VERSION
    names = {PLAN} | {file.name for file in search.files}
    del whole.files[:]
    whole.files.extend(manifest.describe_files(directory, sorted(names)))
    manifest.write_message(directory / SEARCH, whole)


def read_plan(directory: Path) -> tuple[pb.Plan, pb.Search]:
    """Read and check a plan directory and the files that it names.

    Raises:
        MissingFile, Malformed, NewerFormat, UnsafePath, WrongDigest, PlanError, NotComplementary: see errors.
    """
    path = directory / SEARCH
    if not path.is_file():
        raise MissingFile(
            f"a plan directory holds {SEARCH}, which is written last",
            found="none",
            where=str(directory),
            remedy="Name the directory of a search that has ended",
        )
    search = manifest.parse_versioned(manifest.read_bytes(path), pb.Search, str(path), AGAIN)
    for file in search.files:
        manifest.check_file(path, file)
    digests = [file.name for file in search.files].count(PLAN)
    if digests != 1:
        raise Malformed(f"a search knows the digest of its {PLAN}", found=str(digests), where=str(path), remedy=AGAIN)
    made = read_bare_plan(directory / PLAN)
    check(made, search, directory)
    return made, search


def read_bare_plan(path: Path) -> pb.Plan:
    """A plan from its JSON file; its fields are not checked.

    Raises:
        Malformed.
    """
    made = manifest.parse_message(manifest.read_bytes(path), pb.Plan, str(path), BARE)
    if not made.fields:
        raise Malformed("a plan has fields", found="none", where=str(path), remedy=BARE)
    return made


def check(made: pb.Plan, search: pb.Search, directory: Path) -> None:
    """Check that a plan and what is told of its search fit together.

    Raises:
        Malformed, PlanError, NotComplementary.
    """
    where = str(directory / SEARCH)
    schema.check(search.schema, f"{where}, schema")
    manifest.check_plan(made, search.schema, f"{directory / PLAN}, plan")
    fields, chosen = ([each.feature for each in part] for part in (made.fields, search.choices))
    if fields != chosen:
        place = next(i for i, (a, b) in enumerate(itertools.zip_longest(fields, chosen)) if a != b)
        told = [repr(names[place]) if place < len(names) else "none" for names in (chosen, fields)]
        raise Malformed(
            "a search's choices are of the plan's fields, in its order",
            found=f"{told[0]} where the plan has {told[1]}",
            where=f"{where}, choices",
            remedy=AGAIN,
        )
    for field, choice in zip(made.fields, search.choices, strict=True):
        _check_choice(choice, plan.vector_dims(field)[0], f"{where}, choices, feature {choice.feature!r}")
    budget.check(made, search, where)


def _check_choice(choice: pb.Choice, dim: int, where: str) -> None:
    def refuse(rule: str, found: str) -> None:
        raise Malformed(rule, found=found, where=where, remedy=AGAIN)

    candidates, probabilities = list(choice.candidates), list(choice.probabilities)
    if choice.dim != dim:
        refuse("the dim that was chosen is that of the field's vectors in the plan", f"{choice.dim} for {dim}")
    if any(a >= b for a, b in itertools.pairwise([0, *candidates])):
        refuse("candidates are at least 1 and rise", f"{candidates}")
    if candidates and dim not in candidates:
        refuse("the dim that was chosen is one of the candidates", f"{dim} of {candidates}")
    if probabilities and len(probabilities) != len(candidates):
        refuse("every candidate has a probability, or none has", f"{len(probabilities)} for {len(candidates)}")
    if not all(0 <= each <= 1 for each in probabilities):  # NaN is not, either
        refuse("a probability is a number from 0 to 1", f"{probabilities}")
    if probabilities and abs(math.fsum(probabilities) - 1) > SUM_TOLERANCE:
        refuse("probabilities add up to 1", f"{math.fsum(probabilities):.6g}")


def check_schema(search: pb.Search, features: pb.Schema, where: str) -> None:
    """Refuse a plan that was searched for another schema, saying which features differ, and how.

    A fingerprint is not enough: it leaves a vocabulary that grew as it is, and tables have as many ids as it had. The
    values of a vocabulary may be others: a dim belongs to a field, not to its ids.

    Raises:
        WrongSchema.
    """
    differences = list(_differences(search.schema, features))
    if not differences:
        return
    more = [f"and {len(differences) - TOLD} more"] if len(differences) > TOLD else []
    raise WrongSchema(
        "a plan is trained on the features that it was searched for",
        found="; ".join([*differences[:TOLD], *more]),
        where=where,
        remedy="Search again with this recipe, or train on the rows and [features] that were searched",
    )


def _differences(searched: pb.Schema, found: pb.Schema) -> Iterator[str]:
    before, now = ({feature.name: feature for feature in part.features} for part in (searched, found))
    yield from (f"{name!r} is missing" for name in before if name not in now)
    yield from (f"{name!r} is new" for name in now if name not in before)
    for name in (name for name in before if name in now):
        told, tells = _traits(before[name]), _traits(now[name])
        yield from (f"{name!r} has {tells[key]} instead of {told[key]}" for key in told if told[key] != tells[key])
    order, kept = [name for name in now if name in before], [name for name in before if name in now]
    if order != kept:
        name, instead = next((a, b) for a, b in zip(order, kept, strict=True) if a != b)
        yield f"another order: {name!r} stands where {instead!r} stood"


def _traits(feature: pb.Feature) -> dict[str, str]:
    """What a plan, or a fingerprint, takes from a feature, in words."""
    return {
        "encoding": f"encoding {feature.WhichOneof('encoding')}",
        "cardinality": f"{schema.cardinality(feature):,} ids",
        "first": f"ids from {feature.id.first}",
        "values": f"{pb.Values.Name(feature.values).lower()} values",
        "side": f"side {pb.Side.Name(feature.side).lower()}",
        "bag": f"a bag of {feature.bag.max_length}" if feature.HasField("bag") else "no bag",
    }
