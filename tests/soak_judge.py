"""Soak judge: whether what callers heard is what a server may say while versions change and workers are killed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from soak_load import Failed, Heard, Seen

LAG_S = 10.0  # from the moment when the server says that it serves a version, until no worker serves the one before
NOTICE_S = 0.5  # until a caller's library knows that a connection has ended, on a machine that is busy
UNAVAILABLE = "UNAVAILABLE"


@dataclass
class Stay:
    """A version that was the latest, or a label's, from some time between `asked` and `served` until `left`."""

    version: int
    asked: float
    served: float
    left: float = float("inf")


@dataclass(frozen=True)
class Kill:
    """A worker's end: from before the signal until the process was seen to be gone."""

    sent: float
    gone: float

    def covers(self, begun: float, ended: float) -> bool:
        """Whether it may have ended a call, or the connection between two replies."""
        return begun <= self.gone + NOTICE_S and self.sent <= ended


@dataclass
class Events:
    """What was done to the server. latest, label: the stays in their order."""

    latest: list[Stay] = field(default_factory=list)
    label: list[Stay] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)

    def judge(self, heard: Heard, callers: int) -> Iterator[str]:
        """Everything that was not as it must be, in words."""
        if heard.wrong_count:
            yield f"{heard.wrong_count} wrong replies: {heard.wrong[0]}"
        for failure in heard.failed:
            if failure.status != UNAVAILABLE:
                yield f"a call failed with {failure.status}: {failure.details}"
            elif not any(kill.covers(failure.begun, failure.ended) for kill in self.kills):
                yield f"a call failed though no worker was killed: {failure.details}"
        if len(heard.failed) > callers * len(self.kills):
            yield f"{len(heard.failed)} calls failed, more than were in flight at {len(self.kills)} kills"
        if served := sorted(heard.right.keys() & self.bad.keys()):
            yield f"bad versions were served: {served}"
        if silent := [stay.version for stay in self.latest if not heard.right[stay.version]]:
            yield f"versions that were served and never answered: {silent}"
        for stays, trails in ((self.latest, heard.trails), (self.label, heard.labelled)):
            for trail in trails:
                yield from self._follow(trail, stays)

    def _follow(self, trail: Sequence[Seen], stays: Sequence[Stay]) -> Iterator[str]:
        """A connection sees the versions in the order in which they were served, from a moment when they were."""
        at, before = 0, None
        for seen in trail:
            able = [
                place
                for place, stay in enumerate(stays)
                if stay.version == seen.version and stay.asked <= seen.first and seen.begun <= stay.left + LAG_S
            ]
            later = [place for place in able if place >= at]
            if later:
                at = later[0]
            elif not able:
                yield f"version {seen.version} was named when it was not served"
            elif before and any(kill.covers(before.begun, seen.first) for kill in self.kills):
                at = able[0]  # another connection, to another worker
            else:
                yield f"a connection saw version {seen.version} after {before.version if before else 'none'}"
            before = seen


def kills_hit(failed: Sequence[Failed], kills: Sequence[Kill]) -> list[int]:
    """How many calls each kill has cost."""
    return [sum(kill.covers(each.begun, each.ended) for each in failed) for kill in kills]
