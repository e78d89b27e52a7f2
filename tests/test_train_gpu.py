"""On a GPU a model computes, learns and ends where it does on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from quorem.protos import manifest_pb2 as pb
from quorem.protos.encode import Encoded
from quorem.train.features import Rows, model_rows
from quorem.train.model import Model
from quorem.train.optimizer import load_state_tensors, make_optimizer, state_tensors
from quorem.train.recipe import TrainConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


def pair(scheme: str, combine: pb.Combine, hidden: int, name: str) -> tuple[Model, Model, Rows]:
    """The same model on both devices, of dims that differ where it can unify them, and rows on the CPU."""
    features = [runs.categorical("a", "hash", 500), runs.categorical("b", "hash", 300, bag=3), runs.number("n")]
    dims = (8, 6) if name in runs.UNIFYING else (8, 8)
    fields = [
        runs.field(feature, scheme, combine, dim, hidden=hidden) for feature, dim in zip(features, dims, strict=False)
    ]
    manifest = runs.model(features, fields, name, **({} if name == "fm" else {"dropout": 0}))
    classes = {key: each for field in fields for key, each in runs.classes_of(field).items()}
    raw = runs.rows(manifest, {}, np.random.default_rng(1), 512)
    labels = (np.random.default_rng(2).random(512) < 0.5).astype(np.float32)
    models = [Model(manifest.schema, manifest.plan, manifest.net, classes) for _ in range(2)]
    for model in models:
        model.reset(1)
        model.penalise = True
        draw = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn(weight.shape, generator=draw) * 0.2)
    return models[0], models[1].cuda(), model_rows(manifest.schema, {}, Encoded(*raw), labels)


def step(model: Model, rows: Rows, precision: str = "fp32") -> torch.Tensor:
    """Forward and backward; the loss."""
    device = model.get_buffer("missing").device
    there = rows.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits, norm = model(there.ids, there.numbers)
    assert logits.dtype == torch.float32
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, there.labels) + 1e-3 * norm
    model.zero_grad()
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("name", ["fm", "nfm", "autoint_mlp", "deepfm", "dlrm", "dcn", "dcnv2", "dcnv2_low"])
@pytest.mark.parametrize(
    ("scheme", "combine", "hidden"),
    [
        ("full", pb.ALONE, 0),
        ("qr", pb.MULT, 0),
        ("chinese_remainder", pb.ADD, 0),
        ("mixed_radix", pb.CONCAT, 0),
        ("mixed_radix", pb.PATH, 0),
        ("qr", pb.PATH, 5),
        ("completed", pb.FEATURE, 0),
        ("semantic", pb.PATH, 3),
    ],
)
def test_logits_and_gradients_are_those_of_the_cpu(scheme: str, combine: pb.Combine, hidden: int, name: str) -> None:
    host, device, rows = pair(scheme, combine, hidden, name)
    torch.testing.assert_close(step(device, rows).cpu(), step(host, rows), rtol=1e-4, atol=1e-5)
    for (key, found), expected in zip(device.named_parameters(), host.parameters(), strict=True):
        assert found.grad is not None, key
        assert expected.grad is not None, key
        torch.testing.assert_close(found.grad.cpu(), expected.grad, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adam", "amsgrad", "adagrad", "rowwise_adagrad"])
def test_learns_and_goes_on_from_a_checkpoints_state(optimizer: str, precision: str) -> None:
    _, model, rows = pair("qr", pb.PATH, 4, "deepfm")
    config = TrainConfig.model_validate({"optimizer": optimizer, "lr": 0.02})
    tables = model.table_parameters()
    held = {id(each) for each in tables}
    others = [each for each in model.parameters() if id(each) not in held]
    first = make_optimizer(config, tables, others)
    losses = list[float]()
    for number in range(40):
        if number == 20:  # another optimizer takes over
            kept = {name: value.cpu() for name, value in state_tensors(first).items()}
            first = make_optimizer(config, tables, others)
            load_state_tensors(first, kept, 0.02)
        losses.append(step(model, rows, precision).item())
        first.step()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.skipif("QUOREM_DATA" not in os.environ, reason="QUOREM_DATA does not name the directory of real rows")
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
