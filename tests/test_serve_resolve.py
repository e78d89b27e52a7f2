"""Laws of resolving: what may be served of what is there, and that nothing good is lost to something bad."""

from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from quorem.protos.errors import ParityError, QuoremError
from quorem.serve.catalogue import NOTHING, Catalogue, Resolved, resolve
from quorem.serve.look import Wanted
from quorem.serve.policy import Policy
from quorem.serve.settings import Version
from quorem.serve.verified import Verified

BAD = ParityError("a version gives the scores of its export", found="others")


@dataclass(frozen=True)
class World:
    """What a look finds, and which versions would be good if they were verified."""

    wanted: Wanted
    good: frozenset[Version]
    tried: frozenset[Version]

    @property
    def verified(self) -> Verified:
        """The verdicts on what has been tried."""
        return verdicts({version: None if version in self.good else BAD for version in self.tried})


def verdicts(given: dict[Version, QuoremError | None]) -> Verified:
    """Verdicts as they would be remembered."""
    verified = Verified()
    for version, error in given.items():
        verified._remember(version, error)
    return verified


def settle(world: World, served: Catalogue) -> tuple[Resolved, Verified]:
    """Verify until nothing is unknown, as the supervisor does."""
    verified = world.verified
    for _ in range(100):
        resolved = resolve(world.wanted, verified, served)
        if not resolved.unknown:
            return resolved, verified
        for version in resolved.unknown:
            assert not verified.is_good(version)
            assert not verified.is_bad(version)
            verified._remember(version, None if version in world.good else BAD)
    raise AssertionError("there is always something unknown")


policies = st.builds(lambda latest: Policy(latest), st.sampled_from([1, 2, 3, None])) | st.builds(
    lambda listed: Policy(None, tuple(sorted(listed))), st.sets(st.integers(1, 5), min_size=1)
)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    present, given = dict[str, tuple[Version, ...]](), dict[str, dict[str, int] | None]()
    for name in draw(st.sets(st.sampled_from("ab"))):
        present[name] = tuple(
            Version(name, number, Path(name) / str(number), draw(st.sampled_from(["old", "new", ""])))
            for number in sorted(draw(st.sets(st.integers(1, 5), max_size=5)))
        )
        given[name] = draw(st.none() | st.dictionaries(st.sampled_from("xyz"), st.integers(1, 5), max_size=2))
    unread = frozenset(draw(st.sets(st.sampled_from("ab")))) - present.keys()
    every = [version for versions in present.values() for version in versions if version.edition]
    some = st.sets(st.sampled_from(every)) if every else st.just(set[Version]())
    return World(Wanted(present, given, draw(policies), unread, ()), frozenset(draw(some)), frozenset(draw(some)))


@st.composite
def histories(draw: st.DrawFn) -> tuple[World, Catalogue]:
    """A world, and what was served in those before it."""
    served = NOTHING
    for before in draw(st.lists(worlds(), max_size=2)):
        served = settle(before, served)[0].catalogue
    return draw(worlds()), served


def allowed(world: World, name: str) -> set[int]:
    numbers = [version.number for version in world.wanted.present[name]]
    return {number for number in numbers if world.wanted.policy.choose([number])}


@given(histories())
def test_only_what_is_good_or_was_served_is_served(history: tuple[World, Catalogue]) -> None:
    world, served = history
    catalogue = resolve(world.wanted, world.verified, served).catalogue
    for version in catalogue.all:
        assert version in world.good & world.tried or version in served.all
        assert version not in world.tried - world.good
    assert all(
        list(versions) == sorted(versions, key=lambda each: each.number) for versions in catalogue.versions.values()
    )
    assert all(catalogue.versions.values()), "a model that is served has a version"


@given(histories())
def test_labels_name_versions_that_are_served(history: tuple[World, Catalogue]) -> None:
    world, served = history
    catalogue = resolve(world.wanted, world.verified, served).catalogue
    for name, kept in catalogue.labels.items():
        assert kept
        assert set(kept.values()) <= {version.number for version in catalogue.versions[name]}
        asked = world.wanted.labels.get(name)
        if asked is not None:
            assert kept.keys() <= asked.keys()
        else:
            assert kept.items() <= served.labels[name].items()


@given(histories())
def test_resolving_again_changes_nothing(history: tuple[World, Catalogue]) -> None:
    world, served = history
    once = resolve(world.wanted, world.verified, served)
    assert resolve(world.wanted, world.verified, once.catalogue) == once


