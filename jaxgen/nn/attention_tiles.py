"""Sizes of tiles for the TPU's flash kernel, by chip, length and head dimension."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp

LANES = 128
MIB = 1 << 20
SKIPPED = 1536  # keys of a tile where skipping tiles saves more than large ones do


@dataclasses.dataclass(frozen=True)
class Tile:
    """Attributes:
    heads: heads that one step of the grid works on.
    queries, keys: tokens of a tile, multiples of 128.
    compute: keys taken at once within a tile, a multiple of 128.
    """

    heads: int
    queries: int
    keys: int
    compute: int

    def parts(self) -> Iterator[tuple[int, int]]:
        """(first key, number of keys) of what is taken at once."""
        for start in range(0, self.keys, self.compute):
            yield start, min(self.compute, self.keys - start)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Attributes:
    forward, backward: tiles of the two kernels.
    lanes: head dimensions are padded to a multiple of this.
    gathered: queries whose gradient one backward kernel holds in vector memory; longer sequences are taken in several runs.
    vector_memory: bytes that a kernel may use of a core's vector memory; None leaves it to the compiler.
    interpret: runs the kernels in Python on any platform, for tests.
    """

    forward: Tile
    backward: Tile
    lanes: int
    gathered: int
    vector_memory: int | None = None
    interpret: bool = False


@dataclasses.dataclass(frozen=True)
class Chip:
    """The largest tiles for a kind of chip, for head dimensions up to 128 in two bytes.

    Attributes:
      vector_memory: MiB of a core's vector memory that kernels may use.
      forward, backward: (queries, keys, keys at once).
    """

    vector_memory: int
    forward: tuple[int, int, int]
    backward: tuple[int, int, int]


CHIPS = {
    "TPU v4": Chip(14, (512, 1024, 512), (256, 1024, 512)),
    "TPU v5 lite": Chip(100, (768, 4608, 512), (768, 2304, 768)),
    "TPU v5": Chip(56, (768, 4608, 512), (768, 2304, 768)),
    "TPU v6 lite": Chip(100, (768, 4608, 512), (768, 2304, 768)),
    "TPU7x": Chip(56, (768, 4608, 512), (768, 2304, 768)),
}
"""By `device_kind`. Those of v5p had the fewest cycles of the tiles that were compiled (4608 tokens, head dimension 128). The other
chips take the same, v4 what its smaller memory holds: for them none were compared."""


def plan(kind: str, heads: int, queries: int, keys: int, width: int, dtype: jnp.dtype, skips: bool) -> Plan:
    """Tiles for attention of so many heads, queries and keys on one device.

    Args:
      kind: `device_kind` of the chip; one that is not known gets the smallest tiles.
      heads, queries, keys, width: N, L, S and K of what one device holds.
      skips: whether many queries see few keys, so that tiles are to be small enough for some of them to be skipped.
    """
    chip = CHIPS.get(kind, CHIPS["TPU v4"])
    # Wide heads and four-byte numbers take as much more room.
    shrink = max(1, width // LANES) * jnp.dtype(dtype).itemsize // 2
    limits = chip.forward, chip.backward
    if skips:
        limits = [(rows, min(columns, SKIPPED), count) for rows, columns, count in limits]
    tiles = [_tile(most, shrink, heads, queries, keys, width) for most in limits]
    whole = all(tile.heads * width % LANES == 0 or tile.heads == heads for tile in tiles)
    if not whole:
        tiles = [_tile(most, shrink, heads, queries, keys, LANES) for most in limits]
    lanes = 1 if whole else LANES
    bytes_per_query = 4 * tiles[1].heads * max(width, LANES)
    return Plan(*tiles, lanes, chip.vector_memory * MIB // 3 // bytes_per_query, chip.vector_memory * MIB)


def _tile(limits: tuple[int, int, int], shrink: int, heads: int, queries: int, keys: int, width: int) -> Tile:
    most = [max(1, limit // shrink // LANES) * LANES for limit in limits]
    rows, columns = _part(queries, most[0]), _part(keys, most[1])
    few = max(1, most[0] * most[1] // (rows * columns))
    counts = [n for n in range(1, heads + 1) if heads % n == 0 and n <= few]
    # Blocks of whole lanes, or all heads at once.
    together = [n for n in counts if n * width % LANES == 0 or n == heads] or [1]
    return Tile(max(together), rows, columns, min(most[2], columns))


def _part(length: int, most: int) -> int:
    """The length divided into as few equal parts as are not longer than `most`, rounded up to a multiple of 128."""
    parts = -(-length // most)
    return -(-length // (parts * LANES)) * LANES
