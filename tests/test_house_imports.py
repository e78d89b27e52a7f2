"""The walls of the house: who may import whom, and what serving does without."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Imports every module of a package, then prints those of the forbidden modules that anything asked for.
PROBE = """
import importlib, pkgutil, sys

class Refuse:
    asked = set()
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            self.asked.add(name)
            raise ModuleNotFoundError(f"{name} is not part of the base install", name=name)

FORBIDDEN = set(sys.argv[2].split(","))
sys.meta_path.insert(0, Refuse())
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
print(*sorted(Refuse.asked | FORBIDDEN & set(sys.modules)))
"""


def test_import_contracts_are_kept():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("quorem.serve", "torch,onnx,pydantic,polars,pyarrow"),
        ("quorem.protos", "torch,onnx,onnxruntime,pydantic,polars,pyarrow"),
        ("quorem.train", "onnx,onnxruntime,grpc"),
        ("quorem.export", "torch,grpc"),
    ],
)
def test_a_package_imports_without_what_it_may_not_have(package: str, forbidden: str):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE, package, forbidden], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_no_command_is_paid_for_before_it_is_called():
    heavy = {
        "torch",
        "onnx",
        "onnxruntime",
        "grpc",
        "google.protobuf",
        "numpy",
        "pyarrow",
        "polars",
        "pydantic",
        "rich",
    }
    script = "import sys, quorem.command; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert heavy.isdisjoint(done.stdout.split())
