"""The study file: TOML becomes a study whose grids are written out as arms, or one error that names the key."""

import difflib
import itertools
import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from ...protos.errors import RecipeError
from ..recipe_file import explain
from .study import ArmConfig, GridConfig, Study, StudyConfig, Value

LARGEST_GRID = 10_000
HANDED_ON = ("factor", "factors", "seeds", "recipe", "tune", "search", "measure")  # by a grid to its arms as they are
FIELD = re.compile(r"\{([^{}]*)\}")


def read_study(path: Path) -> tuple[StudyConfig, tuple[ArmConfig, ...]]:
    """Read a study file.

    Returns:
        What holds for all arms, and the arms: those of `[[arms]]`, then those of `[[grids]]`.

    Raises:
        RecipeError: no such file, not TOML, an unknown key, a value out of its range, an arm that stands twice or is
            not there.
    """
    if not path.is_file():
        raise RecipeError(
            "a study is a TOML file", found="no such file", where=str(path), remedy="`quorem compare --help` shows one"
        )
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError("a study is TOML", found=str(error), where=str(path), remedy="Mend that line") from None
    try:
        study = Study.model_validate(content)
        arms = (*study.arms, *(arm for grid in study.grids for arm in _expand(grid, str(path))))
    except ValidationError as error:
        raise explain(error, content, str(path), Study, "study") from None
    _check_names(study.study, arms, str(path))
    return study.study, arms


def setting(key: str, value: Value) -> str:
    """The setting `key=value` that lays a value over a recipe."""
    return f"{key}={json.dumps(value)}"


def written(value: Value) -> str:
    """A value as it stands in names and tables."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "-".join(map(written, value)) if isinstance(value, tuple) else str(value)


def _expand(grid: GridConfig, path: str) -> list[ArmConfig]:
    """The arms of a grid, the last key varying fastest."""
    where = f"{path}, grid {grid.name!r}"
    if (size := math.prod(map(len, grid.over.values()))) > LARGEST_GRID:
        raise RecipeError(
            f"a grid has at most {LARGEST_GRID} arms", found=f"{size}", where=where, remedy="Drop values of `over`"
        )
    short = {key: key.rpartition(".")[2].strip("\"'") for key in grid.over}
    if len(set(short.values())) < len(short):
        raise RecipeError(
            "the keys of `over` end in different words, which the grid's names use",
            found=", ".join(grid.over),
            where=where,
            remedy="Write arms, or a grid for each value of one of them",
        )
    arms = list[ArmConfig]()
    for combination in itertools.product(*grid.over.values()):
        values = dict(zip(grid.over, combination, strict=True))
        told = {short[key]: written(value) for key, value in values.items()}
        arms.append(
            ArmConfig(
                **{key: getattr(grid, key) for key in HANDED_ON},
                name=_fill(grid.name, told, where),
                series=None if grid.series is None else _fill(grid.series, told, where),
                against=tuple(_fill(name, told, where) for name in grid.held_against),
                set=(*grid.set, *(setting(key, value) for key, value in values.items())),
            )
        )
    return arms


def _fill(template: str, values: Mapping[str, str], where: str) -> str:
    def value(field: re.Match[str]) -> str:
        if field[1] not in values:
            raise RecipeError(
                "a grid's names have fields for the last words of the keys of `over`",
                found=field[0],
                where=where,
                remedy=f"Fields are {', '.join(f'{{{name}}}' for name in values)}",
            )
        return values[field[1]]

    return FIELD.sub(value, template)


def _check_names(study: StudyConfig, arms: tuple[ArmConfig, ...], path: str) -> None:
    names = Counter(arm.name for arm in arms)
    if twice := [name for name, count in names.items() if count > 1]:
        raise RecipeError(
            "an arm's name stands once",
            found=f"{twice[0]!r} {names[twice[0]]} times",
            where=path,
            remedy="Rename one; a grid's name has a field for every key of `over` that varies",
        )
    for name, where in [
        *([(study.against, "study")] if study.against is not None else []),
        *((name, f"arm {arm.name!r}") for arm in arms for name in arm.held_against),
    ]:
        if name not in names:
            raise RecipeError(
                "`against` names an arm",
                found=repr(name),
                where=f"{path}, {where}",
                remedy=_did_you_mean(name, names),
            )
    for seeds, where in [(study.seeds, "study"), *((arm.seeds or (), f"arm {arm.name!r}") for arm in arms)]:
        if len(set(seeds)) < len(seeds):
            raise RecipeError(
                "a seed stands once", found=str(list(seeds)), where=f"{path}, {where}", remedy="Drop the second one"
            )


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, names, 1)
    return f"Did you mean {close[0]!r}?" if close else f"Arms are {', '.join(map(repr, names))}"
