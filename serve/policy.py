"""Policy: which versions of a model are served, of those that can be: the latest few, all, or those listed."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..protos.errors import Malformed

LARGEST = 2**63 - 1  # of a version, and of how many there are
NUMBER = "[1-9][0-9]{0,18}"


@dataclass(frozen=True)
class Policy:
    """A choice among the versions of a model; the same for all models.

    latest: how many of the greatest numbers, at least 1; None: all.
    listed: only these; None: any.
    """

    latest: int | None = 1
    listed: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> "Policy":
        """A policy from `latest:N`, `all`, or a list such as `1,3`.

        Raises:
            Malformed: none of these.
        """
        if text == "all":
            return cls(latest=None)
        if re.fullmatch(f"latest:{NUMBER}", text) and (count := int(text[len("latest:") :])) <= LARGEST:
            return cls(latest=count)
        if re.fullmatch(f"{NUMBER}(,{NUMBER})*", text):
            numbers = [int(part) for part in text.split(",")]
            if max(numbers) <= LARGEST and len(set(numbers)) == len(numbers):
                return cls(latest=None, listed=tuple(sorted(numbers)))
        raise Malformed(
            "a policy is latest:N, all, or different numbers of versions from 1 on with commas between them",
            found=repr(text[:64]),
            where="--versions",
            remedy="Say latest:1, latest:2, all, or 1,3",
        )

    def choose(self, numbers: Iterable[int]) -> list[int]:
        """Those of the versions that are served, rising."""
        allowed = sorted(number for number in set(numbers) if self.listed is None or number in self.listed)
        return allowed if self.latest is None else allowed[-self.latest :]

    def __str__(self) -> str:
        if self.listed is not None:
            return ",".join(map(str, self.listed))
        return "all" if self.latest is None else f"latest:{self.latest}"
