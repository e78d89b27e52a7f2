"""Found: what a search gives back, whatever its method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Found:
    """The chosen dims, by feature, and what is known beside them.

    probabilities: of a field's candidates, in their order; of autodim alone.
    valid_metrics, test_metrics: of the model with all candidates, or of the best trial; none of mixed.
    """

    dims: Mapping[str, int]
    probabilities: Mapping[str, Sequence[float]] = field(default_factory=dict)
    valid_metrics: Mapping[str, float] = field(default_factory=dict)
    test_metrics: Mapping[str, float] = field(default_factory=dict)
