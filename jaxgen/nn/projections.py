"""Maps between the model's width and attention heads."""

from __future__ import annotations

import flax.linen as nn
import jax

from jaxgen import mup
from jaxgen.nn import norms, rope
from jaxgen.nn.linear import Linear
from jaxgen.parallel.sharding import constrain


class QueryKeyValue(nn.Module):
    """Query, key and value heads from one fused projection, optionally with QK-norm (arXiv 2302.05442) and RoPE, in that order."""

    width: int
    head_dim: int
    scale: mup.Scale
    qk_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [B, L, D] and optional positions [B, L, axes] to three arrays [B, L, N, K]."""
        heads = self.scale.head_axes(self.width // self.head_dim, self.head_dim)
        # No bias: a bias on keys shifts all products of a query alike, so its gradient is rounding noise that Adam would amplify.
        qkv = Linear((("embed", self.width),), (("qkv", 3), *heads), self.scale, bias=False, name="qkv")(x)
        q, k, v = (constrain(qkv[:, :, i], "batch", "length", "activation_heads", None) for i in range(3))
        if self.qk_norm:
            q = norms.RMSNorm(heads[1], self.scale, name="query_norm")(q)
            k = norms.RMSNorm(heads[1], self.scale, name="key_norm")(k)
        if positions is not None:
            q, k = rope.rotate(q, positions), rope.rotate(k, positions)
        return q, k, v


class FromHeads(nn.Module):
    """Attention heads back to the model's width."""

    width: int
    head_dim: int
    scale: mup.Scale

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, L, N, K] to [B, L, D]."""
        heads = self.scale.head_axes(self.width // self.head_dim, self.head_dim)
        return Linear(heads, (("embed_out", self.width),), self.scale, name="out")(x)
