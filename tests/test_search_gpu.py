"""On a GPU a search computes what it does on the CPU, and finds a plan of like size."""

import json
import os
from pathlib import Path

import pytest
import torch
from commands import quorem
from mixtures import FEATURES, OWN, ids_of, mixture_of
from quorem.train.search.choice import Choice
from quorem.train.search.config import SearchConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


@pytest.mark.parametrize("lookup", ["shared", "separate"])
@pytest.mark.parametrize("unify", ["linear", "pad"])
@pytest.mark.parametrize("normalise", [True, False])
def test_vectors_and_gradients_are_those_of_the_cpu(lookup: str, unify: str, normalise: bool) -> None:
    config = SearchConfig.model_validate(
        {"candidates": [2, 4, 5], "fields": OWN, "base": 8, "lookup": lookup, "unify": unify, "normalise": normalise}
    )
    ids, found = ids_of(list(FEATURES), 200), dict[str, list[torch.Tensor]]()
    for device in ("cpu", "cuda"):
        made, wide = mixture_of(config)
        made, choice = made.float().to(device), Choice(config, wide.fields).to(device)
        for turn in (True, False):
            made.train(turn)
            made.weights = choice.gumbel(0.5, 1, 2)
            vectors = made(ids.to(device))[0]
            assert vectors.device.type == device
            learnt = [choice.logits, *(each for each in made.parameters() if each.requires_grad)]
            aim = vectors.square().mean() + choice.share()
            found.setdefault(device, []).extend([vectors, *torch.autograd.grad(aim, learnt)])
        found[device] += [made.mean, made.covariance, choice.probabilities(), choice.equal()]
    for host, there in zip(found["cpu"], found["cuda"], strict=True):
        torch.testing.assert_close(there.cpu(), host, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif("QUOREM_DATA" not in os.environ, reason="QUOREM_DATA does not name the directory of real rows")
def test_frappe_gets_plans_of_like_size_on_both_devices(tmp_path: Path) -> None:
    """Without dropout, which each device draws in its own way, both follow one path but for rounding."""
    settings = ["data.rows=20000", "train.batch=512", "model.mlp=[64]", "model.dropout=0"]
    settings += ["search.epochs=3", "search.every=1", "search.lr=0.03"]
    sets = [part for each in settings for part in ("--set", each)]
    told, ends = dict[str, dict[str, dict[str, float]]](), dict[str, dict[str, float]]()
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        told[device] = json.loads(quorem("search", "frappe", "--out", out, "--device", device, "--json", *sets).stdout)
        ends[device] = json.loads((out / "history.jsonl").read_text().splitlines()[-1])
        assert told[device]["device"] == device
    sizes = [told[device]["parameters"]["embedding"] for device in ("cpu", "cuda")]
    assert 0.5 <= sizes[1] / sizes[0] <= 2
    assert ends["cuda"]["parameters"] == pytest.approx(ends["cpu"]["parameters"], rel=0.05)
    assert told["cuda"]["valid"]["auc"] == pytest.approx(told["cpu"]["valid"]["auc"], abs=0.02)
