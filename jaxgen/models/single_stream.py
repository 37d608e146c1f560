"""A transformer block over text and image tokens in one sequence, with attention and feed-forward side by side.

Both read one modulated LayerNorm and are added to the sequence together (Dehghani et al., arXiv 2302.05442, §2); the block of the
second stage of FLUX.1 (Black Forest Labs, 2024), with QK-norm and RoPE, under μP (arXiv 2505.15270).
"""

from __future__ import annotations

import flax.linen as nn
import jax

from jaxgen import mup
from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.mlp import MLP
from jaxgen.nn.modulation import Gates, Modulation, modulate
from jaxgen.nn.projections import FromHeads, QueryKeyValue
from jaxgen.parallel.sharding import constrain


class SingleStreamBlock(nn.Module):
    """One set of weights for both modalities."""

    width: int
    head_dim: int
    mlp_ratio: int
    activation: str
    gates: Gates
    scale: mup.Scale
    context_attention: str = "all_gather"
    qk_norm: bool = True
    qkv_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, c: jax.Array, positions: jax.Array | None, segments: jax.Array) -> tuple[jax.Array, None]:
        """x [B, L, D], c [B, 1 or L, D], positions [B, L, axes] of rotations, if there are any, segments [B, L]."""
        shift, scale, gate = Modulation(3, self.width, self.scale, self.gates, name="modulation")(c)
        normed = modulate(x, shift, scale)
        project = QueryKeyValue(self.width, self.head_dim, self.scale, self.qk_norm, self.qkv_bias, name="heads")
        q, k, v = project(normed, positions)
        attended = attention(q, k, v, Mask(segments, segments), self.scale.attention_scale(self.head_dim), self.context_attention)
        y = FromHeads(self.width, self.head_dim, self.scale, name="from_heads")(attended)
        y = y + MLP(self.width, self.mlp_ratio * self.width, self.scale, self.activation, name="mlp")(normed)
        return constrain(x + self.scale.branch(gate * y), "batch", "length", "activation_embed"), None
