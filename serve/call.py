"""Call: what a method may know of the call that it answers, whoever carries its bytes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


def _always() -> bool:
    return True


@dataclass(slots=True)
class Call:
    """One call.

    deadline: of the caller, by `time.monotonic`; None if it waits for ever.
    is_wanted: whether the caller still waits: False once it has cancelled or gone.
    arrived: when the transport had the request, by `time.monotonic`.
    token: the bearer token that came with it; never logged.
    caller: the name of that token, where somebody looked it up.
    model, version, rows: what was scored, filled in by the method once it knows, for statistics and the access log;
        and so the times that it waited for a thread, was encoded and was computed.
    request_bytes, reply_bytes: of its messages, filled in by the transport.
    """

    deadline: float | None = None
    is_wanted: Callable[[], bool] = _always
    arrived: float = field(default_factory=time.monotonic)
    token: str = ""
    caller: str = ""
    model: str = ""
    version: int = 0
    rows: int = 0
    queue_ns: int = 0
    encode_ns: int = 0
    compute_ns: int = 0
    request_bytes: int = 0
    reply_bytes: int = 0

    def begin(self) -> None:
        """Note that a thread has taken the call up."""
        self.queue_ns = int(1e9 * (time.monotonic() - self.arrived))

    @property
    def left_s(self) -> float | None:
        """Seconds until the deadline; None if there is none."""
        return None if self.deadline is None else self.deadline - time.monotonic()


Method = Callable[[bytes, Call], bytes]
Stream = Callable[[Iterator[bytes], Call], Iterator[bytes]]
