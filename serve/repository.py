"""Repository: the models that a worker has opened, found by name and version."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from ..protos import scoring_pb2 as pb
from ..protos.encode import Float32s
from ..protos.errors import NotFound, WrongType
from .admission import Admission
from .batching import Arrays, Batcher
from .call import Call
from .form import Forms
from .graph import Graph
from .model import Inputs, Model
from .score_form import ScoreForms
from .settings import Limits
from .statistics import Statistics


@dataclass(frozen=True)
class Served:
    """What is served at one moment: models by name and version, versions by name and label.

    forms, score_forms: of requests that were read meanwhile.
    """

    models: Mapping[str, Mapping[int, Model]]
    labels: Mapping[str, Mapping[str, int]]
    forms: Forms = field(default_factory=Forms)
    score_forms: ScoreForms = field(default_factory=ScoreForms)


class Repository:
    """What is served, within which limits, what is let in and what was counted, and whether calls are still welcome.

    A call takes its model once, so that it ends on the version that it began on; a version that is served no longer
    leaves memory with the last of its calls.

    serving: False once the worker has been told to stop.
    arrived: how many calls the transport has for it that are not over; none where nobody tells.
    """

    def __init__(
        self, models: Sequence[Model], limits: Limits, labels: Mapping[str, Mapping[str, int]] = MappingProxyType({})
    ) -> None:
        self.limits = limits
        self.serving = True
        self.arrived: Callable[[], int] = int
        self.admission, self.statistics = Admission(limits.max_rows_in_flight), Statistics()
        self._batcher = None
        if limits.batch_rows:
            rows, delay_s = limits.batch_rows, limits.batch_s
            self._batcher = Batcher(_run, rows, delay_s, lambda: self.arrived())
        self.replace(models, labels)

    def replace(self, models: Sequence[Model], labels: Mapping[str, Mapping[str, int]]) -> None:
        """Serve these models from now on, and no others: one assignment, which no call sees half done."""
        by_name = dict[str, dict[int, Model]]()
        for model in models:
            by_name.setdefault(model.version.name, {})[model.version.number] = model
        self._served = Served(by_name, labels)

    def compute(self, graph: Graph, inputs: Inputs, outputs: Sequence[str], call: Call) -> Sequence[Float32s]:
        """The named outputs of a graph, each (call.rows,) float32; together with those of other calls, if they batch.

        A ranking graph has one context a run, so that its calls are computed one by one.
        """
        if self._batcher is None or not graph.is_row_wise:
            return graph.run(inputs, outputs)
        return self._batcher.run((graph, tuple(outputs)), inputs, call.rows, call)

    @property
    def forms(self) -> Forms:
        """The forms of requests for what is served now; others once that changes, so that they keep no model."""
        return self._served.forms

    @property
    def score_forms(self) -> ScoreForms:
        """The same of the Scorer."""
        return self._served.score_forms

    @property
    def names(self) -> list[str]:
        """The names of the models."""
        return sorted(self._served.models)

    @property
    def models(self) -> list[Model]:
        """All models that are served."""
        return [model for versions in self._served.models.values() for model in versions.values()]

    def versions(self, name: str) -> list[int]:
        """The versions of a model that are served, rising."""
        return sorted(self._served.models.get(name, ()))

    def model(self, name: str, version: int | None = None, label: str | None = None) -> Model:
        """A model's version; its latest unless one is asked for. An empty name means the only model there is.

        Raises:
            NotFound: not served; says what is.
        """
        served = self._served
        if not name and len(served.models) == 1:
            (name,) = served.models
        versions = served.models.get(name)
        if versions is None:
            raise NotFound(
                "a call names a model that is served",
                found=repr(name[:64]) if name else "no name",
                where="model",
                remedy=f"Name one of {sorted(served.models)}",
            )
        if label is not None:
            labels = served.labels.get(name, {})
            if label not in labels:
                raise NotFound(
                    "a label is one that labels.json gives to a version",
                    found=repr(label[:64]),
                    where=f"model {name!r}",
                    remedy=f"Ask for one of {sorted(labels)}, for one of the versions {sorted(versions)}, or for none",
                )
            version = labels[label]
        chosen = max(versions) if version is None else version
        if chosen not in versions:
            raise NotFound(
                "a call asks for a version that is served",
                found=f"version {chosen}",
                where=f"model {name!r}",
                remedy=f"Ask for one of {sorted(versions)}, or for none to get the latest",
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


def _run(key: tuple[Graph, tuple[str, ...]], inputs: Arrays) -> Sequence[Float32s]:
    graph, outputs = key
    return graph.run(inputs, outputs)
