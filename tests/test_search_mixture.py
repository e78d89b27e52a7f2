"""The mixture is what the paper writes: each candidate cut out, mapped or padded, normalised, weighted, and summed.

Legend: B rows; V vectors, N candidates; D the base.
"""

import itertools

import pytest
import torch
from mixtures import FEATURES, OWN, ROWS, Naive, ids_of, mixture_of
from quorem.protos import manifest_pb2 as pb
from quorem.protos.errors import RecipeError
from quorem.train.search.config import SearchConfig
from quorem.train.search.mixture import EPSILON, MOMENTUM, Mixture
from runs import field
from torch import Tensor

SHAPES = list(itertools.product(["shared", "separate"], ["linear", "pad"], [True, False]))


@pytest.mark.parametrize(("lookup", "unify", "normalise"), SHAPES)
def test_vectors_and_all_gradients_are_the_papers(lookup: str, unify: str, normalise: bool) -> None:
    config = SearchConfig.model_validate(
        {"candidates": [2, 4, 5], "fields": OWN, "base": 8, "lookup": lookup, "unify": unify, "normalise": normalise}
    )
    names = list(FEATURES)
    made, wide = mixture_of(config)
    ids, learnt = ids_of(names), [made.weights, *(each for each in made.parameters() if each.requires_grad)]
    assert (made.maps.requires_grad) == (unify == "linear")
    pull = torch.randn(ROWS, 9 * 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = Naive(config, wide, made, names)(ids)
    assert expected.shape == pull.shape, "nine vectors: feature has two"
    found, _ = made(ids)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    gradients = (torch.autograd.grad((each * pull).sum(), learnt) for each in (found, expected))
    for one, other in zip(*gradients, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", list(FEATURES))
def test_a_field_alone_is_what_it_is_among_others(name: str) -> None:
    """One width, and so no columns to fill up."""
    config = SearchConfig.model_validate({"candidates": [2, 4, 5], "fields": {key: OWN[key] for key in OWN}})
    made, wide = mixture_of(config, [name])
    ids = ids_of([name])
    torch.testing.assert_close(made(ids)[0], Naive(config, wide, made, [name])(ids), rtol=1e-9, atol=1e-10)


def test_float32_with_small_fresh_tables_is_as_near_as_float32_can_be() -> None:
    """Fresh rows are about 1e-4: their variance is far below the epsilon, and must not drown."""
    config = SearchConfig(candidates=(2, 4, 5), fields=OWN)
    made, wide = mixture_of(config)
    with torch.no_grad():
        for weight in (part.weight for group in made.packed() for part in group.packed()):
            weight.mul_(1e-4)
    ids = ids_of(list(FEATURES))
    expected = Naive(config, wide, made, list(FEATURES))(ids).detach()
    made.float()
    made.weights = made.weights.detach().float()
    torch.testing.assert_close(made(ids)[0].double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_no_rounding_takes_a_candidate_below_no_variance() -> None:
    """Rows on one line, and maps that see next to nothing of it: what is left of the variance has either sign."""
    made, _ = mixture_of(SearchConfig(candidates=(2, 4, 8)), ["alone"])
    made.float()
    (table,) = (part.weight for group in made.packed() for part in group.packed())
    with torch.no_grad():
        line = torch.nn.functional.normalize(torch.arange(1.0, 9.0), dim=0)
        made.maps[2] -= (made.maps[2] @ line).outer(line)
        table.copy_(20 * torch.randn(len(table), 1, generator=torch.Generator().manual_seed(1)) * line)
    made.weights = torch.tensor([[0.0, 0.0, 1.0]], requires_grad=True)
    found, _ = made(ids_of(["alone"], 200))
    gradients = torch.autograd.grad(found.square().sum(), [made.weights, made.maps, table])
    assert all(each.isfinite().all() for each in (found, *gradients))
    assert found.abs().max() < 0.1, "nothing is seen of it, but rounding"


def test_evaluation_takes_the_moments_that_were_met_and_knows_no_batch() -> None:
    config = SearchConfig(candidates=(2, 4, 5), fields=OWN)
    made, _ = mixture_of(config)
    batches, vectors = [ids_of(list(FEATURES), seed=seed) for seed in (5, 6)], list[Tensor]()
    handle = Keep(made, vectors)
    for ids in batches:
        made(ids)
    made.eval()
    ids = ids_of(list(FEATURES), 40, seed=7)
    with torch.no_grad():
        whole = made(ids)[0]
        assert torch.equal(made(ids)[0], whole)
        torch.testing.assert_close(made(ids[11:12])[0], whole[11:12])
        torch.testing.assert_close(made(ids[torch.arange(39, -1, -1)])[0].flip(0), whole)
    handle.stop()
    # By hand: both moments move by a tenth towards each batch's, from zero and the identity.
    mean, covariance = torch.zeros_like(made.mean), torch.eye(made.width).double().expand_as(made.covariance)
    for each in vectors[:2]:  # (V, B, w)
        own = each.mean(1)
        mean = (1 - MOMENTUM) * mean + MOMENTUM * own
        spread = each - own.unsqueeze(1)
        covariance = (1 - MOMENTUM) * covariance + MOMENTUM * torch.einsum("vbi,vbj->vij", spread, spread) / ROWS
    torch.testing.assert_close(made.mean, mean)
    torch.testing.assert_close(made.covariance, covariance)
    total = torch.zeros(len(mean), 40, made.base, dtype=torch.float64)
    for n in range(made.picks.shape[1]):
        cut = made.maps[n].detach() @ made.picks[:, n]  # (V, D, w)
        variance = torch.einsum("vdi,vij,vdj->vd", cut, covariance, cut)
        mapped = torch.einsum("vdi,vbi->vbd", cut, vectors[2] - mean.unsqueeze(1))
        scale = made.weights.detach()[made.owner, n][:, None] / (variance + EPSILON).sqrt()  # (V, D)
        total += scale.unsqueeze(1) * mapped
    torch.testing.assert_close(whole, total.transpose(0, 1).flatten(1))


class Keep:
    """Keeps what a mixture looks up before it is normalised."""

    def __init__(self, made: Mixture, kept: list[Tensor]) -> None:
        self.made, self.kept, self.moments = made, kept, made._moments
        made._moments = self  # pyright: ignore[reportAttributeAccessIssue]  # stands between

    def __call__(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Keep, and go on."""
        self.kept.append(vectors.detach().clone())
        return self.moments(vectors)

    def stop(self) -> None:
        """Leave the mixture as it was."""
        del self.made._moments


@pytest.mark.parametrize("unify", ["linear", "pad"])
def test_what_is_not_normalised_keeps_no_moments_and_needs_no_batch(unify: str) -> None:
    config = SearchConfig.model_validate(
        {"candidates": [2, 4, 5], "fields": OWN, "normalise": False, "unify": unify, "base": 9}
    )
    made, _ = mixture_of(config)
    ids = ids_of(list(FEATURES))
    whole = made(ids)[0]
    torch.testing.assert_close(made(ids[3:4])[0], whole[3:4])
    assert (made.mean == 0).all()
    made.eval()
    assert torch.equal(made(ids)[0], whole)


def test_norms_are_of_the_rows_that_were_looked_up() -> None:
    config = SearchConfig(candidates=(2, 4, 5), fields=OWN)
    made, _ = mixture_of(config)
    ids = ids_of(list(FEATURES))
    touched = made(ids)[1]
    held = {partition.weight.shape for group in made.packed() for partition in group.packed()}
    assert {(each.size, each.vectors.shape[2]) for each in touched} == {tuple(shape) for shape in held}


def test_maps_are_drawn_by_the_seed_and_padding_has_none_to_draw() -> None:
    drawn = list[Tensor]()
    for seed in (1, 1, 2):
        made, _ = mixture_of(SearchConfig(candidates=(2, 4)), ["alone"])
        made.reset_maps(torch.Generator().manual_seed(seed))
        drawn.append(made.maps.detach().clone())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][0], drawn[0][1]), "each candidate has a map of its own"
    made, _ = mixture_of(SearchConfig(candidates=(2, 4), unify="pad", base=6), ["alone"])
    made.reset_maps(torch.Generator().manual_seed(1))
    assert torch.equal(made.maps, torch.eye(6, 4, dtype=torch.float64).expand(2, 6, 4))
    assert not made.maps.requires_grad


@pytest.mark.parametrize("hidden", [0, 3])
def test_functions_of_path_read_whole_vectors_and_are_refused(hidden: int) -> None:
    config = SearchConfig(candidates=(2, 4))
    feature = FEATURES["mult"]
    wide = pb.Plan(fields=[field(feature, "qr", pb.PATH, 4, hidden=hidden)])
    with pytest.raises(RecipeError, match="path") as refused:
        Mixture(config, wide, (2, 4), {"mult": (0, 1)}, {}, {})
    assert "mult" in refused.value.where
    assert "concat" in refused.value.remedy
