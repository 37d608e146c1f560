"""Which keys a query of attention sees, as a description that kernels read and nobody has to materialise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class BlockKind:
    """One kind of block in an interleaved sequence: a passage of text, a picture, a picture with noise on it.

    Attributes:
      causal: within a block of this kind a query sees keys at its own index and before; otherwise the whole block.
      sees: kinds, as indices into `Mask.kinds`, whose earlier blocks it sees. Later blocks are never seen.
    """

    causal: bool
    sees: tuple[int, ...]


@flax.struct.dataclass
class Blocks:
    """The block that each token of a sequence belongs to.

    Attributes:
      number: [B, L] int32, rising along the sequence.
      kind: [B, L] int32, an index into `Mask.kinds`.
    """

    number: jax.Array
    kind: jax.Array


@flax.struct.dataclass
class Mask:
    """Which keys a query sees; conditions combine by "and". The default sees everything.

    Attributes:
      query_segments, key_segments: [B, L] and [B, S] int32; a query sees keys of its own segment, and 0 is padding, which
        neither sees nor is seen. Both or neither.
      query_blocks, key_blocks: a query sees its own block and earlier ones as the table `kinds` says. Both or neither.
      causal: a query sees keys at its own index and before.
      window: a query sees keys less than this many indices away.
      kinds: the table of block kinds, at most 31.
    """

    query_segments: jax.Array | None = None
    key_segments: jax.Array | None = None
    query_blocks: Blocks | None = None
    key_blocks: Blocks | None = None
    causal: bool = flax.struct.field(pytree_node=False, default=False)
    window: int | None = flax.struct.field(pytree_node=False, default=None)
    kinds: tuple[BlockKind, ...] = flax.struct.field(pytree_node=False, default=())

    def of_queries(self, some: Callable[[jax.Array], jax.Array]) -> Mask:
        """The mask with a function applied to what describes queries."""
        segments, blocks = jax.tree.map(some, (self.query_segments, self.query_blocks))
        return self.replace(query_segments=segments, query_blocks=blocks)

    def of_keys(self, some: Callable[[jax.Array], jax.Array]) -> Mask:
        """The mask with a function applied to what describes keys."""
        segments, blocks = jax.tree.map(some, (self.key_segments, self.key_blocks))
        return self.replace(key_segments=segments, key_blocks=blocks)

    def dense(self, queries: int, keys: int, query_start: jax.Array | int = 0, key_start: jax.Array | int = 0) -> jax.Array | None:
        """The mask as booleans [B or 1, L, S], true where visible; None where everything is.

        Args:
          queries, keys: L and S.
          query_start, key_start: index in the whole sequence of the first query and the first key, where these are parts of it.
        """
        visible = []
        offset = (jnp.arange(queries) + query_start)[:, None] - (jnp.arange(keys) + key_start)[None, :]
        if self.causal:
            visible.append((offset >= 0)[None])
        if self.window is not None:
            visible.append((jnp.abs(offset) < self.window)[None])
        if self.query_segments is not None:
            query, key = self.query_segments[:, :, None], self.key_segments[:, None, :]
            visible.append((query == key) & (key != 0))
        if self.query_blocks is not None:
            query, key = self.query_blocks.number[:, :, None], self.key_blocks.number[:, None, :]
            whole = jnp.asarray([not kind.causal for kind in self.kinds])[self.query_blocks.kind]
            table = jnp.asarray([[other in kind.sees for other in range(len(self.kinds))] for kind in self.kinds])
            earlier = table[self.query_blocks.kind[:, :, None], self.key_blocks.kind[:, None, :]]
            visible.append(jnp.where(query == key, whole[:, :, None] | (offset >= 0)[None], (key < query) & earlier))
        if not visible:
            return None
        mask = visible[0]
        for other in visible[1:]:
            mask = mask & other
        return mask
