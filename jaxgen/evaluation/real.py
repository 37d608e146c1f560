"""The real pictures that samples are compared with: the whole test split, and training pictures up to a limit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tqdm

from jaxgen import types

_BLOCK = 256


@dataclasses.dataclass(frozen=True)
class Split:
    """Whole examples of a split, in stored order; broken ones are left out.

    Attributes:
      rows: fields as `types.Examples.rows` gives them, [n, ...] each.
      fingerprint: of the opened source.
      total: number of examples that the split has.
    """

    rows: dict[str, np.ndarray]
    fingerprint: str
    total: int

    @property
    def images(self) -> np.ndarray:
        """uint8 [n, H, W, C]."""
        return self.rows["image"]

    @property
    def labels(self) -> np.ndarray:
        """Classes [n]; all 0 where the source has none."""
        return self.rows.get("label", np.zeros(len(self.images), np.int32))


def read(data: Any, split: str, limit: int | None = None) -> Split:
    """Reads a split, or `limit` of its examples, evenly spaced, with progress.

    Raises:
      BadInput: an unreadable source, or a split without a whole example; option names are full.
    """
    try:
        examples = data.open(split, 0, shuffle=False)
    except types.BadInput as complaint:
        raise complaint.under("data") from None
    total = len(examples)
    count = total if limit is None else min(limit, total)
    numbers = np.arange(count) * total // count
    parts = []
    with tqdm.tqdm(total=count, desc=f"reading {split}", unit="image", disable=None, leave=False) as bar:
        for start in range(0, count, _BLOCK):
            parts.append(examples.rows(numbers[start : start + _BLOCK].tolist()))
            bar.update(len(parts[-1]["index"]))
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    whole = rows["weight"] > 0
    if not whole.any():
        raise types.BadInput("data.source", f"{total} broken examples for {split}", "whole ones")
    return Split({name: values[whole] for name, values in rows.items()}, examples.fingerprint, total)