@given(histories())
def test_a_model_that_had_a_good_version_keeps_one(history: tuple[World, Catalogue]) -> None:
    """Unless its directory holds none any more, or the policy forbids it."""
    world, served = history
    resolved, verified = resolve(world.wanted, world.verified, served), world.verified
    for name, present in world.wanted.present.items():
        before = {version.number: version for version in served.versions.get(name, ())}
        ready = {each.number for each in present if verified.is_good(each)} | {
            each.number
            for each in present
            if not verified.is_bad(each) and each.number in before and not verified.is_bad(before[each.number])
        }
        if ready & allowed(world, name):
            assert name in resolved.catalogue.versions
    for name in world.wanted.unread & served.versions.keys():
        assert resolved.catalogue.versions[name] == served.versions[name]
    assert set(resolved.catalogue.versions) <= world.wanted.present.keys() | world.wanted.unread


@given(worlds())
def test_what_is_settled_is_the_choice_among_all_good_versions(world: World) -> None:
    """Though only those that matter were verified; labels with bad versions have no older one to stay at."""
    resolved, verified = settle(world, NOTHING)
    for name, present in world.wanted.present.items():
        good = {version.number for version in present if version in world.good}
        named = {label: number for label, number in (world.wanted.labels[name] or {}).items() if number in good}
        expected = {*world.wanted.policy.choose(good), *named.values()}
        assert {version.number for version in resolved.catalogue.versions.get(name, ())} == expected
        assert resolved.catalogue.labels.get(name, {}) == named
    assert all(verified.is_good(version) for version in resolved.catalogue.all)


@given(histories(), st.sampled_from(["", "new"]))
def test_a_bad_newcomer_changes_nothing(history: tuple[World, Catalogue], edition: str) -> None:
    world, served = history
    before, verified = settle(world, served)
    newcomers = {name: Version(name, 9, Path(name) / "9", edition) for name in world.wanted.present}
    more = {name: (*versions, newcomers[name]) for name, versions in world.wanted.present.items()}
    wanted = replace(world.wanted, present=more)
    assert resolve(wanted, verified, before.catalogue).catalogue == before.catalogue, "while it is unknown"
    after, _ = settle(World(wanted, world.good, world.tried), before.catalogue)
    assert after.catalogue == before.catalogue, "and when it is known to be bad"


def version(number: int, edition: str = "first") -> Version:
    return Version("ctr", number, Path("ctr") / str(number), edition)


def seen(*present: Version, labels: dict[str, int] | None = None, policy: Policy | None = None) -> Wanted:
    return Wanted({"ctr": present}, {"ctr": labels or {}}, policy or Policy(), frozenset(), ())


def test_a_label_stays_until_the_version_that_it_moves_to_is_good() -> None:
    verified = verdicts({version(1): None, version(2): None})
    first = resolve(seen(version(1), version(2), labels={"stable": 1}), verified).catalogue
    assert first.all == (version(1), version(2))
    moved = seen(version(1), version(2), version(3), labels={"stable": 3})
    waiting = resolve(moved, verified, first)
    assert waiting == Resolved(first, (version(3),))
    verified.refuse(version(3), BAD)
    assert resolve(moved, verified, first) == Resolved(first, ())
    verified._remember(version(3), None)
    assert resolve(moved, verified, first).catalogue == Catalogue({"ctr": (version(3),)}, {"ctr": {"stable": 3}})


def test_a_version_written_again_is_served_as_it_was_until_it_is_verified() -> None:
    verified = verdicts({version(1): None})
    first = resolve(seen(version(1)), verified).catalogue
    again = version(1, "second")
    assert resolve(seen(again), verified, first) == Resolved(first, (again,))
    verified._remember(again, None)
    assert resolve(seen(again), verified, first).catalogue.all == (again,)
    verified.refuse(again, BAD)
    assert resolve(seen(again), verified, first).catalogue == NOTHING, "its directory holds what it held no more"


def test_a_version_that_no_worker_could_open_is_not_held_while_its_next_edition_is_verified() -> None:
    verified = verdicts({version(1): None, version(2): None})
    first = resolve(seen(version(1), version(2)), verified).catalogue
    verified.refuse(version(2), BAD)
    again = version(2, "second")
    resolved = resolve(seen(version(1), again), verified, first)
    assert resolved == Resolved(Catalogue({"ctr": (version(1),)}), (again,))


def test_the_latest_version_is_verified_first() -> None:
    wanted = seen(version(1), version(2), version(3), version(4), policy=Policy(3))
    assert resolve(wanted, verdicts({})).unknown == (version(4), version(3), version(2))
