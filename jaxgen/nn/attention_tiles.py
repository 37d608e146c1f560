"""Sizes of tiles for the TPU's flash kernel, by chip, length and head dimension."""

from __future__ import annotations

import dataclasses

LANES = 128


@dataclasses.dataclass(frozen=True)
class Tile:
    """Attributes:
    heads: heads that one step of the grid works on.
    queries, keys: tokens of a tile, multiples of 128.
    compute: keys taken at once within a tile, a divisor of `keys` and a multiple of 128.
    """

    heads: int
    queries: int
    keys: int
    compute: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """Attributes:
    forward, backward: tiles of the two kernels.
    vector_memory: bytes that a kernel may use of a core's vector memory.
    interpret: runs the kernels in Python on any platform, for tests.
    """

    forward: Tile
    backward: Tile
    vector_memory: int | None = None
    interpret: bool = False


def plan(kind: str, queries: tuple[int, int, int, int], keys: int, dtype: object) -> Plan | None:
    return None
