"""Deploy: the image's build steps run as they stand, its command serves, and the manifest says what Kubernetes asks."""

import argparse
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from quorem.serve.client import Client
from quorem.serve.command import register
from quorem.serve.supervisor import OVERTIME_S
from served import ROWS, Rows

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
SITE = sysconfig.get_path("purelib")


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, the rest) of each line."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(head, rest) for head, _, rest in (line.partition(" ") for line in lines)]


def last_of(instruction: str) -> str:
    return [rest for name, rest in dockerfile() if name == instruction][-1]


def in_context(path: Path) -> bool:
    """Whether Dockerfile.dockerignore lets a path into the build: the last line that matches it or a parent decides."""
    kept = True
    for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        anywhere = line.startswith("**/")
        starts = range(len(path.parts)) if anywhere else [0]
        wide = len(Path(pattern).parts)
        if any(
            all(map(fnmatch.fnmatchcase, path.parts[start : start + wide], Path(pattern).parts))
            for start in starts
            if len(path.parts) >= start + wide
        ):
            kept = line.startswith("!")
    return kept


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of the image, made by the RUN steps of its Dockerfile from the build's context, without network.

    The base dependencies, and Debian's packages, are found where the tests found them instead of being downloaded.
    """
    root = tmp_path_factory.mktemp("image")
    source, home = root / "source", root / "opt" / "quorem"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if tracked.returncode:
        pytest.skip("the build's context is a checkout")
    for name in filter(in_context, map(Path, tracked.stdout.splitlines())):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PYTHONPATH": SITE}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name, step in dockerfile():
        needless = "nghttp2.build" in step and not shutil.which("cc")
        if name == "RUN" and not step.startswith("apt-get") and not needless:
            step = step.replace("/opt/quorem", str(home))
            done = subprocess.run(
                ["sh", "-ec", step],
                cwd=source,
                env=os.environ | offline | {"PATH": path},
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, f"RUN {step}\n{done.stdout}{done.stderr}"
    return home


def installed(image: Path) -> dict[str, str]:
    """The environment of a container, which finds the base dependencies where the tests found them."""
    return {"PATH": f"{image / 'bin'}:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": SITE}


def test_the_dockerfile_has_what_a_small_and_safe_image_has():
    steps = dockerfile()
    assert {name for name, _ in steps} <= INSTRUCTIONS
    stages = [rest.split() for name, rest in steps if name == "FROM"]
    assert [stage[0] for stage in stages] == ["python:3.11-slim-bookworm"] * 2, "the interpreter that the venv names"
    last = steps[max(at for at, (name, _) in enumerate(steps) if name == "FROM") :]
    assert [rest for name, rest in last if name == "COPY"] == ["--from=build /opt/quorem /opt/quorem"]
    (library,) = [rest for name, rest in last if name == "RUN"]
    assert "libnghttp2-14" in library
    assert library.endswith("rm -rf /var/lib/apt/lists/*")
    user, group = last_of("USER").split(":")
    assert int(user) > 0 < int(group)
    assert all("--no-cache-dir" in rest for name, rest in steps if name == "RUN" and "pip install" in rest)
    assert json.loads(last_of("ENTRYPOINT")) == ["quorem", "serve"], "no shell stands between SIGTERM and the server"


def test_the_ports_that_are_exposed_are_those_of_the_command():
    told = json.loads(last_of("CMD"))
    assert last_of("EXPOSE").split() == [told[told.index("--port") + 1], told[told.index("--metrics-port") + 1]]


@pytest.mark.parametrize("name", ["serve/run.py", "train/recipes/frappe.toml", "pyproject.toml", "__init__.py"])
def test_the_build_gets(name: str):
    assert in_context(Path(name))
    assert (ROOT / name).exists()


@pytest.mark.parametrize(
    "name", [".git/config", ".venv/bin/python", "models/ctr/1/tables.bin", "tests/served.py", "serve/__pycache__/x.pyc"]
)
def test_the_build_does_not_get(name: str):
    assert not in_context(Path(name))


def test_the_image_is_this_tree_with_its_command(image: Path, tmp_path: Path):
    where = subprocess.run(
        [image / "bin" / "python", "-c", "import quorem; print(quorem.__file__)"],
        env=installed(image) | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert where.stdout.startswith(str(image)), where.stderr
    done = subprocess.run(
        ["quorem", "serve", "--help"],
        env=installed(image),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: quorem serve")


def test_the_image_s_command_serves(image: Path, served_root: Path, golden: Rows, tmp_path: Path):
    told = [*json.loads(last_of("ENTRYPOINT")), *json.loads(last_of("CMD"))]
    assert told[2] == "/models"
    told[2] = str(served_root / "models")
    told[told.index("--port") + 1] = told[told.index("--metrics-port") + 1] = "0"
    told[told.index("--host") + 1] = "127.0.0.1"
    with subprocess.Popen(
        [*told, "--json", "--workers", "1"], env=installed(image), cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            facts = json.loads(process.stdout.readline())
            with Client(facts["address"]) as client:
                reply = client.score("ctr", golden.columns, ROWS)
            np.testing.assert_allclose(reply.scores, golden.scores, rtol=0, atol=1e-5)
            with urllib.request.urlopen(f"http://127.0.0.1:{facts['metrics_port']}/healthz", timeout=20) as health:
                assert health.status == 200
        finally:
            process.terminate()
        assert process.wait(30) == 0
    assert list(tmp_path.iterdir()) == [], "a container's root cannot be written to"


@pytest.fixture(scope="module")
def manifest() -> dict[str, dict[str, Any]]:
    found = list(yaml.safe_load_all((DEPLOY / "kserve.yaml").read_text()))
    return {each["kind"]: each for each in found}


def test_the_manifest_has_a_runtime_and_a_service_that_uses_it(manifest: dict[str, dict[str, Any]]):
    runtime, service = manifest["ServingRuntime"], manifest["InferenceService"]
    assert (runtime["apiVersion"], service["apiVersion"]) == ("serving.kserve.io/v1alpha1", "serving.kserve.io/v1beta1")
    assert set(runtime["spec"]) <= {"supportedModelFormats", "protocolVersions", "annotations", "containers"}
    model = service["spec"]["predictor"]["model"]
    assert set(model) == {"modelFormat", "protocolVersion", "runtime", "storageUri"}
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {each["name"] for each in runtime["spec"]["supportedModelFormats"]}
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]


def test_the_container_is_confined(manifest: dict[str, dict[str, Any]]):
    (container,) = manifest["ServingRuntime"]["spec"]["containers"]
    confined = container["securityContext"]
    assert confined["readOnlyRootFilesystem"]
    assert confined["runAsNonRoot"]
    assert confined["allowPrivilegeEscalation"] is False
    assert confined["capabilities"] == {"drop": ["ALL"]}
    assert f"{confined['runAsUser']}:{confined['runAsGroup']}" == last_of("USER")
    assert set(container["resources"]) == {"requests", "limits"}


def test_the_ports_and_probes_are_those_of_the_command(manifest: dict[str, dict[str, Any]]):
    runtime = manifest["ServingRuntime"]["spec"]
    (container,) = runtime["containers"]
    options = told(container["args"])
    (port,) = container["ports"]
    assert port == {"name": "h2c", "containerPort": options.port, "protocol": "TCP"}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == options.port
    assert runtime["annotations"]["prometheus.kserve.io/port"] == str(options.metrics_port)
    assert str(options.workers) == container["resources"]["limits"]["cpu"]


def test_a_pod_has_longer_to_end_than_its_calls(manifest: dict[str, dict[str, Any]]):
    (container,) = manifest["ServingRuntime"]["spec"]["containers"]
    term_s = manifest["InferenceService"]["spec"]["predictor"]["terminationGracePeriodSeconds"]
    assert term_s > told(container["args"]).grace + OVERTIME_S


def test_the_arguments_of_both_are_ones_that_the_command_takes(manifest: dict[str, dict[str, Any]]):
    (container,) = manifest["ServingRuntime"]["spec"]["containers"]
    assert told(json.loads(last_of("CMD"))).host == told(container["args"]).host == "0.0.0.0"


def told(arguments: list[str]) -> Any:
    """What `quorem serve` makes of its arguments."""
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    return parser.parse_args(["serve", *arguments])
