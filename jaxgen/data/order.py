"""Which example each row of a run is: pure functions of (seed, row number), the same on any number of hosts.

The row number is step · batch size + row. A host asks for the rows that it needs; nothing is sliced by host and nothing
is carried from step to step, so a run resumes from its step alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from jaxgen import types
from jaxgen.data import hashing

Order = Callable[[Sequence[int]], np.ndarray]
"""Row numbers (n of them, not negative) to example indices, int64 [n]."""


def stored(count: int) -> Order:
    """Example `number mod count`: the stored order, over and over."""
    return lambda numbers: _array(numbers) % count


def shuffled(count: int, seed: int) -> Order:
    """Grain's shuffle, repeated: each epoch a fresh permutation of `count` examples, in constant memory.

    Raises:
      BadInput: a negative seed.
    """
    import grain

    if seed < 0:
        raise types.BadInput("seed", seed, "an integer that is not negative")
    rows = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
    return lambda numbers: np.fromiter((rows[int(number)] for number in numbers), np.int64, len(numbers))


def permuted(count: int, seed: int) -> Order:
    """Each epoch a fresh permutation of `count` examples, with NumPy alone; holds the permutations of two epochs."""

    @functools.lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        return np.argsort(hashing.draws(seed, f"order of epoch {epoch}", np.arange(count)), kind="stable")

    def order(numbers: Sequence[int]) -> np.ndarray:
        epochs, places = np.divmod(_array(numbers), count)
        found = [permutation(int(epoch))[place] for epoch, place in zip(epochs, places)]
        return np.asarray(found, np.int64)

    return order


def _array(numbers: Sequence[int]) -> np.ndarray:
    return np.asarray(numbers, np.int64)
