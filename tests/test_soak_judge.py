"""Laws of the soak's judge: what a connection may see, which failures a kill excuses, and that nothing else passes."""

from collections import Counter

import numpy as np
import pytest
from quorem.protos import scoring_pb2 as pb
from soak_judge import LAG_S, NOTICE_S, Events, Kill, Stay, kills_hit
from soak_load import Failed, Heard, Seen
from soak_versions import SCORE, VARIANTS, Asked

CALLERS = 4


def events(*kills: Kill) -> Events:
    """Version 1 until 100, version 2 until 200, version 4 from then on; 3 is bad; the label goes back to 1 at 150."""
    latest = [Stay(1, 0, 0, 101), Stay(2, 100, 101, 201), Stay(4, 200, 201)]
    label = [Stay(1, 0, 0, 121), Stay(2, 120, 121, 151), Stay(1, 150, 151)]
    return Events(latest, label, list(kills), {3: "broken graph"})


def judged(events: Events, heard: Heard) -> list[str]:
    heard.right = heard.right or Counter({1: 9, 2: 9, 4: 9})
    return list(events.judge(heard, CALLERS))


def seen(*versions: tuple[int, float]) -> list[Seen]:
    return [Seen(version, at, at, at) for version, at in versions]


@pytest.mark.parametrize(
    "trail", [[(1, 50)], [(1, 99), (2, 100.5), (4, 300)], [(2, 150), (4, 201)], [(1, 101 + LAG_S)]]
)
def test_versions_that_rise_while_they_are_served_are_well(trail: list[tuple[int, float]]):
    assert judged(events(), Heard(trails=[seen(*trail)])) == []


@pytest.mark.parametrize(
    ("trail", "told"),
    [
        ([(2, 99)], "version 2 was named when it was not served"),
        ([(1, 112)], "version 1 was named when it was not served"),
        ([(3, 150)], "version 3 was named when it was not served"),
        ([(2, 101), (1, 102)], "a connection saw version 1 after 2"),
    ],
)
def test_a_version_out_of_turn_is_told(trail: list[tuple[int, float]], told: str):
    assert judged(events(), Heard(trails=[seen(*trail)])) == [told]


def test_a_connection_may_go_back_where_its_worker_was_killed_in_between():
    trail = seen((2, 101), (1, 103), (2, 104))
    assert judged(events(Kill(102, 102.1)), Heard(trails=[trail])) == []
    assert judged(events(Kill(50, 50.1)), Heard(trails=[trail])) == ["a connection saw version 1 after 2"]


def test_a_label_goes_back_when_it_is_moved_back():
    assert judged(events(), Heard(labelled=[seen((1, 1), (2, 125), (1, 152))])) == []
    assert judged(events(), Heard(trails=[seen((1, 1), (2, 125), (1, 152))])) != []


def test_only_a_kill_excuses_a_failure_and_only_as_unavailable():
    killed = events(Kill(10, 10.1))
    hit, late = Failed("UNAVAILABLE", "", 9, 10.2), Failed("UNAVAILABLE", "", 10.2 + NOTICE_S, 11)
    assert judged(killed, Heard(failed=[hit])) == []
    assert "though no worker was killed" in judged(killed, Heard(failed=[late]))[0]
    assert "failed with INTERNAL" in judged(killed, Heard(failed=[Failed("INTERNAL", "", 9, 10.2)]))[0]
    assert "more than were in flight" in judged(killed, Heard(failed=[hit] * (CALLERS + 1)))[0]
    assert kills_hit([hit, hit, late], killed.kills) == [2]


def test_answers_of_bad_versions_and_silence_of_good_ones_are_told():
    told = judged(events(), Heard(right=Counter({1: 9, 2: 9, 3: 1})))
    assert told == ["bad versions were served: [3]", "versions that were served and never answered: [4]"]
    assert judged(events(), Heard(wrong_count=2, wrong=["off"])) == ["2 wrong replies: off"]


def test_a_reply_is_right_for_the_version_that_it_names_and_for_no_other():
    logits = tuple(np.arange(3) + variant for variant in range(VARIANTS))
    asked = Asked(SCORE, b"", logits, labelled=False)

    def reply(version: int, scores: np.ndarray) -> bytes:
        return pb.ScoreResponse(version=version, scores=scores.astype("<f4").tobytes()).SerializeToString()

    assert asked.answered(reply(6, logits[2])) == (6, "")
    for wrong in (logits[3], logits[2] + 1e-4, logits[2][:2], logits[2] * np.nan):
        version, told = asked.answered(reply(6, wrong))
        assert (version, bool(told)) == (6, True)
