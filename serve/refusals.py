"""Refusals: what there is to say against a call whose method is not asked, whichever transport carries it."""

import time

from ..protos.errors import Gone, Overloaded, TooLate, Unavailable
from .call import Call
from .threads import Threads

MOST_WAITING = 512  # calls of a pool; of the smallest scores, about 50 ms
RETRY_S = 0.1  # where no better is known


def gone() -> Gone:
    """Of a call that nobody waits for."""
    return Gone("a call's caller waits for the answer", found="one that has cancelled it, or gone")


def overloaded(rule: str, remedy: str = "Try again") -> Overloaded:
    """An error that says when to try again."""
    error = Overloaded(rule, remedy=remedy)
    error.retry_s = RETRY_S
    return error


def full(pool: Threads) -> Overloaded | None:
    """Why a pool takes no further call, if so."""
    if pool.waiting < MOST_WAITING:
        return None
    return overloaded(f"at most {MOST_WAITING} calls wait for their turn")


def unwanted(call: Call, now: float) -> TooLate | Gone | None:
    """Why a call need not be begun, if so: nobody waits for it any longer."""
    if call.deadline is not None and call.deadline <= now:
        return TooLate("a call is begun before its deadline", remedy="Allow it more time, or send fewer at once")
    return None if call.is_wanted() else gone()


def check(call: Call, *, stopping: bool) -> None:
    """Refuse what nobody can or does wait for, and what comes while the server stops.

    Raises:
        Unavailable, TooLate, Gone.
    """
    if stopping:
        raise Unavailable("this server is stopping", remedy="Call another one, or again in a while")
    if error := unwanted(call, time.monotonic()):
        raise error
