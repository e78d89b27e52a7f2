"""Rollout: what of a repository is to be served: looked for, verified once, opened by every worker, then served by all.

A thread looks and verifies; the supervisor tells the workers. A version that fails any check is told and passed over,
and what was served before it stays.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Condition, Thread

from ..protos.errors import QuoremError
from .catalogue import Catalogue, resolve
from .control import State
from .look import look
from .policy import Policy
from .settings import Version
from .verified import Verified


class Rollout:
    """The target of a server, kept true to a directory."""

    def __init__(
        self,
        root: Path,
        policy: Policy,
        first: Catalogue,
        verified: Verified,
        watch_s: float,
        changed: Callable[[], None],
        tell: Callable[[str], None],
    ) -> None:
        """Begin with what was surveyed; `watch` starts the thread.

        Args:
            root: the repository.
            policy: which versions of a model are served.
            first: what is served at first.
            verified: what is known of the versions already.
            watch_s: seconds between looks; 0: only when a control call asks for one.
            changed: called from the thread when there is a new target.
            tell: a line for the operator.
        """
        self._root, self._policy, self._watch_s = root, policy, watch_s
        self._changed, self._tell = changed, tell
        self._verified, self._unloaded = verified, frozenset[str]()
        self._guard, self._asked, self._looks = Condition(), 0, 0
        self._told = set[str]()
        self._held = look(root, policy).versions  # when last looked
        self.target = first

    def watch(self) -> None:
        """Look every `watch_s`, and when asked to, until the process ends."""
        Thread(target=self._watch, name="watch", daemon=True).start()

    def ask(self, *, load: str | None = None, unload: str | None = None) -> int:
        """Ask for a look, with a model taken up again or left out; the number of the look that answers it."""
        if load is not None:
            self._verified.forget(load)
        with self._guard:
            added = {unload} if unload is not None else set[str]()
            self._unloaded = (self._unloaded | added) - {load}
            self._asked = self._looks + 1
            self._guard.notify()
            return self._asked

    def has_looked(self, number: int) -> bool:
        """Whether the look of that number is over."""
        return self._looks >= number

    def refuse(self, version: Version, error: QuoremError) -> None:
        """A worker could not open a version: it is bad until its manifest changes."""
        self._verified.refuse(version, error)
        self.ask()

    def holds(self, catalogue: Catalogue) -> bool:
        """Whether every version of a catalogue is there and good, as far as the last look knows."""
        return all(self._verified.is_good(version) for version in catalogue.all)

    def index(self, serving: Catalogue) -> list[State]:
        """Every version that the repository holds, with what became of it."""
        states = dict[tuple[str, int], State]()
        for version in (*self._held, *self._verified.known()):
            reason = self._verified.reason(version) or f"not chosen by the policy {self._policy}"
            if version.name in self._unloaded:
                reason = "unloaded"
            states[version.name, version.number] = State(version.name, version.number, "UNAVAILABLE", reason)
        for version in self.target.all:
            states[version.name, version.number] = State(version.name, version.number, "LOADING")
        for version in serving.all:
            states[version.name, version.number] = State(version.name, version.number, "READY")
        return [states[key] for key in sorted(states)]

    def reason(self, name: str) -> str:
        """Why a model is not served, in a few words."""
        reasons = [self._verified.reason(each) for each in self._verified.known() if each.name == name]
        return "; ".join(filter(None, reasons)) or "no version of it"

    def _watch(self) -> None:
        while True:
            with self._guard:
                if self._asked <= self._looks:
                    self._guard.wait(self._watch_s or None)
                number = max(self._asked, self._looks + 1)
            try:
                self._look()
            except OSError as error:  # a repository on a disk that comes and goes
                self._say(f"the repository cannot be read: {error}")
            with self._guard:
                self._looks = number
            self._changed()

    def _look(self) -> None:
        self._verified.prune()
        wanted = look(self._root, self._policy, self._unloaded)
        self._held = wanted.versions
        for where, problem in wanted.problems:
            self._say(f"{where} is passed over: {problem}")
        while unknown := resolve(wanted, self._verified, self.target).unknown:
            for version in unknown:
                self._verified.verify(version)
        for version, error in self._verified.bad():
            self._say(f"{version} is passed over: {error}")
        self.target = resolve(wanted, self._verified, self.target).catalogue

    def _say(self, line: str) -> None:
        """Tell the operator something once."""
        if line not in self._told:
            self._told.add(line)
            self._tell(line)
