"""Repository: the models that a worker has opened, found by name and version."""

from collections.abc import Sequence

from ..protos import scoring_pb2 as pb
from ..protos.errors import NotFound, WrongType
from .model import Model
from .settings import Limits


class Repository:
    """What is served, within which limits, and whether calls are still welcome.

    serving: False once the worker has been told to stop.
    """

    def __init__(self, models: Sequence[Model], limits: Limits) -> None:
        self.limits = limits
        self.serving = True
        self._models = dict[str, dict[int, Model]]()
        for model in models:
            self._models.setdefault(model.version.name, {})[model.version.number] = model

    @property
    def names(self) -> list[str]:
        """The names of the models."""
        return sorted(self._models)

    def versions(self, name: str) -> list[int]:
        """The versions of a model that are served, rising."""
        return sorted(self._models.get(name, ()))

    def model(self, name: str, version: int | None = None, label: str | None = None) -> Model:
        """A model's version; its latest unless one is asked for. An empty name means the only model there is.

        Raises:
            NotFound: not served; says what is.
        """
        if not name and len(self._models) == 1:
            name = self.names[0]
        versions = self._models.get(name)
        if versions is None:
            raise NotFound(
                "a call names a model that is served",
                found=repr(name[:64]) if name else "no name",
                where="model",
                remedy=f"Name one of {self.names}",
            )
        if label is not None:
            raise NotFound(
                "a label is one that the repository gives to a version",
                found=repr(label[:64]),
                where=f"model {name!r}",
                remedy=f"It has no labels; ask for one of the versions {self.versions(name)}, or for none",
            )
        chosen = max(versions) if version is None else version
        if chosen not in versions:
            raise NotFound(
                "a call asks for a version that is served",
                found=f"version {chosen}",
                where=f"model {name!r}",
                remedy=f"Ask for one of {self.versions(name)}, or for none to get the latest",
            )
        return versions[chosen]

    def selected(self, call: pb.ScoreRequest | pb.DescribeRequest) -> Model:
        """The model, and the version or label, that a call of the Scorer names.

        Raises:
            NotFound: not served.
        """
        selector = call.WhichOneof("selector")
        version = call.version if selector == "version" else None
        return self.model(call.model, version, call.label if selector == "label" else None)

    def model_of_text(self, name: str, version: str) -> Model:
        """The same for the Open Inference Protocol, whose versions are text; empty means the latest.

        Raises:
            NotFound: not served.
            WrongType: a version that is no number.
        """
        if version and not (version.isascii() and version.isdigit() and len(version) < 20):
            raise WrongType(
                "a version is a decimal number",
                found=repr(version[:64]),
                where=f"model {name[:64]!r}",
                remedy="Leave it empty for the latest",
            )
        return self.model(name, int(version) if version else None)
