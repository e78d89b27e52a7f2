"""The wheel: it holds the packages and the recipes and nothing else, and runs and serves in an empty environment."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from quorem.serve.client import Client
from served import ROWS, Rows, without

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("protos", "train", "export", "serve")
COMMANDS = ("train", "compare", "export", "serve", "score", "bench", "inspect", "demo")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution, built from a copy of the tree (builds write into it)."""
    source = tmp_path_factory.mktemp("source")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
        elif path.name in (*PROGRAMS, "tests"):
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", source / "dist", source]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (source / "dist").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def empty(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a new virtual environment with the wheel and its base dependencies."""
    home = tmp_path_factory.mktemp("empty")
    subprocess.run([sys.executable, "-m", "venv", home], check=True, timeout=120)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    install = [
        scripts / "python",
        "-m",
        "pip",
        "install",
        "--no-input",
        "--constraint",
        ROOT / "constraints.txt",
        wheel,
    ]
    done = subprocess.run(install, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return scripts


def shipped() -> Iterator[str]:
    """Every file that the wheel must hold, apart from its metadata."""
    for folder in ("", *PROGRAMS):
        for path in (ROOT / folder).glob("**/*" if folder else "*"):
            if path.suffix in (".py", ".pyi", ".proto", ".toml", ".c", ".h") and path.name != "pyproject.toml":
                yield f"quorem/{path.relative_to(ROOT).as_posix()}"


def test_the_wheel_holds_the_packages_and_the_recipes_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        metadata = [name.rpartition("/")[2] for name in archive.namelist() if ".dist-info/" in name]
    assert sorted(names) == sorted(shipped())
    assert "LICENSE" in metadata


def test_the_source_distribution_holds_no_tests(wheel: Path):
    (source,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        inside = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    assert {Path("pyproject.toml"), Path("LICENSE"), Path("train/recipes/frappe.toml")} <= inside
    assert [path for path in inside if path.parts[:1] == ("tests",)] == []


def test_the_empty_environment_has_the_base_dependencies_alone(empty: Path):
    probe = "import importlib.util as u, sys; print(*[name for name in sys.argv[1:] if u.find_spec(name)])"
    optional = ["torch", "onnx", "pydantic", "polars", "pyarrow", "tritonclient", "grpc_tools"]
    done = subprocess.run(
        [empty / "python", "-c", probe, *optional, "quorem"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["quorem"]


def test_the_list_of_commands_is_whole(empty: Path, tmp_path: Path):
    done = subprocess.run([empty / "quorem", "--help"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    listed = [line.split()[0] for line in done.stdout.partition("commands:")[2].splitlines() if line.startswith("    ")]
    assert {name for name in listed if name.islower()} >= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_extra(empty: Path, tmp_path: Path, command: str):
    done = subprocess.run(
        [empty / "quorem", command, "--help"], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: quorem {command}")
    assert "--json" in done.stdout
    assert "examples:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(["train", "frappe", "--out", "x"], "train"), (["export", "x", "--to", "models/x"], "export")],
)
def test_a_missing_extra_is_named_with_its_remedy(empty: Path, tmp_path: Path, arguments: list[str], extra: str):
    done = subprocess.run([empty / "quorem", *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"pip install 'quorem[{extra}]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def hide(what: str, place: Path) -> dict[str, str]:
    """An environment for commands as it is on a machine that lacks something; its cache is empty."""
    found = {"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(place / "cache")}
    if what == "libnghttp2":  # the loader takes the first file of the name, and this is no library
        (place / "libnghttp2.so.14").touch()
        found["LD_LIBRARY_PATH"] = str(place)
    if what == "compiler":
        found["PATH"] = str(place)
    return found


@pytest.mark.parametrize(
    ("lacks", "transport", "why"),
    [
        ("libnghttp2", "grpcio", "nghttp2 does not work here: .*libnghttp2"),
        ("compiler", "nghttp2", "libnghttp2.so.14 alone"),
        ("nothing", "nghttp2", "the compiled shim"),
    ],
)
def test_it_serves_by_what_the_machine_has_and_says_so(
    empty: Path, served_root: Path, golden: Rows, tmp_path: Path, lacks: str, transport: str, why: str
):
    if missing := without(transport):
        pytest.skip(missing)
    machine = hide(lacks, tmp_path)
    if lacks != "libnghttp2":
        build = [empty / "python", "-m", "quorem.serve.nghttp2.build"]
        built = subprocess.run(build, capture_output=True, text=True, cwd=tmp_path, env=machine, timeout=120)
        assert built.returncode == (2 if lacks == "compiler" else 0), built.stderr
        assert "Traceback" not in built.stderr
    serve = [empty / "quorem", "serve", served_root / "models", "--port", "0", "--workers", "1", "--json"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=machine) as server:
        try:
            assert server.stdout
            facts = json.loads(server.stdout.readline())
            assert facts["transport"] == transport
            assert re.search(why, facts["transport_why"])
            with Client(facts["address"]) as client:
                scores = client.score("ctr", golden.columns, ROWS).scores
            np.testing.assert_allclose(scores, golden.scores, rtol=1e-5)
        finally:
            server.terminate()
