"""Random streams: root seed -> stream name -> step.

Adding a stream changes no other, and a resumed run needs only seed and step.
"""

from __future__ import annotations

import zlib

import jax


def root(seed: int) -> jax.Array:
    """The typed threefry key of a run. Threefry, because a vmapped draw then equals the same draw alone."""
    return jax.random.key(seed, impl="threefry2x32")


def stream(key: jax.Array, name: str) -> jax.Array:
    """The key of a named stream below `key`."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
