"""The generated code in protos/: it is what the .proto files say, and the runtimes we ask for can run it."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from quorem.protos.__main__ import generate

ROOT = Path(__file__).resolve().parents[1]
PROTOS = ROOT / "protos"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirement(name: str, where: list[str]) -> Requirement:
    """The one requirement on `name`."""
    (found,) = [one for one in map(Requirement, where) if one.name == name]
    return found


def stamps(files: str, line: str) -> set[str]:
    """The versions that the generators wrote into the `files` they made."""
    return {version for path in PROTOS.glob(files) for version in re.findall(line, path.read_text(), re.MULTILINE)}


def test_generated_code_is_current(tmp_path: Path):
    pinned = str(requirement("grpcio-tools", PROJECT["optional-dependencies"]["dev"]).specifier).removeprefix("==")
    if version("grpcio-tools") != pinned:
        pytest.skip(f"made by grpcio-tools {pinned}, which is pinned; installed is {version('grpcio-tools')}")
    made = {path.name: path.read_bytes() for path in generate(tmp_path)}
    kept = {path.name: path.read_bytes() for path in PROTOS.glob("*_pb2*.py*")}
    assert made.keys() == kept.keys()
    stale = [name for name in made if made[name] != kept[name]]
    assert not stale, f"run `make protos`: {stale}"


def test_protobuf_is_asked_for_as_the_generated_messages_need_it():
    needs = requirement("protobuf", PROJECT["dependencies"]).specifier
    made = {
        re.search(r"^# Protobuf Python Version: (\S+)$", path.read_text(), re.M)[1] for path in PROTOS.glob("*_pb2.py")
    }
    assert len(made) == 1
    oldest = Version(made.pop())
    assert oldest in needs
    assert Version(f"{oldest.major}.{oldest.minor}.{oldest.micro - 1}") not in needs, "new code, old runtime"
    assert Version(f"{oldest.major + 1}.0") not in needs, "the next major may drop what this code calls"


def test_grpcio_is_asked_for_as_the_generated_stubs_need_it():
    needs = requirement("grpcio", PROJECT["dependencies"]).specifier
    made = stamps("*_pb2_grpc.py", r"^GRPC_GENERATED_VERSION = '(\S+)'$")
    assert made == {version("grpcio-tools")}
    oldest = Version(made.pop())
    assert oldest in needs
    assert Version(f"{oldest.major}.{oldest.minor - 1}.99") not in needs
