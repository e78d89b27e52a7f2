"""The amount of a budget: bytes, with a unit or without, or how many times fewer than the full tables take."""

import re
from dataclasses import dataclass
from fractions import Fraction

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
FORM = re.compile(r"(?P<number>\d+(\.\d+)?) ?(?P<unit>[A-Za-z]*)")
RULE = 'a budget is bytes, as "20KB", "5MB" or "1.5GiB", or a factor, as "10x": so many times fewer than full tables'


@dataclass(frozen=True)
class Amount:
    """What was asked for: `bytes`, or a `factor` of at least one."""

    bytes: int | None
    factor: Fraction | None

    def of(self, full: int) -> int:
        """The budget in bytes where full tables of float32 take `full` of them."""
        return int(full / self.factor) if self.factor else self.bytes or 0


def parse(text: str) -> Amount:
    """Read an amount.

    Raises:
        ValueError: none; it says what one looks like.
    """
    found = FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{RULE}; found {text!r}")
    number, unit = Fraction(found["number"]), found["unit"].upper()
    if unit == "X" and number >= 1:
        return Amount(None, number)
    if unit not in UNITS or number * UNITS[unit] < 1:
        raise ValueError(f"{RULE}; found {text!r}")
    return Amount(int(number * UNITS[unit]), None)
