"""The methods in this process, under a control that knows no other: what tests of functions call."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quorem.protos.errors import NotFound
from quorem.serve.control import State
from quorem.serve.methods import unary
from quorem.serve.model import Model
from quorem.serve.repository import Repository
from quorem.serve.settings import Limits, Version


class OneProcess:
    """Control of a repository of one model in this process."""

    def __init__(self, models: Path, name: str) -> None:
        self.loads, self._name = 0, name
        self._model = Model(Version(name, 1, models / name / "1"), "cpu")
        self.repository = Repository([self._model], Limits(max_rows=128))

    def methods(self, *, allowed: bool = True) -> dict[str, Any]:
        """Service -> method -> function."""
        return unary(self.repository, self, allow_control=allowed)

    def index(self) -> Sequence[State]:
        """The one version, and one that could not be served."""
        ready = State(self._name, 1, "READY") if self.repository.names else State(self._name, 1, "UNAVAILABLE")
        return [ready, State(self._name, 2, "UNAVAILABLE", "a wrong digest in /srv/models")]

    def load(self, name: str) -> None:
        """Serve the model again."""
        self._check(name)
        self.loads += 1
        self.repository.replace([self._model], {})

    def unload(self, name: str) -> None:
        """Serve it no longer."""
        self._check(name)
        self.repository.replace([], {})

    def snapshot(self) -> dict[str, Any]:
        """The counts of this process."""
        return self.repository.statistics.snapshot()

    def _check(self, name: str) -> None:
        if name != self._name:
            raise NotFound("a call names a model of the repository", found=repr(name))
