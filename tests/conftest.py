"""What every test shares: hypothesis draws the same examples in every run, and a slow machine fails none."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from fake_server import Fake
    from quorem.serve.bench.drive import Drivers
    from served import Rows, Served
    from transports import Begin

# Before torch is imported, and for every child: tests share the cores, and threads that spin for one another take them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts background jobs with SIGINT ignored, and children inherit that: tests that press Ctrl-C need it back.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("quorem", derandomize=True, deadline=None, database=None)
settings.load_profile("quorem")


LONGEST = (  # begun first: processes share the files, and none shall be left alone with one of these at the end
    "test_house_readme.py",
    "test_compare_search_run.py",
    "test_partition_road.py",
    "test_compare_run.py",
    "test_ranks.py",
    "test_demo.py",
    "test_ranks_lost.py",
    "test_resume.py",
    "test_house_wheel.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the longest files first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def served_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that holds the model repository `models` of the serving tests."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="session")
def golden(served_root: Path) -> "Rows":
    """The golden rows of the model in that repository."""
    from served import make_repository

    return make_repository(served_root)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of a module that says `OVER` speak over each of those transports."""
    if "transport" in metafunc.fixturenames and (over := getattr(metafunc.module, "OVER", ())):
        metafunc.parametrize("transport", over, indirect=True, scope="module")


@pytest.fixture(scope="module")
def transport(request: pytest.FixtureRequest) -> str:
    """What servers speak by: their own choice, unless the module wants each."""
    from served import without

    name: str = getattr(request, "param", "auto")
    if why := without(name):
        pytest.skip(why)
    return name


@pytest.fixture
def up(transport: str) -> "Begin":
    """Begins a server in this process, with methods of a test's own and what else `transports.serve` takes."""
    from transports import serve

    return partial(serve, transport)


@pytest.fixture(scope="session")
def servers(served_root: Path, golden: "Rows") -> "Iterator[Callable[[str], Served]]":
    """A server on that repository over each transport, begun when it is asked for."""
    from served import serving

    with ExitStack() as stack:

        @cache
        def over(transport: str) -> "Served":
            options = ("--workers", "2", "--max-rows", "128", "--transport", transport)
            return stack.enter_context(serving(served_root / "models", served_root / f"log-{transport}", *options))

        yield lambda transport: over("auto") if transport == "nghttp2" else over(transport)  # which is its choice, too


@pytest.fixture(scope="module")
def server(servers: "Callable[[str], Served]", transport: str) -> "Served":
    """The one that is shared by all tests that leave it as it is."""
    running = servers(transport)
    assert transport in ("auto", running.facts["transport"])
    return running


@pytest.fixture(scope="module")
def drivers() -> "Iterator[Drivers]":
    """Two client processes of a bench."""
    from quorem.serve.bench.drive import Drivers

    with Drivers(2) as running:
        yield running


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Fake]":
    """A server that answers every call after the time that the call names."""
    from fake_server import faking

    with faking(tmp_path_factory.mktemp("plain") / "log") as server:
        yield server
