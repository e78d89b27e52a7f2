"""The start of a server: everything that keeps one from starting, or a version from being served."""

import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from quorem.protos import manifest as manifests
from quorem.protos.schema import Layout
from quorem.serve.model import Model
from quorem.serve.settings import Limits
from safetensors.numpy import load, save
from served import Rows, Served, command, quorem, serving


@pytest.fixture
def models(served_root: Path, golden: Rows) -> Path:
    """The repository of the session; nothing here writes to it."""
    return served_root / "models"


def refused(*arguments: str | Path) -> str:
    """What a server that does not start says."""
    done = quorem("serve", *arguments, "--port", "0", status=2)
    assert done.stdout == ""
    return done.stderr


def test_an_empty_repository_is_refused(tmp_path: Path):
    assert "a model repository is a directory" in refused(tmp_path / "none")
    assert "at least one model that can be served" in refused(tmp_path)
    (tmp_path / "ctr" / "1").mkdir(parents=True)
    assert "ctr/1: " in refused(tmp_path)
    assert "hold manifest.json" in refused(tmp_path)


def test_a_broken_version_is_passed_over_and_named(models: Path, tmp_path: Path):
    shutil.copytree(models, tmp_path / "models")
    versions = tmp_path / "models" / "ctr"
    for name in ("2", "10", ".3.tmp", "new", "007"):
        shutil.copytree(versions / "1", versions / name)
    data = bytearray((versions / "10" / "tables.bin").read_bytes())
    data[0] ^= 1
    (versions / "10" / "tables.bin").write_bytes(data)
    with serving(tmp_path / "models", tmp_path / "log", "--workers", "1") as server:
        assert server.facts["models"] == [{"name": "ctr", "version": 2}]
        assert "ctr/10 is passed over: " in server.log.read_text()
        assert "a file has the digest its manifest says" in server.log.read_text()
        assert server.stop() == 0


@pytest.mark.parametrize("file", ["model.onnx", "golden.safetensors", "tables.bin"])
def test_files_that_are_not_what_the_manifest_says_are_refused(models: Path, tmp_path: Path, file: str):
    shutil.copytree(models, tmp_path / "models")
    (tmp_path / "models" / "ctr" / "1" / file).unlink()
    assert "every file that a manifest names is there" in refused(tmp_path / "models")


def shifted(data: bytes) -> bytes:
    """Golden rows whose logits are another model's."""
    golden = load(data)
    return save(golden | {"logit": golden["logit"] + np.float32(1e-3)})


@pytest.mark.parametrize(
    ("file", "edit", "reason"),
    [
        ("model.onnx", lambda _: b"not a graph", "ONNX Runtime opens a bundle's graph"),
        ("golden.safetensors", lambda _: b"not tensors", "golden.safetensors is a safetensors file"),
        ("golden.safetensors", shifted, "gives its golden logits"),
    ],
)
def test_a_bundle_that_does_not_open_or_gives_other_scores_is_refused(
    models: Path, tmp_path: Path, file: str, edit: Callable[[bytes], bytes], reason: str
):
    shutil.copytree(models, tmp_path / "models")
    version = tmp_path / "models" / "ctr" / "1"
    (version / file).write_bytes(edit((version / file).read_bytes()))
    manifest = manifests.read(models / "ctr" / "1")
    names = [each.name for each in manifest.files]
    del manifest.files[:]
    manifest.files.extend(manifests.describe_files(version, names))
    manifests.write(version, manifest)
    assert reason in refused(tmp_path / "models", "--workers", "1")


def test_a_taken_port_is_refused(server: Served, models: Path):
    port = server.address.rpartition(":")[2]
    done = quorem("serve", models, "--port", port, status=2)
    assert f"127.0.0.1:{port}: a server binds an address of this machine that nobody else serves" in done.stderr
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = quorem("serve", models, "--port", str(other.getsockname()[1]), status=2)
        assert "Address already in use" in done.stderr


def test_a_device_that_is_not_there_is_refused(models: Path):
    if Path("/proc/driver/nvidia/gpus").is_dir():
        pytest.skip("this machine has a GPU")
    assert "--device cuda needs a GPU" in refused(models, "--device", "cuda")


@pytest.mark.parametrize(
    "arguments", [("--port", "70000"), ("--workers", "0"), ("--max-rows", "x"), ("--grace", "nan"), ("--device", "tpu")]
)
def test_a_bad_option_is_refused(models: Path, arguments: Sequence[str]):
    done = subprocess.run(command("serve", models, *arguments), capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert arguments[0] in done.stderr


@pytest.mark.parametrize("change", [{"files": []}, {"export": {"parity_bound": 1e30}}, {"export": None}])
def test_what_the_manifest_leaves_unproved_is_not_served(models: Path, tmp_path: Path, change: dict[str, object]):
    shutil.copytree(models, tmp_path / "models")
    path = tmp_path / "models" / "ctr" / "1" / "manifest.json"
    written = json.loads(path.read_text())
    written.update({name: value for name, value in change.items() if value is not None})
    for name in [name for name, value in change.items() if value is None]:
        del written[name]
    path.write_text(json.dumps(written))
    assert "bundle" in refused(tmp_path / "models", "--workers", "1")


def test_the_rows_of_a_request_are_bounded_by_the_slots_of_the_model():
    class Wide:
        layout = Layout({"bag": (0, 65536)}, {}, 65536)

    assert Model.most_rows(Wide(), Limits(max_rows=4096, max_slots=1 << 20)) == 16  # pyright: ignore[reportArgumentType]  # only its layout is asked
