"""A mask as the TPU's flash kernel reads it: integers per query and key, and one number per pair of tiles.

A pair of tiles in which no query sees a key is skipped; one in which every query sees all keys needs no masking; in the rest each
query is compared with each key.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.attention_tiles import Tile

SKIP, SOME, EVERY = 0, 1, 2
"""Status of a pair of tiles."""

NOWHERE, EVERYWHERE = jnp.iinfo(jnp.int32).min, jnp.iinfo(jnp.int32).max


@dataclasses.dataclass(frozen=True)
class Rule:
    """What of a mask is known when the kernel is compiled.

    Attributes:
      causal, window: as of `Mask`. segments, blocks: whether the mask has any.
      keys: number of real keys, where there are others and segments do not tell them apart.
    """

    causal: bool = False
    window: int | None = None
    segments: bool = False
    blocks: bool = False
    keys: int | None = None


def codes(
    mask: Mask, query_start: jax.Array, keys: int, rows: int, columns: int
) -> tuple[Rule, jax.Array | None, jax.Array | None]:
    """The rule, and [B, codes, rows] int32 for queries, [B, codes, columns] for keys, None where indices alone decide.

    Codes of a query: its segment; its block, the last index that it sees in it, and a bit for each kind it sees in earlier ones.
    Codes of a key: its segment, -1 for padding; its block and the bit of its kind.
    """
    segments, blocks = mask.query_segments is not None, mask.query_blocks is not None
    bounded = keys if columns > keys and not segments else None
    rule = Rule(mask.causal, mask.window, segments, blocks, bounded)
    query, key = [], []
    pad = lambda code, size, value: jnp.pad(code.astype(jnp.int32), ((0, 0), (0, size - code.shape[1])), constant_values=value)
    if segments:
        query.append(pad(mask.query_segments, rows, 0))
        key.append(pad(jnp.where(mask.key_segments == 0, -1, mask.key_segments), columns, -1))
    if blocks:
        causal = jnp.asarray([kind.causal for kind in mask.kinds])[mask.query_blocks.kind]
        sees = jnp.asarray([sum(1 << other for other in kind.sees) for kind in mask.kinds], jnp.int32)[mask.query_blocks.kind]
        index = query_start + jnp.arange(causal.shape[1])
        reach = jnp.where(causal, index[None], EVERYWHERE)
        query += [pad(mask.query_blocks.number, rows, 0), pad(reach, rows, NOWHERE), pad(sees, rows, 0)]
        key += [pad(mask.key_blocks.number, columns, 0), pad(1 << mask.key_blocks.kind, columns, 0)]
    if not query:
        return rule, None, None
    return rule, jnp.stack(query, axis=1), jnp.stack(key, axis=1)


def visible(rule: Rule, codes: Sequence, starts, i, j, tile: Tile, part: slice, across: int):
    """Which key each query sees, for a part of the keys in a pair of tiles; called in a kernel.

    Args:
      codes: references to those of queries and of keys, or nothing; [1, length, codes] of what runs down the tile,
        [1, codes, length] of what runs across.
      starts: reference to the indices of the first query and the first key.
      i, j: the pair of tiles. part: the keys of the tile.
      across: the dimension that runs over keys, 1 for queries down and keys across.

    Returns:
      Booleans [queries, keys], or [keys, queries] where `across` is 0.
    """
    count = part.stop - part.start
    shape = (tile.queries, count) if across else (count, tile.queries)
    here = j * tile.keys + part.start + jax.lax.broadcasted_iota(jnp.int32, shape, across)
    index = here + starts[1]
    offset = i * tile.queries + starts[0] + jax.lax.broadcasted_iota(jnp.int32, shape, 1 - across) - index
    of_query = lambda n: codes[0][0, :, n : n + 1] if across else codes[0][0, n : n + 1]
    of_key = lambda n: codes[1][0, n : n + 1, part] if across else codes[1][0, part, n : n + 1]
    conditions = []
    if rule.keys is not None:
        conditions.append(here < rule.keys)
    if rule.causal:
        conditions.append(offset >= 0)
    if rule.window is not None:
        conditions.append(jnp.abs(offset) < rule.window)
    if rule.segments:
        conditions.append(of_query(0) == of_key(0))
    if rule.blocks:
        n = int(rule.segments)
        same = (of_query(n) == of_key(n)) & (index <= of_query(n + 1))
        earlier = (of_key(n) < of_query(n)) & ((of_query(n + 2) & of_key(n + 1)) != 0)
        conditions.append(same | earlier)
    return functools.reduce(jnp.logical_and, conditions)


def status(
    rule: Rule,
    query: jax.Array | None,
    key: jax.Array | None,
    query_start: jax.Array,
    key_start: jax.Array,
    over: tuple[int, int],
    tile: Tile,
) -> jax.Array:
    """[B or 1, tiles of queries, tiles of keys] int32. SKIP: no key is seen; EVERY: all are; SOME promises nothing."""
    here = jnp.arange(over[1])[None] * tile.keys
    i, j = query_start + jnp.arange(over[0])[:, None] * tile.queries, key_start + here
    i_last, j_last = i + tile.queries - 1, j + tile.keys - 1
    every, some = [jnp.ones((1, *over), bool)], [jnp.ones((1, *over), bool)]
    if rule.keys is not None:
        every.append((here + tile.keys <= rule.keys)[None])
    if rule.causal:
        every.append((j_last <= i)[None])
        some.append((j <= i_last)[None])
    if rule.window is not None:
        every.append((jnp.maximum(i_last - j, j_last - i) < rule.window)[None])
        some.append((jnp.maximum(i - j_last, j - i_last) < rule.window)[None])
    down = lambda n, reduce: reduce(query[:, n].reshape(-1, over[0], tile.queries), axis=-1)[:, :, None]
    across = lambda n, reduce: reduce(key[:, n].reshape(-1, over[1], tile.keys), axis=-1)[:, None, :]
    both, either = jnp.bitwise_and.reduce, jnp.bitwise_or.reduce
    if rule.segments:
        low, high, key_low, key_high = down(0, jnp.min), down(0, jnp.max), across(0, jnp.min), across(0, jnp.max)
        every.append((low == high) & (key_low == key_high) & (low == key_low))
        some.append((key_low <= high) & (low <= key_high))
    if rule.blocks:
        n = int(rule.segments)
        low, high, key_low, key_high = down(n, jnp.min), down(n, jnp.max), across(n, jnp.min), across(n, jnp.max)
        same = (low == high) & (key_low == key_high) & (low == key_low) & (j_last[None] <= down(n + 1, jnp.min))
        every.append(same | (key_high < low) & ((~down(n + 2, both) & across(n + 1, either)) == 0))
        some.append(key_low <= high)
    every, some = functools.reduce(jnp.logical_and, every), functools.reduce(jnp.logical_and, some)
    return jnp.where(every, EVERY, jnp.where(some, SOME, SKIP)).astype(jnp.int32)
