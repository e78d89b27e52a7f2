"""The pool: what runs the tasks of an encoding; here processes, each of which loads no more than it needs."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, Protocol

from ...protos import errors
from ...protos.errors import QuoremError


class Pool(Protocol):
    """Runs functions of modules, so many tasks at a time as it has `jobs`."""

    jobs: int

    def run(self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """The results of a function for each task's arguments as they come, each with the number of its task.

        Raises:
            QuoremError: the first that a task raises; tasks that have not begun do not begin.
        """
        ...


class Processes:
    """A `Pool` of processes; with one job, of this one."""

    def __init__(self, jobs: int, executor: ProcessPoolExecutor | None) -> None:
        self.jobs, self._executor = jobs, executor

    def run(self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """As `Pool` has it."""
        if self._executor is None or len(tasks) < 2:
            for number, task in enumerate(tasks):
                yield number, function(*task)
            return
        waiting: dict[Future[Any], int] = {
            self._executor.submit(call, function, task): number for number, task in enumerate(tasks)
        }
        try:
            for future in as_completed(waiting):
                result = accepted(future.result())
                yield waiting.pop(future), result
        except BrokenProcessPool:
            raise QuoremError(
                "a process of the encoder ends when its work is done",
                found="one that was ended from outside, perhaps for the memory it took",
                where="quorem encode",
                remedy="Say the same again with fewer --jobs or less --memory: what is done is kept",
            ) from None
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def processes(jobs: int | None) -> Iterator[Processes]:
    """Processes to run tasks in, until the end; None for as many as there are processors."""
    jobs = jobs or _processors()
    if jobs == 1:
        yield Processes(jobs, None)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin) as executor:
        try:
            yield Processes(jobs, executor)
        except BaseException:
            executor.shutdown(wait=True, cancel_futures=True)
            raise


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all: the parent lets the tasks under way finish
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed tells nobody: its children would wait for tasks for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class _Refused:
    """An error on its way from another process."""

    told: dict[str, str]


def call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Run a task in another process: what it returns, or refuses, is for `accepted` in the one that asked."""
    try:
        return function(*arguments)
    except QuoremError as error:
        return _Refused(error.as_dict())


def accepted(result: Any) -> Any:
    """The result of a task that `call` ran.

    Raises:
        QuoremError: what the task raised.
    """
    if isinstance(result, _Refused):
        told = dict(result.told)
        raise getattr(errors, told.pop("error"))(told.pop("rule"), **told)
    return result
