"""The choice: how probable each candidate dim of each field is, learnt as logits.

Source: Zhao et al., WWW'21, section 2.3. Legend: F fields in the plan's order; N candidates, of all fields together.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...protos import manifest_pb2 as pb
from ...protos.plan import parameters_at
from ..batches import generator_of
from .config import SearchConfig


class Choice(nn.Module):
    """alpha, (F, N): a softmax of trainable logits over a field's own candidates; equal when fresh."""

    def __init__(self, config: SearchConfig, fields: Sequence[pb.Field]) -> None:
        """Take the candidates of each field, and count the numbers that its tables would hold at each of them."""
        super().__init__()
        self.features = [field.feature for field in fields]
        own = [config.candidates_of(name) for name in self.features]
        self.candidates = sorted({dim for dims in own for dim in dims})
        self.logits = nn.Parameter(torch.zeros(len(own), len(self.candidates)))
        self.allowed: Tensor
        self.sizes: Tensor
        allowed = [[dim in dims for dim in self.candidates] for dims in own]
        self.register_buffer("allowed", torch.tensor(allowed), persistent=False)
        sizes = [[parameters_at(field, dim) for dim in self.candidates] for field in fields]
        self.register_buffer("sizes", torch.tensor(sizes, dtype=torch.float64), persistent=False)
        self.widest = float((self.sizes * self.allowed).amax(1).sum())

    def probabilities(self) -> Tensor:
        """alpha, (F, N) float32; zero where a dim is no candidate."""
        return self.logits.masked_fill(~self.allowed, -torch.inf).softmax(1)

    def equal(self) -> Tensor:
        """The weights of the warm-up, (F, N): the same for every candidate of a field."""
        return self.allowed / self.allowed.sum(1, keepdim=True)

    def gumbel(self, tau: float, seed: int, draw: int) -> Tensor:
        """p, (F, N): softmax of (log alpha + g) / tau with g = -log(-log u), u uniform, a function of seed and draw."""
        uniform = torch.rand(self.logits.shape, generator=generator_of(seed, draw)).clamp(1e-12, 1 - 1e-7)
        noise = -(-uniform.log()).log()
        chance = self.logits.masked_fill(~self.allowed, -torch.inf).log_softmax(1)
        # Drawn on the CPU, the same for every device, which is not waited for.
        return ((chance + noise.to(chance.device, non_blocking=True)) / tau).softmax(1)

    def share(self) -> Tensor:
        """Expected numbers of the tables as a share of those at the widest candidates, ()."""
        return (self.probabilities() * self.sizes).sum() / self.widest

    @torch.no_grad()
    def entropy(self) -> float:
        """Mean over fields of the entropy of alpha, in nats."""
        alpha = self.probabilities()
        return abs(float(torch.xlogy(alpha, alpha).sum(1).mean()))

    @torch.no_grad()
    def parameters_expected(self) -> float:
        """Expected numbers of the tables."""
        return float((self.probabilities() * self.sizes).sum())

    def told(self) -> dict[str, list[float]]:
        """Feature -> the probability of each of its own candidates."""
        alpha, allowed = self.probabilities().detach().cpu(), self.allowed.cpu()
        return {name: alpha[row][allowed[row]].tolist() for row, name in enumerate(self.features)}

    def dims(self) -> dict[str, int]:
        """Feature -> its most probable candidate; the smallest of equally probable ones."""
        best = self.probabilities().argmax(1).tolist()
        return {name: self.candidates[index] for name, index in zip(self.features, best, strict=True)}
