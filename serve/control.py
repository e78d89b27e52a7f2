"""Control: what a worker asks of the supervisor, which asks all workers: one answer for the whole server."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class State:
    """One version of one model, as the repository has it.

    state: READY, LOADING or UNAVAILABLE; `reason` says why, where it is not ready.
    """

    name: str
    number: int
    state: str
    reason: str = ""


class Control(Protocol):
    """The whole server, from within one of its workers."""

    def index(self) -> Sequence[State]:
        """Every version that the repository holds."""
        ...

    def load(self, name: str) -> None:
        """Serve a model that was unloaded, or whose versions have changed; returns when all workers do.

        Raises:
            NotFound: no such model; ArtifactError, ParityError: none of its versions can be served.
        """
        ...

    def unload(self, name: str) -> None:
        """Serve a model no longer; returns when no worker does.

        Raises:
            NotFound: not served.
        """
        ...

    def snapshot(self) -> dict[str, Any]:
        """The sums over all workers of what `Statistics.snapshot` counts."""
        ...
