"""The first cases of the fuzz: no bundle is half read, none ends a process, and one that did would be told."""

from pathlib import Path

import fuzz

CASES = 200


def test_spoilt_bundles_are_taken_or_refused_by_name(tmp_path: Path):
    counts, failures = fuzz.fuzz(range(CASES), tmp_path / "kept")
    assert failures == []
    assert not (tmp_path / "kept").exists()
    assert counts.total() == CASES
    assert counts["taken taken taken"] > 0, "a card may say what it likes"
    proved = {said.split()[0] for said in counts}
    assert {"Malformed", "WrongDigest", "ParityError", "taken"} <= proved


def test_a_seed_gives_the_same_case_again(tmp_path: Path):
    bundles = fuzz.make_bundles(tmp_path)
    for seed in range(20):
        cases = [fuzz.make_case(seed, bundles, tmp_path / name) for name in ("a", "b")]
        first, second = ({path.name: path.read_bytes() for path in case.iterdir()} for case in cases)
        assert first == second
        assert first not in [{path.name: path.read_bytes() for path in bundle.iterdir()} for bundle in bundles]


def test_a_case_that_ends_the_process_is_told_and_the_next_is_judged(tmp_path: Path):
    with fuzz.judging() as (judge, _):
        judge._process.kill()
        well, told = judge.judge(0)
        assert not well
        assert "-9" in told
        assert judge.judge(0)[0]


def test_a_case_that_breaks_is_told(tmp_path: Path):
    with fuzz.judging() as (judge, place):
        place.write_text("in the way")
        well, told = judge.judge(0)
        assert not well
        assert "Error" in told
