"""Floods, a little of each: health is told all the while, the worker lives and says nothing, and its memory stays."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flood import memory, settled, watch
from floods import FLOODS
from served import Rows, Served, serving

OVER = ("nghttp2",)  # calls without a message hold grpcio's threads up, its health too
UNITS, SECONDS = 600, 10.0  # what a loaded machine needs to answer; `python tests/flood.py --full` judges 100 ms
MOST_GROWTH = 8 << 20
PATIENCE_S = 60.0  # twice the time after which a server looks for garbage


@pytest.fixture(scope="module")
def alone(served_root: Path, golden: Rows, transport: str) -> Iterator[Served]:
    """A server of one worker: health is asked of whom a flood meets."""
    log = served_root / f"flood-log-{transport}"
    with serving(served_root / "models", log, "--workers", "1", "--transport", transport) as server:
        yield server


@pytest.mark.parametrize("name", FLOODS)
def test_health_is_told_during_a_flood(alone: Served, name: str):
    flood = threading.Thread(target=FLOODS[name], args=(alone.address, UNITS))
    flood.start()
    try:
        watched = watch(alone, flood.is_alive)
    finally:
        flood.join()
    assert watched.failures == []
    assert max(watched.took) < SECONDS
    assert alone.workers() == sorted(alone.worker_pids)
    assert alone.log.read_text() == ""


def test_memory_comes_back_after_floods(alone: Served):
    """The same floods again: what the first ones left behind is all that stays."""
    before = memory(alone)
    for flood in FLOODS.values():
        flood(alone.address, UNITS)
    assert settled(alone, before, PATIENCE_S) < before + MOST_GROWTH
