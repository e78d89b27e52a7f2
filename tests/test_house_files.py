"""The files of the house: one noun or verb each, said in the first line, and listed where lists are kept."""

import ast
import re
import sys
import tokenize
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
import quorem
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from quorem.command import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

SOURCES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.py", "protos/**/*.py", "train/**/*.py", "export/**/*.py", "serve/**/*.py", "tests/**/*.py")
    for path in ROOT.glob(pattern)
    if "_pb2" not in path.name
)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_file_is_one_room_and_says_which(path: Path):
    text = (ROOT / path).read_text()
    assert len(text.splitlines()) <= 400, "two rooms in one?"
    assert ast.get_docstring(ast.parse(text)), "its first line says what it holds"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_what_is_ignored_is_named_and_has_a_reason(path: Path):
    with (ROOT / path).open("rb") as lines:
        comments = [token.string for token in tokenize.tokenize(lines.readline) if token.type == tokenize.COMMENT]
    ignores = [text for text in comments if re.search(r"\b(pyright|type): ?ignore|\bnoqa\b", text)]
    explained = re.compile(r"# (pyright: ignore\[\w+(, \w+)*\]|noqa: [A-Z]+\d+(, [A-Z]+\d+)*)  # \w.+")
    assert [text for text in ignores if not explained.fullmatch(text)] == []


def test_every_package_is_listed_and_every_listed_one_exists():
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    there = {".".join(("quorem", *path.parent.parts)) for path in SOURCES if path.parts[0] != "tests"}
    assert listed == there


def test_the_root_holds_only_the_command_and_the_demo():
    demo = {"demo.py", "demo_page.py", "demo_steps.py"}
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "command.py"} | demo


def test_the_installed_version_is_this_one():
    assert distribution("quorem").version == quorem.__version__, "run `make`: the installed metadata is stale"


def test_the_command_knows_the_extras():
    declared = {
        extra: tuple(sorted(Requirement(line).name.replace("-", "_") for line in lines))
        for extra, lines in PYPROJECT["project"]["optional-dependencies"].items()
        if extra not in ("all", "dev", "mlperf", "tensorboard")  # the bench names the one, torch asks for the other
    }
    assert declared == {extra: tuple(sorted(modules)) for extra, modules in EXTRAS.items()}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        (".", ("train",)),  # the demo draws as training does
        ("protos", ()),
        ("serve", ("bench", "mlperf")),
        ("train", ("train",)),
        ("export", ("export",)),
        ("tests", ("bench", "train", "export", "tensorboard", "dev")),
    ],
)
def test_what_is_imported_is_asked_for(folder: str, extras: tuple[str, ...]):
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    asked = {canonicalize_name(Requirement(line).name) for line in lines}
    makers = packages_distributions()
    undeclared = {
        (str(path), module)
        for path in SOURCES
        if path.parts[:-1][:1] == Path(folder).parts and path != Path("protos/__main__.py")
        for module in imported(path)
        if asked.isdisjoint(canonicalize_name(maker) for maker in makers.get(module, ()))
    }
    assert undeclared == set()


def imported(path: Path) -> set[str]:
    """The top-level modules of other distributions that a file imports, at its top or later."""
    nodes = list(ast.walk(ast.parse((ROOT / path).read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    siblings = {"quorem", "benchmarks", *(other.stem for other in SOURCES if other.parent == path.parent)}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - siblings


def test_the_base_install_has_neither_torch_nor_onnx():
    base = {Requirement(line).name for line in PYPROJECT["project"]["dependencies"]}
    assert base.isdisjoint({"torch", "onnx", "polars", "pyarrow", "pydantic"})


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm64", "AMD64"])
def test_one_onnxruntime_on_every_platform(platform: str, machine: str):
    gpu = platform == "win32" or (platform, machine) == ("linux", "x86_64")
    environment = {"sys_platform": platform, "platform_machine": machine}
    found = [
        one.name
        for one in map(Requirement, PYPROJECT["project"]["dependencies"])
        if one.name.startswith("onnxruntime") and one.marker and one.marker.evaluate(environment)
    ]
    assert found == ["onnxruntime-gpu" if gpu else "onnxruntime"]


def test_the_constraints_pin_all_that_development_installs():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", line) for line in lines), "exact, no local version"
    assert lines == sorted(lines, key=str.lower)
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines}
    assert closure(Requirement("quorem[dev]")) - {"quorem"} <= pinned


def closure(start: Requirement) -> set[str]:
    """All distributions that installing `start` here brings, by canonical name."""
    seen, waiting = set[tuple[str, str]](), [(start.name, extra) for extra in ("", *start.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        for one in map(Requirement, lines):
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(one.name), wanted) for wanted in ("", *one.extras)]
    return {name for name, _ in seen}
