"""The one door to attention: a mask is described, never materialised by the caller, and the kernel is chosen here."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from jaxgen.nn.linear import precision


@flax.struct.dataclass
class Mask:
    """Which keys a query sees; conditions combine by "and". The default sees everything.

    Attributes:
      query_segments, key_segments: [B, L] and [B, S] int32; a query sees keys of its own segment, and 0 is padding, which
        neither sees nor is seen. Both or neither.
      causal: a query sees keys at its own index and before.
      window: a query sees keys less than this many indices away.
    """

    query_segments: jax.Array | None = None
    key_segments: jax.Array | None = None
    causal: bool = flax.struct.field(pytree_node=False, default=False)
    window: int | None = flax.struct.field(pytree_node=False, default=None)

    def dense(self, queries: int, keys: int) -> jax.Array | None:
        """The mask as booleans [B or 1, L, S], true where visible; None where everything is."""
        visible = []
        offset = jnp.arange(queries)[:, None] - jnp.arange(keys)[None, :]
        if self.causal:
            visible.append((offset >= 0)[None])
        if self.window is not None:
            visible.append((jnp.abs(offset) < self.window)[None])
        if self.query_segments is not None:
            query, key = self.query_segments[:, :, None], self.key_segments[:, None, :]
            visible.append((query == key) & (key != 0))
        if not visible:
            return None
        mask = visible[0]
        for other in visible[1:]:
            mask = mask & other
        return mask


def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, scale: float) -> jax.Array:
    """Softmax attention; a query that sees no key gets zeros.

    Args:
      q: [B, L, N, K]. k, v: [B, S, N, K].
      mask: which keys each query sees.
      scale: factor on query-key products (`mup.Scale.attention_scale`).

    Returns:
      [B, L, N, K] in the dtype of `q`. Products accumulate and the softmax is taken in float32.
    """
    logits = jnp.einsum("blnk,bsnk->bnls", q * scale, k, precision=precision(q), preferred_element_type=jnp.float32)
    visible = mask.dense(q.shape[1], k.shape[1])
    if visible is not None:
        visible = visible[:, None]
        logits = jnp.where(visible, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1)
    if visible is not None:
        weights = jnp.where(jnp.any(visible, axis=-1, keepdims=True), weights, 0.0)
    out = jnp.einsum("bnls,bsnk->blnk", weights.astype(v.dtype), v, precision=precision(v), preferred_element_type=jnp.float32)
    return out.astype(q.dtype)
