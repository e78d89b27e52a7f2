"""Training on a GPU ends where training on the CPU ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
    pytest.mark.skipif("QUOREM_DATA" not in os.environ, reason="QUOREM_DATA does not name the directory of real rows"),
]


def test_frappe_reaches_the_same_auc_on_both_devices(tmp_path: Path) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        command = [
            sys.executable,
            "-m",
            "quorem",
            "train",
            "frappe",
            "--out",
            str(tmp_path / device),
            "--device",
            device,
        ]
        done = subprocess.run([*command, "--json", "--quiet"], capture_output=True, text=True, check=True, timeout=3600)
        found[device] = json.loads(done.stdout)
        assert found[device]["device"] == device
    assert abs(found["cuda"]["test"]["auc"] - found["cpu"]["test"]["auc"]) <= 0.001
