"""Maps between the model's width and attention heads."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import mup
from jaxgen.nn import heads_tpu, norms, rope
from jaxgen.nn.linear import Linear
from jaxgen.parallel.sharding import constrain


class QueryKeyValue(nn.Module):
    """Query, key and value heads from one fused projection, optionally with QK-norm (arXiv 2302.05442) and RoPE, in that order.

    Attributes:
      bias: adds biases, as published models have them. Without: a bias on keys shifts all products of a query alike, so its
        gradient is rounding noise that Adam would amplify.
    """

    width: int
    head_dim: int
    scale: mup.Scale
    qk_norm: bool = False
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [B, L, D] and optional positions [B, L, axes] to three arrays [B, L, N, K]."""
        heads = self.scale.head_axes(self.width // self.head_dim, self.head_dim)
        fused = self.qk_norm and heads_tpu.applies(x, self.width // self.head_dim, self.head_dim)
        outputs, split = (("qkv", 3), *heads), None if fused else "after"
        qkv = Linear((("embed", self.width),), outputs, self.scale, bias=self.bias, split=split, name="qkv")(x)
        if fused:
            gains = [norms.Gain(heads[1], self.scale, name=name)() for name in ("query_norm", "key_norm")]
            return heads_tpu.normed_and_turned(qkv, jnp.stack(gains), positions)
        q, k, v = (constrain(one, "batch", "length", "activation_heads", None) for one in qkv)
        if self.qk_norm:
            q = norms.RMSNorm(heads[1], self.scale, name="query_norm")(q)
            k = norms.RMSNorm(heads[1], self.scale, name="key_norm")(k)
        if positions is not None:
            q, k = rope.rotate(q, positions), rope.rotate(k, positions)
        return q, k, v


class CrossHeads(nn.Module):
    """Query heads from one sequence, key and value heads from another.

    Attributes:
      bias: as of `QueryKeyValue`.
    """

    width: int
    head_dim: int
    scale: mup.Scale
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [B, L, D] and y [B, S, D] to queries [B, L, N, K], keys and values [B, S, N, K]."""
        heads = self.scale.head_axes(self.width // self.head_dim, self.head_dim)
        embed = (("embed", self.width),)
        q = Linear(embed, heads, self.scale, bias=self.bias, name="query")(x)
        both = Linear(embed, (("qkv", 2), *heads), self.scale, bias=self.bias, split="after", name="key_value")(y)
        q, k, v = (constrain(one, "batch", "length", "activation_heads", None) for one in (q, *both))
        return q, k, v


class FromHeads(nn.Module):
    """Attention heads back to the model's width. What attention put out is kept as the intermediate "attended".

    Attributes:
      std: see `mup.param`; 0 starts the kernel at zero.
    """

    width: int
    head_dim: int
    scale: mup.Scale
    std: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, L, N, K] to [B, L, D]."""
        self.sow("intermediates", "attended", x)
        heads = self.scale.head_axes(self.width // self.head_dim, self.head_dim)
        return Linear(heads, (("embed_out", self.width),), self.scale, std=self.std, name="out")(x)
