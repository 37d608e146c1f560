"""What the user has to change, as one line. Apart from `types`, so that what runs without JAX can raise it."""

from __future__ import annotations

from typing import Any


class BadInput(ValueError):
    """Input that the user has to change; the command line exits 2 on it.

    Args:
      option: full dotted name of the option or the file at fault.
      found: what was there.
      needed: what would be accepted.
    """

    def __init__(self, option: str, found: Any, needed: str):
        self.option, self.found, self.needed = option, found, needed
        super().__init__(f"{option}: found {found!r}, needed {needed}")

    def under(self, prefix: str) -> BadInput:
        """The same complaint with `prefix.` before the option's name."""
        return BadInput(f"{prefix}.{self.option}" if self.option else prefix, self.found, self.needed)
