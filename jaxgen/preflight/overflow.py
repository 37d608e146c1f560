"""What the compiler says of a program that does not fit into the memory of a chip."""

from __future__ import annotations

import dataclasses
import re

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)i?B?"
_FORMS = (
    # Before buffers are assigned, and after.
    re.compile(rf"total memory required for .*? \({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
    re.compile(rf"Used {_SIZE} of {_SIZE} hbm", re.IGNORECASE),
)


@dataclasses.dataclass(frozen=True)
class Overflow:
    """A program that does not fit.

    Attributes:
      needed, usable: bytes of HBM per chip. message: the compiler's words.
    """

    needed: float
    usable: float
    message: str

    @property
    def excess(self) -> float:
        return self.needed - self.usable


def read(message: str) -> Overflow | None:
    """The overflow that an error of the compiler tells of; None for any other error."""
    if "RESOURCE_EXHAUSTED" not in message and "hbm" not in message.lower():
        return None
    for form in _FORMS:
        found = form.search(message)
        if found:
            needed, usable = (float(number) * _UNITS[unit] for number, unit in zip(found.groups()[::2], found.groups()[1::2]))
            return Overflow(needed, usable, message.strip())
    return None
