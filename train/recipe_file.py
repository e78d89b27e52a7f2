"""The recipe file: TOML with settings laid over it becomes a recipe, or one error that names the key."""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ValidationError

from ..protos.errors import RecipeError
from .recipe import Recipe
from .search.config import KEYS

SHIPPED = Path(__file__).parent / "recipes"
SPAN = re.compile(r"^(?P<stem>.*?)(?P<first>\d+)\.\.(?P=stem)(?P<last>\d+)$")  # "C1..C26"
LONGEST_SPAN = 10_000
FOUND_LENGTH = 120
LATER = {  # keys that recipes have not always had, written where they differ: studies know their runs by this text
    ("data", "synthetic", "shares"): [0.5, 0.3, 0.2],
    ("model", "unify"): "linear",
    ("embedding", "reserve"): 0.0,
    ("embedding", "bits"): 0,
    ("train", "checkpoint_minutes"): 10.0,
    ("train", "distil"): 0.5,
    ("train", "keep_state"): False,
    ("train", "sparse_rows"): 250_000,
}
REMEDIES = {  # pydantic's kinds of complaint -> what to do
    "missing": "Add the key",
    "literal_error": "Take one of these",
    "union_tag_invalid": "Take one of these",
    "union_tag_not_found": "Add the key that says which kind it is",
}


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with quorem."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def read_recipe(name: str, settings: Sequence[str] = (), seed: int | None = None) -> tuple[Recipe, Path]:
    """Read a recipe, a file or the name of a shipped one, with `key=value` settings laid over it.

    Returns:
        The recipe, and the directory that its relative paths start from (the file's; for a shipped one, the current).

    Raises:
        RecipeError: no such recipe, not TOML, an unknown key, a value out of its range; it names the key.
    """
    path, base = Path(name), Path(name).parent
    if not path.is_file() and (SHIPPED / f"{name}.toml").is_file():
        path, base = SHIPPED / f"{name}.toml", Path()
    if not path.is_file():
        raise RecipeError(
            "a recipe is a TOML file or the name of a shipped one",
            found=f"no file {name!r}",
            where="RECIPE",
            remedy=f"Shipped recipes: {', '.join(shipped_recipes())}",
        )
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError("a recipe is TOML", found=str(error), where=str(path), remedy="Mend that line") from None
    for section in (content, content.get("embedding"), content.get("search")):
        key = "features" if section is content else "fields"
        if isinstance(section, dict) and isinstance(section.get(key), dict):
            section[key] = _expand_spans(section[key], str(path))
    for setting in [*settings, *([] if seed is None else [f"train.seed={seed}"])]:
        if setting.startswith("search.budget="):
            _turn(content.setdefault("search", {}))
        _lay_over(content, setting)
    try:
        return Recipe.model_validate(content), base
    except ValidationError as error:
        raise explain(error, content, str(path)) from None


def to_toml(recipe: Recipe, base: Path, *, search: bool | None = None) -> str:
    """The resolved recipe as TOML, for the run directory: every default written out, relative paths made absolute.

    Its section [search] stands there where the recipe says one, or as `search` has it.
    """
    content = recipe.model_dump(mode="json", exclude_none=True)
    places = [(content["data"], key) for key in ("train", "valid", "test", "path", "cache")]
    places += [(field, "table") for field in content["embedding"]["fields"].values()]
    for section, key in places:
        if (place := section.get(key)) and not place.startswith(("/", "$", "~")):
            section[key] = str((base / place).absolute())
    given = recipe.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    content["features"] = given["features"]  # here, which keys stand depends on the kind: defaults would be refused
    if not recipe.model.first_order:
        del content["embedding"]["first_order"]
    for (*steps, key), before in LATER.items():
        section = content
        for step in steps:
            section = section.get(step, {})
        if section.get(key) == before:
            del section[key]
    searched, kept = content.pop("search"), KEYS[recipe.search.method] | {"method"}  # likewise
    if search or (search is None and "search" in recipe.model_fields_set):
        content["search"] = {key: value for key, value in searched.items() if key in kept}
    return tomli_w.dumps(content)


