"""What a search for several budgets leaves beside its plan directories: pareto.json, written last; verified."""

from collections.abc import Sequence
from pathlib import Path

from . import manifest, plan_directory
from . import manifest_pb2 as pb
from .errors import Malformed, MissingFile, UnsafePath, WrongDigest

NAME = "pareto.json"
AGAIN = "Search again with `quorem search --pareto`; what it leaves is not edited by hand"
COPY = "Copy the directory again from where it was written"
Found = tuple[Path, pb.Plan, pb.Search]


def directory_of(path: Path) -> Path:
    """The directory that is meant by its own path, or by that of its pareto.json."""
    return path.parent if path.name == NAME and not path.is_dir() else path


def write(directory: Path, names: Sequence[str]) -> None:
    """Write `pareto.json` of the plan directories of these names, which are there.

    Raises:
        ArtifactError, PlanError: see plan_directory.py. Malformed: no two budgets, or another order.
    """
    paths = [directory / name for name in names]
    told = [_told(path, plan_directory.read_plan(path)[1]) for path in paths]
    made = pb.Pareto(format_version=manifest.FORMAT_VERSION, plans=told)
    _check(made, str(directory / NAME))
    manifest.write_message(directory / NAME, made)


def read(directory: Path) -> list[Found]:
    """Read and check it and the plan directories that it names, with their files; by falling budgets.

    Raises:
        ArtifactError, PlanError: see plan_directory.py. Malformed, UnsafePath, WrongDigest: not what was written.
    """
    path = directory / NAME
    if not path.is_file():
        raise MissingFile(
            f"a search for several budgets leaves {NAME}, written last",
            found="none",
            where=str(directory),
            remedy="Name the directory of a search that has ended",
        )
    told = manifest.parse_versioned(manifest.read_bytes(path), pb.Pareto, str(path), AGAIN)
    _check(told, str(path))
    return [_read(each, directory / each.directory, path) for each in told.plans]


def _read(told: pb.Budgeted, directory: Path, listing: Path) -> Found:
    if directory.is_symlink():
        raise UnsafePath(
            "plan directories are no symbolic links", found=str(directory), where=str(listing), remedy=COPY
        )
    made, search = plan_directory.read_plan(directory)
    found = _told(directory, search)
    if found.search_sha256 != told.search_sha256:
        raise WrongDigest(
            f"a {plan_directory.SEARCH} has the digest that {NAME} says",
            found="another",
            where=str(directory / plan_directory.SEARCH),
            remedy=COPY,
        )
    same = found.SerializeToString(deterministic=True) == told.SerializeToString(deterministic=True)  # NaN is NaN here
    if not (same and search.HasField("budget")):
        raise Malformed(
            f"{NAME} tells of a plan what its {plan_directory.SEARCH} does",
            found="another budget, or other metrics",
            where=f"{listing}, {told.directory!r}",
            remedy=AGAIN,
        )
    return directory, made, search


def _told(directory: Path, search: pb.Search) -> pb.Budgeted:
    return pb.Budgeted(
        directory=directory.name,
        search_sha256=manifest.sha256_of(directory / plan_directory.SEARCH),
        budget=search.budget,
        valid_metrics=search.valid_metrics,
    )


def _check(told: pb.Pareto, where: str) -> None:
    names = [each.directory for each in told.plans]
    if len(names) < 2 or len(set(names)) < len(names):  # each costs a reading
        raise Malformed("several budgets have a plan directory each", found=f"{names[:8]}", where=where, remedy=AGAIN)
    for name in names:
        if not manifest.is_plain(name):
            raise UnsafePath(
                "plan directories stand in the one of their search",
                found=repr(name[:200]),
                where=where,
                remedy="Do not use this directory; it was not written by quorem",
            )
    if any(a.budget.bytes < b.budget.bytes for a, b in zip(told.plans, told.plans[1:], strict=False)):
        raise Malformed("budgets fall from plan to plan", found="another order", where=where, remedy=AGAIN)
