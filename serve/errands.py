"""Errands: what workers ask of the supervisor for the whole server, carried out by asking all workers."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..protos.errors import NotFound, QuoremError, Unavailable
from .catalogue import Catalogue
from .line import error_from
from .place import Place
from .rollout import Rollout
from .settings import Version
from .statistics import add, only

FATAL = 3  # deaths of one worker while it opened a version, before that is held to be why
PATIENCE_S = 60.0  # for workers to answer, before what is known is told


@dataclass
class _Opening:
    place: Place
    version: Version


@dataclass
class _Count:
    answer: Callable[[Any], None]
    left: dict[int, Place]  # who has yet to answer
    due: float


@dataclass
class _Change:
    answer: Callable[[Any, QuoremError | None], None]
    name: str
    load: bool
    look: int


class Errands:
    """Brings every worker to the target, and answers those who wait for that."""

    def __init__(self, places: Sequence[Place], rollout: Rollout, tell: Callable[[str], None]) -> None:
        self._places, self._rollout, self._tell = places, rollout, tell
        self._numbers = itertools.count()
        self._openings, self._servings = dict[int, _Opening](), dict[int, tuple[Place, Catalogue]]()
        self._counts, self._changes = dict[int, _Count](), list[_Change]()
        self._served = rollout.target  # by all workers that were ready, last
        self._deaths = Counter[tuple[int, Version]]()  # of a worker while it opened a version
        self._counting = dict[int, int]()  # a worker's number of a count -> which count it is for

    def hear(self, place: Place, word: tuple[Any, ...]) -> None:
        """Take a word of a worker: ("done", …) or ("ask", …), as line.py has them."""
        kind, number, *rest = word
        if kind == "ask":
            self._ask(place, number, *rest)
            return
        result, error = rest
        if opening := self._openings.pop(number, None):
            opening.place.opening.discard(opening.version)
            if error is None:
                opening.place.opened.add(opening.version)
            else:
                self._rollout.refuse(opening.version, error_from(error))
        elif serving := self._servings.pop(number, None):
            own, catalogue = serving
            own.opened &= set(catalogue.all)
            if error is None:
                own.serves = self._served = catalogue
            else:
                own.told = None  # it is told again when anything changes
                self._tell(f"worker {own.number} could not serve what it was told: {error_from(error)}")
        elif (count := self._counts.get(self._counting.pop(number, -1))) is not None:
            count.left.pop(number, None)
            place.counted = result or {}

    def count(self, answer: Callable[[Any], None]) -> None:
        """Sum what all workers count, and answer with it."""
        key, ready = next(self._numbers), [place for place in self._places if place.ready]
        count = _Count(answer, {}, time.monotonic() + PATIENCE_S)
        for place in ready:
            number = next(self._numbers)
            count.left[number] = place
            self._counting[number] = key
            place.tell("count", number)
        self._counts[key] = count

    def advance(self) -> None:
        """Tell workers what to open and what to serve, and answer what is settled; called whenever anything changed."""
        target, ready = self._rollout.target, [place for place in self._places if place.ready]
        for place in ready:
            for version in target.all:
                if version not in place.opened and version not in place.opening:
                    number = next(self._numbers)
                    self._openings[number] = _Opening(place, version)
                    place.opening.add(version)
                    place.tell("open", number, version)
        if ready and all(set(target.all) <= place.opened for place in ready):
            for place in ready:
                if place.told != target:
                    number = next(self._numbers)
                    self._servings[number] = (place, target)
                    place.told = target
                    place.tell("serve", number, target)
        self._forget_the_dead()
        self._settle(target, ready)

    def _settle(self, target: Catalogue, ready: Sequence[Place]) -> None:
        if ready and all(place.serves == target for place in ready):
            for change in [each for each in self._changes if self._rollout.has_looked(each.look)]:
                self._changes.remove(change)
                served = change.name in target.names
                error = None
                if change.load and not served:
                    error = NotFound(
                        "a model that is loaded has a version that can be served",
                        found=self._rollout.reason(change.name),
                        where=f"model {change.name[:64]!r}",
                        remedy="Export it into the repository",
                    )
                change.answer(None, error)
        for key, count in list(self._counts.items()):
            if not count.left or time.monotonic() > count.due:
                del self._counts[key]
                count.answer(self._total())

    def _forget_the_dead(self) -> None:
        """What was asked of workers that have died since is not waited for."""
        alive = {id(place) for place in self._places if place.process is not None}
        for number, opening in list(self._openings.items()):
            if id(opening.place) not in alive or opening.version not in opening.place.opening:
                del self._openings[number]
                self._blame(opening)
        for number, (place, catalogue) in list(self._servings.items()):
            if id(place) not in alive or place.told != catalogue:
                del self._servings[number]
        for count in self._counts.values():
            count.left = {number: place for number, place in count.left.items() if id(place) in alive}

    def _blame(self, opening: _Opening) -> None:
        """Note that a worker died while it opened a version; refuse one that does so to it again and again."""
        key = (opening.place.number, opening.version)
        self._deaths[key] += 1
        if self._deaths[key] == FATAL:
            del self._deaths[key]
            error = Unavailable(
                "a worker lives through opening a version",
                found=f"{FATAL} deaths of worker {opening.place.number}, the last by {opening.place.reason}",
                where=str(opening.version),
                remedy="See whether there is memory for one more version; a load of the model tries again",
            )
            self._rollout.refuse(opening.version, error)

    def _total(self) -> dict[str, Any]:
        """What the workers counted that live, and those before them, of what is served."""
        served = [(version.name, version.number) for version in self.serving.all]
        total = dict[str, Any]()
        for place in self._places:
            place.past = only(place.past, served)
            total = add(add(total, place.past), place.counted)
        return total

    def _ask(self, place: Place, number: int, kind: str, *arguments: Any) -> None:
        def answer(result: Any, error: QuoremError | None = None) -> None:
            place.tell("answer", number, result, error.as_dict() if error else None)

        if kind == "index":
            answer(self._rollout.index(self.serving))
        elif kind == "count":
            self.count(answer)
        elif kind in ("load", "unload"):
            (name,) = arguments
            if kind == "unload" and name not in self.serving.names:
                answer(None, NotFound("a model that is unloaded is served", found=f"{name[:64]!r}", where="model"))
                return
            look = self._rollout.ask(**{kind: name})
            self._changes.append(_Change(answer, name, kind == "load", look))
        else:
            answer(None, Unavailable("a worker asks for what there is", found=kind))

    @property
    def serving(self) -> Catalogue:
        """What all ready workers serve, or served last; what a new one begins with, for it is known to open."""
        last = self._served if self._rollout.holds(self._served) else self._rollout.target
        return next((place.serves for place in self._places if place.ready and place.serves), last)