def _expand_spans(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`"C1..C26" = {...}` is twenty-six lines in one."""
    expanded = dict[str, Any]()
    for name, config in section.items():
        names = [name]
        if span := SPAN.match(name):
            first, last, width = int(span["first"]), int(span["last"]), len(span["first"])
            padded = width if span["first"].startswith("0") else 1
            names = [f"{span['stem']}{number:0{padded}}" for number in range(first, last + 1)]
            if not 1 <= len(names) <= LONGEST_SPAN:
                raise RecipeError(
                    f"a span rises, over at most {LONGEST_SPAN} names",
                    found=name,
                    where=where,
                    remedy='Write "C1..C26"',
                )
        for each in names:
            if each in expanded:
                raise RecipeError(
                    "a name stands once", found=f"{each!r} twice", where=f"{where}, {name}", remedy="Drop one of them"
                )
            expanded[each] = dict(config) if isinstance(config, dict) else config
    return expanded


def _turn(search: Any) -> None:
    """Make a section [search] one of method "budget": of what it says for another method, what both know stays."""
    if isinstance(search, dict) and search.get("method") != "budget":
        for key in [key for key in search if any(key in own for own in KEYS.values()) and key not in KEYS["budget"]]:
            del search[key]
        search["method"] = "budget"


def _lay_over(content: dict[str, Any], setting: str) -> None:
    """Set one dotted key: `embedding.collisions=4`. Keys and values are TOML; a value that is not is a string."""
    key, equals, value = setting.partition("=")
    steps = list[str]()
    try:
        nested: Any = tomllib.loads(f"{key} = 0")
        while isinstance(nested, dict):
            ((step, nested),) = nested.items()
            steps.append(step)
    except (tomllib.TOMLDecodeError, ValueError):
        equals = ""
    if not equals:
        raise RecipeError(
            "a setting is key=value", found=setting, where="--set", remedy="Write it as embedding.collisions=4"
        )
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    for step in steps[:-1]:
        content = content.setdefault(step, {})
        if not isinstance(content, dict):
            raise RecipeError(
                "a dotted key leads through sections", found=f"`{step}`, a value", where=f"--set {setting}"
            )
    content[steps[-1]] = parsed


def explain(
    error: ValidationError, content: dict[str, Any], where: str, whole: type[BaseModel] = Recipe, kind: str = "recipe"
) -> RecipeError:
    """The first of pydantic's complaints about a file, as a rule, what was found, and a remedy.

    Args:
        error: the complaints.
        content: what was validated.
        where: the file.
        whole: the model that the file as a whole is validated as.
        kind: what such a file is called.
    """
    complaints = error.errors(include_url=False, include_context=False)
    first = min(complaints, key=lambda each: each["type"] != "extra_forbidden")  # a misspelt key is missing too
    steps, unknown = _steps(first["loc"], content), first["type"] == "extra_forbidden"
    place = f"{where}, key {'.'.join(steps)}" if steps else where
    if unknown:
        section = _keys(whole, steps[:-1], content)
        close = difflib.get_close_matches(steps[-1], section, 1)
        remedy = f"Did you mean `{close[0]}`?" if close else f"Known keys: {', '.join(section)}"
        return RecipeError(f"a {kind} has only known keys", found=f"`{steps[-1]}`", where=place, remedy=remedy)
    more = f"; {error.error_count() - 1} more to mend after it" if error.error_count() > 1 else ""
    found = "nothing" if first["type"] == "missing" else repr(first["input"])
    return RecipeError(
        first["msg"].removeprefix("Value error, "),
        found=found if len(found) <= FOUND_LENGTH else "",
        where=place,
        remedy=REMEDIES.get(first["type"], "Mend the key, or leave it out for the default") + more,
    )


def _steps(location: Sequence[str | int], content: Any) -> list[str]:
    """A complaint's place as keys of the recipe: the names of union members are no keys, but for the last step."""
    steps = list[str]()
    for position, step in enumerate(location):
        held: Any = dict(enumerate(content)) if isinstance(content, list) else content
        inside = isinstance(held, dict) and step in held
        if inside or isinstance(step, int) or (position == len(location) - 1 and isinstance(content, dict)):
            steps.append(str(step))
            content = held[step] if inside else None
    return steps


def _keys(model: Any, steps: Sequence[str], content: Any) -> list[str]:
    """The keys that the section at `steps` knows, by following the models' fields: of a union's, the one it names."""
    models, held = _models(model), content if isinstance(content, dict) else {}
    if not steps:
        named = [each for each in models if held.get("name") in get_args(_annotation(each, "name"))]
        return sorted({key for each in named or models for key in each.model_fields})
    annotations = [annotation for each in models if (annotation := _annotation(each, steps[0]))]
    inner = annotations[0] if annotations else model  # else the key of a table of sections: a feature's name
    return _keys(inner, steps[1:], held.get(steps[0]))


def _annotation(model: type[BaseModel], key: str) -> Any:
    """What a section says its key holds; None where it has no such key."""
    return model.model_fields[key].annotation if key in model.model_fields else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The sections that an annotation may mean: itself, or the members of a union or a table."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [each for part in get_args(annotation) for each in _models(part)]
