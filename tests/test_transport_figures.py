"""The transports' benchmark: what it makes of h2load's log and words, and how it judges, on figures that are known."""

import sys
from pathlib import Path

import pytest
from quorem.serve.bench import h2load

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # `benchmarks` is no part of the package
from benchmarks.serving import transport  # noqa: E402  # found there
from benchmarks.serving.one_core import Looped  # noqa: E402  # found there

sys.path.remove(str(ROOT))

SAID = "requests: 40 total, 40 started, 40 done, {} succeeded, 0 failed, 0 errored, 0 timeout\n"
SAID += "traffic: 9KB (9000) total, 200B (200) headers (space savings 9%), 1KB ({}) data\n"


@pytest.mark.parametrize(
    ("said", "replies", "missing"),
    [
        (SAID.format(40, 4000), 40, 0.0),
        (SAID.format(40, 3000), 40, 0.25),
        (SAID.format(0, 0), 0, 0.0),
        ("no such address", 0, 0.0),
    ],
)
def test_replies_are_counted_by_their_bytes(said: str, replies: int, missing: float):
    assert h2load.heard(said, 100) == (replies, pytest.approx(missing))


def lines(faster: float, share: float, beyond_us: float) -> list[transport.Line]:
    """Three rounds in which grpcio has 1,000 calls a second, and the process itself 5,000 at 100 us."""
    found = list[transport.Line]()
    for cell, in_flights in transport.CELLS:
        here = [Looped(5000 + each, 200, 100, 150) for each in range(3)]
        found.append(transport.Line(cell, 1, transport.HERE, here))
        for in_flight in in_flights:
            rate = faster * 1000 if cell.rows == 1 else share * 5000
            ours = [transport.Measured(rate + each, 100 + beyond_us, 300, 200 / share, 0.2) for each in range(3)]
            theirs = [transport.Measured(1000 + each / 10, 900, 1500, 800, 0.2) for each in range(3)]
            found.append(transport.Line(cell, in_flight, transport.GRPCIO, theirs))
            found.append(transport.Line(cell, in_flight, transport.NGHTTP2, ours))
    return found


def test_targets_are_judged_by_medians_of_rounds():
    good = list(transport.judge(lines(7, 0.95, 60)))
    assert [each.holds for each in good] == [True] * 6
    assert good[0].found.median == pytest.approx(7, rel=0.01)
    assert good[-1].found.median == 60
    assert [each.holds for each in transport.judge(lines(5, 0.85, 90))] == [True, *[False] * 5]
    assert "MISSED" in str(next(iter(transport.judge(lines(3, 1, 1)))))


def test_the_table_has_a_line_for_each():
    made = lines(7, 0.95, 60)
    told = list(transport.table(made))
    assert len(told) == 2 + len(made)
    assert len({line.count("|") for line in told}) == 1
    assert "| infer 1 | 8 | nghttp2 | 7001 [7000 7002] | 160 | 300 | 211 | 1.40 | 7.00 |" in told


def test_another_server_is_named_with_its_processes():
    assert transport._other("triton=127.0.0.1:8001@12,13") == ("triton", "127.0.0.1:8001", [12, 13])
    assert transport._other("triton=127.0.0.1:8001") == ("triton", "127.0.0.1:8001", [])
