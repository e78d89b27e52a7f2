"""Settings: what a server is told to do, checked once and never changed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Device = Literal["cpu", "cuda"]
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    max_rows: candidates of a Score, rows of a ModelInfer.
    max_slots: rows x slots of the model's `ids`: what bounds the memory of a request whose bags are long.
    max_request_bytes: one message on the wire; gRPC itself refuses a longer one.
    """

    max_rows: int = 4096
    max_slots: int = 1 << 20
    max_request_bytes: int = 16 * MEBIBYTE


@dataclass(frozen=True)
class Version:
    """One version of one model, in its directory."""

    name: str
    number: int
    directory: Path

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"


@dataclass(frozen=True)
class Settings:
    """A server: which versions, on which port, by how many processes, within which limits.

    cores: one for each worker to be pinned to, in turn; none where pinning would do harm.
    grace_s: how long calls in flight may take to finish when the server is told to stop.
    """

    versions: tuple[Version, ...]
    host: str
    port: int
    workers: int
    cores: tuple[int, ...]
    limits: Limits
    grace_s: float
    device: Device
