"""The choice: how probable each scheme, dim and number of bits of each field is, learnt as logits, and what bytes cost.

As AutoDim's (Zhao et al., WWW'21, section 2.3), three times over: an option's probability is the product of its
scheme's, its dim's and its bits'. Every batch sees one option of each field, drawn by adding Gumbel noise; the gradient
of the probabilities is that of the softmax at a temperature (Jang et al., ICLR'17, straight through).
The price of bytes is the multiplier of a constraint, expected bytes <= budget: it rises while they are above it.
Legend: F fields; S schemes of a field at most; N dims; K numbers of bits.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..batches import generator_of
from .drawn import Drawn
from .options import Option, Options

PARTS = ("schemes", "dims", "bits")
AXES = {"schemes": (2, 3), "dims": (1, 3), "bits": (1, 2)}  # what is averaged over beside a part
STEEPEST, HALVINGS = 4.0, 40  # how far options lean: by the fourth power of their bytes at most


class Choice(nn.Module):
    """Logits of schemes (F, S), dims (F, N) and bits (F, K), equal when fresh; and the price, nothing when fresh."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.features = options.features
        allowed = torch.from_numpy(options.allowed)
        own = {"schemes": allowed.any(3).any(2), "dims": allowed.any(3).any(1), "bits": allowed.any(2).any(1)}
        self.logits = nn.ParameterDict({part: nn.Parameter(torch.zeros(own[part].shape)) for part in PARTS})
        self.sizes: Tensor
        self.price: Tensor
        self.register_buffer("sizes", torch.from_numpy(options.sizes).double(), persistent=False)
        self.register_buffer("price", torch.zeros(()))
        for part in PARTS:
            self.register_buffer(f"own_{part}", own[part], persistent=False)

    @torch.no_grad()
    def lean(self, budget: int) -> None:
        """Move the logits until they expect the budget: towards options of fewer bytes, or of more.

        So weights learn from the first batch of a budget on what they will be asked for. A field leans by what its
        options take on average: those of small fields stay about as likely as they were.
        """
        sizes = torch.where(self.sizes > 0, self.sizes, torch.nan)
        weight = sizes.nanmean((1, 2, 3))
        weight = (weight / weight.max()).view(-1, 1)
        before = {part: self.logits[part].clone() for part in PARTS}
        steps = {part: torch.nan_to_num(weight * torch.log(sizes.nanmean(axes))) for part, axes in AXES.items()}

        def expected(by: float) -> float:
            for part, step in steps.items():
                self.logits[part].copy_(before[part] - by * step)
            return self.bytes_expected()

        low, high = -STEEPEST, STEEPEST
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if expected(middle) > budget else (low, middle)

    def chances(self) -> dict[str, Tensor]:
        """Logarithms of the probabilities, by part; minus infinity where a field has no such option."""
        return {part: self._masked(part).log_softmax(1) for part in PARTS}

    def expected(self) -> Tensor:
        """Expected bytes of all tables, () float64."""
        schemes, dims, bits = (chance.exp().double() for chance in self.chances().values())
        return torch.einsum("fs,fd,fb,fsdb->", schemes, dims, bits, self.sizes)

    def cost(self, budget: int) -> Tensor:
        """What the expected bytes cost beside the loss, (): the price, for each e-fold that they exceed the budget."""
        return (self.price * (self.expected() / budget).log()).float()

    @torch.no_grad()
    def raise_price(self, budget: int, step: float) -> None:
        """A step of the multiplier: up while the expected bytes are above the budget, down while they are below."""
        self.price.add_(step * math.log(self.bytes_expected() / budget)).clamp_(min=0)

    @torch.no_grad()
    def bytes_expected(self) -> float:
        """Expected bytes of all tables."""
        return float(self.expected())

    def draw(self, seed: int, number: int, tau: float, *, learns: bool) -> Drawn:
        """One option of every field, a function of seed and number.

        Args:
            seed: of the search.
            number: of the draw.
            tau: the temperature of the gradient.
            learns: whether the weights carry the gradient of the choice.
        """
        generator, weights = generator_of(seed, number), dict[str, Tensor]()
        for part in PARTS:
            logits = self._masked(part)
            uniform = torch.rand(logits.shape, generator=generator).clamp(1e-12, 1 - 1e-7)
            noisy = logits.log_softmax(1) - (-uniform.log()).log().to(logits.device)
            hard = nn.functional.one_hot(noisy.argmax(1), noisy.shape[1]).float()
            soft = (noisy / tau).softmax(1)
            weights[part] = hard + soft - soft.detach() if learns else hard
        return Drawn(
            schemes=weights["schemes"].argmax(1).tolist(),
            dims=weights["dims"],
            bits=weights["bits"].argmax(1),
            scheme_weights=weights["schemes"] if learns else None,
            bit_weights=weights["bits"] if learns else None,
        )

    def rich(self) -> Drawn:
        """The first scheme of every field, in most bits, its widest dim."""
        widest = self._own("dims") * torch.arange(1, self.logits["dims"].shape[1] + 1, device=self.sizes.device)
        return self.fixed([(0, dim, 0) for dim in widest.argmax(1).tolist()])

    def fixed(self, options: list[Option]) -> Drawn:
        """These options of the fields, without a gradient."""
        schemes, dims, bits = (list(each) for each in zip(*options, strict=True))
        count, device = self.logits["dims"].shape[1], self.sizes.device
        weights = nn.functional.one_hot(torch.tensor(dims, device=device), count).float()
        return Drawn(schemes, weights, torch.tensor(bits, device=device))

    @torch.no_grad()
    def chance(self) -> np.ndarray:
        """The logarithm of each option's probability, (F, S, N, K) float64."""
        schemes, dims, bits = (chance.double() for chance in self.chances().values())
        return (schemes[:, :, None, None] + dims[:, None, :, None] + bits[:, None, None, :]).cpu().numpy()

    @torch.no_grad()
    def entropy(self) -> float:
        """Mean over fields of the entropy of their options, in nats."""
        logs = [chance.double() for chance in self.chances().values()]
        return float(-sum((each.exp() * each.clamp(min=-1e9)).sum() for each in logs) / len(self.features))

    @torch.no_grad()
    def told(self) -> Mapping[str, Mapping[str, list[float]]]:
        """Part -> feature -> the probability of each candidate."""
        return {
            part: dict(zip(self.features, chance.exp().cpu().tolist(), strict=True))
            for part, chance in self.chances().items()
        }

    def _own(self, part: str) -> Tensor:
        return self.get_buffer(f"own_{part}")

    def _masked(self, part: str) -> Tensor:
        return self.logits[part].masked_fill(~self._own(part), -torch.inf)
