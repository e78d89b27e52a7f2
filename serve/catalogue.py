"""Catalogue: the versions and labels that a server is to serve, from what a repository holds and what was proved."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .look import Wanted
from .settings import Version
from .verified import Verified


@dataclass(frozen=True)
class Catalogue:
    """What is served: two that are equal are the same to every caller.

    versions: of every model that is served, at least one, rising.
    labels: model -> label -> one of its versions; only models that have labels.
    """

    versions: Mapping[str, tuple[Version, ...]] = field(default_factory=dict[str, tuple[Version, ...]])
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])

    @property
    def names(self) -> list[str]:
        """The names of the models."""
        return sorted(self.versions)

    @property
    def all(self) -> tuple[Version, ...]:
        """Every version, by the name of its model, rising."""
        return tuple(version for name in self.names for version in self.versions[name])


@dataclass(frozen=True)
class Resolved:
    """What can be served now, and what is to be verified because it would be served if it is good.

    unknown: by model, latest first.
    """

    catalogue: Catalogue
    unknown: tuple[Version, ...]


NOTHING = Catalogue()


def resolve(wanted: Wanted, verified: Verified, served: Catalogue = NOTHING) -> Resolved:
    """What is to be served of what is wanted.

    The policy chooses among the good versions, so that a bad one gives way to the next older that the policy allows,
    and one that is not verified yet changes nothing. Versions with labels are served beside those. A label whose
    version is not good stays at the version that it named before. What is served stays as it is where its directory
    cannot be read, or holds other files than before whose verdict is not known yet.

    Args:
        wanted: what the last look found.
        verified: what is known to be good or bad; asked only.
        served: what was resolved before.
    """
    versions = {name: served.versions[name] for name in served.versions.keys() & wanted.unread}
    labels = {name: served.labels[name] for name in served.labels.keys() & wanted.unread}
    unknown = list[Version]()
    for name, present in wanted.present.items():
        ready, untried = dict[int, Version](), dict[int, Version]()
        held = {version.number: version for version in served.versions.get(name, ())}
        for version in present:
            before = held.get(version.number)
            if verified.is_good(version):
                ready[version.number] = version
            elif not verified.is_bad(version):
                if before is not None and not verified.is_bad(before):
                    ready[version.number] = before
                if version.edition:
                    untried[version.number] = version
        last = served.labels.get(name, {})
        asked = wanted.labels.get(name, {})
        if asked is None:
            asked = last
        given = {
            label: number if number in ready else last[label]
            for label, number in asked.items()
            if number in ready or last.get(label) in ready
        }
        if numbers := sorted({*wanted.policy.choose(ready), *given.values()}):
            versions[name] = tuple(ready[number] for number in numbers)
        if given:
            labels[name] = given
        targets = {*wanted.policy.choose(ready.keys() | untried.keys()), *asked.values()}
        unknown += [untried[number] for number in sorted(targets & untried.keys(), reverse=True)]
    return Resolved(Catalogue(versions, labels), tuple(unknown))
