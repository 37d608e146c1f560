"""Sorting of a few equal arrays element by element, by a network of comparators that is fixed when the program is traced."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

# Networks of more arrays take minutes to compile on CPUs.
_MOST = 40


@functools.cache
def network(n: int) -> tuple[tuple[int, int], ...]:
    """Comparators (low, high) in the order in which they act; Batcher's odd-even merge sort for any n.

    K. E. Batcher, Sorting networks and their applications, AFIPS 1968.
    """
    found = []
    length = 1
    while length < n:
        gap = length
        while gap:
            for start in range(gap % length, n - gap, 2 * gap):
                for low in range(start, min(start + gap, n - gap)):
                    if low // (2 * length) == (low + gap) // (2 * length):
                        found.append((low, low + gap))
            gap //= 2
        length *= 2
    return tuple(found)


def sort(rows: Sequence[jax.Array]) -> list[jax.Array]:
    """The arrays, of one shape, sorted element by element, the smallest first. NaN must have been replaced.

    Everything is elementwise, so that it is fused into one pass, and what no one reads of the result is not computed. More arrays
    than `_MOST` are sorted by the library.
    """
    if len(rows) > _MOST:
        return list(jnp.sort(jnp.stack(rows), axis=0))
    rows = list(rows)
    for low, high in network(len(rows)):
        rows[low], rows[high] = jnp.minimum(rows[low], rows[high]), jnp.maximum(rows[low], rows[high])
    return rows


def median(rows: Sequence[jax.Array]) -> jax.Array:
    """Middle of sorted arrays; of an even number, the mean of the two in the middle."""
    middle = len(rows) // 2
    return rows[middle] if len(rows) % 2 else 0.5 * (rows[middle - 1] + rows[middle])
