"""What serving decides without a server: the status of every error, and the cores to use."""

import os
from pathlib import Path

import pytest
from quorem.protos import errors
from quorem.protos.errors import QuoremError
from quorem.serve import cores
from quorem.serve.statuses import ERROR_OF, MESSAGE_BYTES, Status, message_of, status_of

EXPECTED = {
    "InputError": Status.INVALID_ARGUMENT,
    "UnknownColumn": Status.INVALID_ARGUMENT,
    "MissingColumn": Status.INVALID_ARGUMENT,
    "WrongType": Status.INVALID_ARGUMENT,
    "WrongLength": Status.INVALID_ARGUMENT,
    "OutOfRange": Status.INVALID_ARGUMENT,
    "TooLarge": Status.INVALID_ARGUMENT,
    "NotFound": Status.NOT_FOUND,
    "WrongSchema": Status.FAILED_PRECONDITION,
    "Unimplemented": Status.UNIMPLEMENTED,
    "Unavailable": Status.UNAVAILABLE,
    "Overloaded": Status.RESOURCE_EXHAUSTED,
    "TooLate": Status.DEADLINE_EXCEEDED,
    "Gone": Status.CANCELLED,
    "Unauthenticated": Status.UNAUTHENTICATED,
    "Forbidden": Status.PERMISSION_DENIED,
}
KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, QuoremError)}


@pytest.mark.parametrize("name", KINDS)
def test_every_error_has_one_status(name: str):
    assert status_of(KINDS[name]("a rule")) == EXPECTED.get(name, Status.INTERNAL)


def test_an_error_that_is_none_of_ours_is_internal():
    assert status_of(ValueError("x")) == Status.INTERNAL


def test_a_status_becomes_the_error_that_it_came_from():
    below = {"UnknownColumn", "MissingColumn", "WrongType", "WrongLength", "OutOfRange", "TooLarge"}
    for name in EXPECTED.keys() - below:
        assert ERROR_OF[EXPECTED[name]] is KINDS[name]


def test_a_message_fits_and_is_cut_between_characters():
    told = message_of(errors.InputError("\u732b" * 1000))
    assert MESSAGE_BYTES - 3 < len(told.encode()) <= MESSAGE_BYTES
    assert set(told) == {"\u732b"}


@pytest.mark.parametrize(
    ("text", "count", "pinned"),
    [("max 100000", 4, 4), ("150000 100000", 2, 0), ("1000 100000", 1, 0), ("900000 100000", 4, 4), (None, 4, 4)],
)
def test_a_quota_below_the_cores_unpins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, count: int, pinned: int
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 6})
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    if text:
        cores.QUOTA.write_text(f"{text}\n")
    assert cores.usable() == (count, (0, 2, 4, 6)[:pinned])
