"""Settings: what a server is told to do, checked once and never changed."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .catalogue import Catalogue
    from .policy import Policy
    from .security import Security
    from .transport import Transport

Device = Literal["cpu", "cuda"]
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    max_rows: candidates of a Score, rows of a ModelInfer.
    max_slots: rows x slots of the model's `ids`: what bounds the memory of a request whose bags are long.
    max_request_bytes: one message on the wire; gRPC itself refuses a longer one.
    max_rows_in_flight: that a worker computes or keeps waiting at once; what comes beyond them is refused.
    max_streams: streaming calls that a worker has open at once; each holds a thread.
    batch_rows: calls are computed together up to so many rows; 0: each by itself.
    batch_s: the longest that a batch gathers calls that have arrived, seconds.
    max_connection_age_s: of a connection, give or take a tenth, before its caller is asked to open another; 0: any.
    """

    max_rows: int = 4096
    max_slots: int = 1 << 20
    max_request_bytes: int = 16 * MEBIBYTE
    max_rows_in_flight: int = 8192
    max_streams: int = 64
    batch_rows: int = 0
    batch_s: float = 0.0
    max_connection_age_s: float = 0.0


@dataclass(frozen=True)
class Version:
    """One version of one model, in its directory.

    edition: a word that tells its files from others that were there before; empty where nobody has looked.
    """

    name: str
    number: int
    directory: Path
    edition: str = ""

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"


@dataclass(frozen=True)
class Settings:
    """A server: what it serves at first and later, on which port, by how many processes, within which limits.

    root, policy: the repository, and which of its versions are served.
    watch_s: seconds between looks at it; 0: none.
    cores: one for each worker to be pinned to, in turn; none where pinning would do harm.
    grace_s: how long calls in flight may take to finish when the server is told to stop.
    security: what callers need.
    transport: what carries their calls.
    access_log, access_log_sample: a file that gets a line a call, of those that end well one in so many; None: none.
    """

    catalogue: "Catalogue"
    root: Path
    policy: "Policy"
    watch_s: float
    host: str
    port: int
    workers: int
    cores: tuple[int, ...]
    limits: Limits
    grace_s: float
    device: Device
    security: "Security"
    transport: "Transport"
    access_log: Path | None
    access_log_sample: int
