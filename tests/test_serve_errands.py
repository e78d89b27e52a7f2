"""Laws of errands: what the supervisor asks of workers that die of it."""

import multiprocessing
import shutil
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from quorem.serve.catalogue import Catalogue
from quorem.serve.errands import FATAL, Errands
from quorem.serve.place import Place
from quorem.serve.policy import Policy
from quorem.serve.rollout import Rollout
from quorem.serve.settings import Version
from quorem.serve.survey import survey
from quorem.serve.verified import Verified
from served import Rows


class Server:
    """A supervisor's places, filled with processes that do nothing, and its end of what they are told."""

    def __init__(self, models: Path, workers: int) -> None:
        self.good, self.new = (Version("ctr", number, models / "ctr" / "1") for number in (1, 2))
        self.verified = Verified()
        for version in (self.good, self.new):
            assert self.verified.verify(version) is None
        self.first = Catalogue({"ctr": (self.good,)})
        nothing = [lambda: None, lambda _line: None]
        self.rollout = Rollout(models, Policy(), self.first, self.verified, 0, *nothing)
        self.places = [Place(number) for number in range(workers)]
        self.errands = Errands(self.places, self.rollout, nothing[1])
        self._theirs = dict[int, Connection]()

    def start(self, place: Place) -> None:
        """As `Place.start` does, and a worker that says that it is ready."""
        context = multiprocessing.get_context("spawn")
        place.pipe, self._theirs[place.number] = context.Pipe()
        place.process = context.Process(target=time.sleep, args=(60,), daemon=True)
        place.process.start()
        serving = self.errands.serving
        place.ready, place.opened, place.opening = True, set(serving.all), set()
        place.serves = place.told = serving

    def told(self, place: Place) -> list[tuple[object, ...]]:
        theirs, words = self._theirs[place.number], list[tuple[object, ...]]()
        while theirs.poll():
            words.append(theirs.recv())
        return words

    def die(self, place: Place) -> None:
        assert place.process
        place.kill()
        place.bury()
        self.errands.advance()


@pytest.fixture
def models(served_root: Path, golden: Rows) -> Path:
    return served_root / "models"


def test_a_version_that_its_worker_dies_of_again_and_again_is_refused_and_the_old_one_stays(models: Path):
    server = Server(models, 1)
    (place,) = server.places
    for _ in range(FATAL):
        assert not server.verified.is_bad(server.new)
        server.start(place)
        assert place.serves == server.first, "a new worker begins with what is known to open"
        server.rollout.target = Catalogue({"ctr": (server.new,)})
        server.errands.advance()
        ((kind, _, version),) = server.told(place)
        assert (kind, version) == ("open", server.new)
        server.die(place)
        assert server.errands.serving == server.first
    assert "3 deaths of worker 0, the last by signal 9" in server.verified.reason(server.new)


def test_workers_that_are_killed_at_once_are_no_reason_to_refuse_what_they_opened(models: Path):
    server = Server(models, FATAL + 1)
    for place in server.places:
        server.start(place)
    server.rollout.target = Catalogue({"ctr": (server.new,)})
    server.errands.advance()
    for place in server.places:
        server.die(place)
    assert server.verified.is_good(server.new)


def test_where_what_was_served_is_gone_a_new_worker_begins_with_the_target(models: Path, tmp_path: Path):
    shutil.copytree(models, tmp_path / "models")
    server = Server(tmp_path / "models", 1)
    (place,) = server.places
    server.start(place)
    server.rollout.target = Catalogue()
    server.die(place)
    assert server.errands.serving == server.first
    shutil.rmtree(tmp_path / "models")
    server.verified.prune()
    assert server.errands.serving == Catalogue()


def test_the_index_says_of_every_version_that_is_there_why_it_is_not_ready(models: Path, tmp_path: Path):
    for number in (1, 2, 3):
        shutil.copytree(models / "ctr" / "1", tmp_path / "ctr" / str(number))
    (tmp_path / "ctr" / "3" / "tables.bin").write_bytes(b"")
    found = survey(tmp_path)
    rollout = Rollout(tmp_path, Policy(), found.catalogue, found.verified, 0, lambda: None, lambda _line: None)
    states = [(each.number, each.state, each.reason) for each in rollout.index(found.catalogue)]
    assert states[:2] == [(1, "UNAVAILABLE", "not chosen by the policy latest:1"), (2, "READY", "")]
    assert states[2][:2] == (3, "UNAVAILABLE")
    assert "tables.bin" in states[2][2]
