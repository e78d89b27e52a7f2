"""Seed noise: whether a difference of means over seeds is more than chance explains, and how alike seeds choose.

Welch's t-test, two-sided at 95 %: B. L. Welch, "The generalization of Student's problem when several different
population variances are involved", Biometrika 34 (1947).
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
ALIKE, NOT_KNOWN = "within seed noise", "one run: not known"

Sample = tuple[float, ...]


@dataclass(frozen=True)
class Difference:
    """The mean of one sample less that of another.

    bound: half of its 95 % interval; None where it is not known: neither sample, nor any other, tells of the noise.
    pooled: whether the noise is that of other arms, because one of the two has a single run.
    verdict: better, worse, within seed noise, or one run: not known.
    """

    mean: float
    bound: float | None
    pooled: bool
    verdict: str


def compare(sample: Sample, against: Sample, others: Iterable[Sample] = (), *, higher_is_better: bool) -> Difference:
    """How a sample compares with another; both have a value at least.

    Args:
        sample: a metric of an arm, a value for each seed.
        against: of the arm that it is held against.
        others: of every arm whose noise may stand in where a single run has none.
        higher_is_better: whether a higher mean is the better one.
    """
    mean = statistics.fmean(sample) - statistics.fmean(against)
    pooled = min(len(sample), len(against)) < 2
    noise = _pooled_noise(others, sample, against) if pooled else _welch(sample, against)
    if noise is None:
        return Difference(mean, None, pooled=False, verdict=NOT_KNOWN)
    error, freedom = noise
    bound = t_quantile(freedom) * error if error else 0.0
    better = mean > 0 if higher_is_better else mean < 0
    verdict = ALIKE if abs(mean) <= bound else "better" if better else "worse"
    return Difference(mean, bound, pooled, verdict + (" (pooled)" if pooled else ""))


def stability(choices: Sequence[Sequence[float]]) -> float | None:
    """The mean Pearson correlation of the pairs of seeds, each with its choice for every field.

    Returns:
        None where there is no pair: a seed that chose the same for all fields has none, nothing is correlated to that.
    """
    varied = [choice for choice in choices if len(set(choice)) > 1]
    pairs = [statistics.correlation(*pair) for pair in itertools.combinations(varied, 2)]
    return statistics.fmean(pairs) if pairs else None


def _welch(sample: Sample, against: Sample) -> tuple[float, float]:
    """Standard error of the difference of means, and its degrees of freedom (Welch-Satterthwaite)."""
    parts = [(statistics.variance(each) / len(each), len(each) - 1) for each in (sample, against)]
    square = sum(part for part, _ in parts)
    if not square:
        return 0.0, math.inf
    return math.sqrt(square), square**2 / sum(part**2 / freedom for part, freedom in parts)


def _pooled_noise(others: Iterable[Sample], sample: Sample, against: Sample) -> tuple[float, float] | None:
    """The same from the pooled variance of all samples of several values; None where there are none."""
    several = [other for other in others if len(other) > 1]
    freedom = sum(len(other) - 1 for other in several)
    if not freedom:
        return None
    variance = sum(statistics.variance(other) * (len(other) - 1) for other in several) / freedom
    return math.sqrt(variance * (1 / len(sample) + 1 / len(against))), freedom


def t_quantile(freedom: float) -> float:
    """The t that |T| exceeds with a probability of 5 %, T of Student's law with so many degrees of freedom (>= 1)."""
    low, high = 0.0, 1.0
    while _beyond(high, freedom) > 1 - CONFIDENCE:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _beyond(middle, freedom) > 1 - CONFIDENCE else (low, middle)
    return high


def _beyond(t: float, freedom: float) -> float:
    """The probability that |T| > t: the regularised incomplete beta function at v / (v + t^2) of v / 2 and 1 / 2."""
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x > (a + 1) / (a + b + 2):  # there the fraction of the mirrored function converges fast
        return 1 - incomplete_beta(b, a, 1 - x)
    if x <= 0:
        return 0.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    # Convergents of 1 / (1 + d1 / (1 + d2 / …)) by Lentz's method: a ratio of numerators and one of denominators.
    value, above, below, step = 1.0, 1.0, 0.0, 0
    while True:
        m, odd = divmod(step, 2)
        if odd:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)) if m else 1.0
        below = 1 / (1 + d * below)
        above = 1 + d / above
        value *= above * below
        step += 1
        if abs(above * below - 1) < 1e-15 or step > 100_000:
            return front * (value - 1)
