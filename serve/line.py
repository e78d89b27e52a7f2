"""Line: a worker's end of its pipe to the supervisor: it does what it is told, and asks what concerns all workers."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from multiprocessing.connection import Connection
from threading import Lock, Thread
from typing import Any

from ..protos import errors
from ..protos.errors import QuoremError, Unavailable
from .control import State

ANSWER_S = 120.0  # opening a version of many gigabytes in every worker takes a while
Act = Callable[..., Any]  # one of the worker's duties


class Line:
    """Words on the pipe are tuples: (kind, number, …); a reply has the number of what it answers.

    The supervisor tells (duty, number, *arguments), answered by ("done", number, result, error); the worker asks
    ("ask", number, kind, *arguments), answered by ("answer", number, result, error). An error travels as a dict.
    """

    def __init__(self, pipe: Connection, duties: dict[str, Act]) -> None:
        self._pipe, self._duties = pipe, duties
        self._guard, self._numbers = Lock(), itertools.count()
        self._asked = dict[int, Future[Any]]()

    def send(self, word: Any) -> None:
        """Send a word, from any thread; nothing where the supervisor is gone."""
        with self._guard:
            try:
                self._pipe.send(word)
            except (BrokenPipeError, OSError):
                return

    def hear(self) -> bool:
        """Take one word; False where the supervisor has closed its end: the word to stop."""
        try:
            kind, number, *rest = self._pipe.recv()
        except (EOFError, OSError):
            return False
        if kind == "answer":
            result, error = rest
            if future := self._asked.pop(number, None):
                future.set_exception(error_from(error)) if error else future.set_result(result)
        else:  # a duty may take seconds, and words go on coming
            Thread(target=self._do, args=(kind, number, rest), daemon=True).start()
        return True

    def _do(self, duty: str, number: int, arguments: Sequence[Any]) -> None:
        try:
            self.send(("done", number, self._duties[duty](*arguments), None))
        except QuoremError as error:
            self.send(("done", number, None, error.as_dict()))
        except Exception as error:  # whatever it is, the supervisor waits for an answer
            told = Unavailable("a worker does what it is told", found=f"{type(error).__name__}: {error}", where=duty)
            self.send(("done", number, None, told.as_dict()))

    def _ask(self, kind: str, *arguments: Any) -> Any:
        number, future = next(self._numbers), Future[Any]()
        self._asked[number] = future
        self.send(("ask", number, kind, *arguments))
        try:
            return future.result(ANSWER_S)
        except Late:
            raise Unavailable(
                "the supervisor answers its workers", found=f"nothing for {ANSWER_S:g} s", where=kind
            ) from None
        finally:
            self._asked.pop(number, None)

    def index(self) -> Sequence[State]:
        """See `Control`."""
        return self._ask("index")

    def load(self, name: str) -> None:
        """See `Control`."""
        self._ask("load", name)

    def unload(self, name: str) -> None:
        """See `Control`."""
        self._ask("unload", name)

    def snapshot(self) -> dict[str, Any]:
        """See `Control`."""
        return self._ask("count")


def error_from(facts: dict[str, str]) -> QuoremError:
    """An error from its dict."""
    facts = dict(facts)
    return getattr(errors, facts.pop("error"))(**facts)
