"""Counter-based random numbers in NumPy: draw i of a stream depends on (seed, stream, i), not on what came before.

The mixing is splitmix64 written out, so that the numbers never change with a library's version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def draws(seed: int, stream: str, numbers: Iterable[int] | np.ndarray) -> np.ndarray:
    """Random uint64 of the same shape as `numbers` (integers in [0, 2^64)), one for each.

    Args:
      seed: any integer.
      stream: what the draws are for; different streams are independent.
      numbers: counters.
    """
    digest = hashlib.blake2b(f"{stream}\0{seed}".encode(), digest_size=8).digest()
    key = np.uint64(int.from_bytes(digest, "little"))
    counters = np.asarray(numbers if isinstance(numbers, np.ndarray) else list(numbers)).astype(np.uint64)
    return _mix(_mix(counters + _GOLDEN) ^ key)


def share(name: str) -> float:
    """A number in [0, 1) that depends on a file's name alone, uniform over names."""
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2.0**53


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
