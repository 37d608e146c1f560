"""DiT: the class-conditional diffusion transformer (Peebles and Xie, arXiv 2212.09748), under μP (arXiv 2505.15270)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.embeddings import Table, TimeEmbedding, position_sinusoid
from jaxgen.nn.linear import Linear
from jaxgen.nn.mlp import MLP
from jaxgen.nn.modulation import Gates, Modulation, modulate, per_token, segment_mean
from jaxgen.nn.projections import FromHeads, QueryKeyValue
from jaxgen.nn.stack import scanned
from jaxgen.nn.velocity_head import VelocityHead
from jaxgen.parallel.sharding import constrain


class DiTBlock(nn.Module):
    """Self-attention and feed-forward, each modulated and gated by the conditioning vector."""

    width: int
    head_dim: int
    mlp_ratio: int
    activation: str
    gates: Gates
    scale: mup.Scale
    context_attention: str = "all_gather"

    @nn.compact
    def __call__(self, x: jax.Array, c: jax.Array, segments: jax.Array) -> tuple[jax.Array, None]:
        """x [B, L, D], c [B, 1 or L, D], segments [B, L]."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = Modulation(6, self.width, self.scale, self.gates, name="modulation")(c)
        q, k, v = QueryKeyValue(self.width, self.head_dim, self.scale, name="heads")(modulate(x, shift_1, scale_1))
        attended = attention(q, k, v, Mask(segments, segments), self.scale.attention_scale(self.head_dim), self.context_attention)
        x = x + gate_1 * FromHeads(self.width, self.head_dim, self.scale, name="from_heads")(attended)
        x = constrain(x, "batch", "length", "activation_embed")
        hidden = MLP(self.width, self.mlp_ratio * self.width, self.scale, self.activation, name="mlp")(
            modulate(x, shift_2, scale_2)
        )
        return constrain(x + gate_2 * hidden, "batch", "length", "activation_embed"), None


class DiT(nn.Module):
    """Predicts the velocity of image tokens given a class label.

    Attributes:
      width: D. depth: number of blocks. head_dim: K, the same at every width.
      mlp_ratio: feed-forward width over D.
      patch: side of a patch. channels: channels of the latents.
      classes: number of labels; one more row stands for the null label.
      gates: zero or random start of modulation.
      activation: of the feed-forward layers, a name in `nn.mlp.ACTIVATIONS`.
      context_attention: how attention crosses the mesh axis `context`, a name in `nn.context_parallel.METHODS`.
      remat: rematerialization policy, a name in `nn.stack.REMAT`.
      scaling: μP base width and parametrization.
    """

    width: int = 64
    depth: int = 4
    head_dim: int = 16
    mlp_ratio: int = 4
    patch: int = 2
    channels: int = 1
    classes: int = 10
    gates: Gates = Gates.ZERO
    activation: str = "gelu"
    context_attention: str = "all_gather"
    remat: str = "none"
    scaling: mup.Scaling = mup.Scaling()

    streams = ("label",)

    def validate(self) -> None:
        interface.validate_transformer(self)
        if self.width % 4:
            raise types.BadInput("width", self.width, "a multiple of 4 (sines and cosines of two axes)")

    def check(self, experiment: Any) -> None:
        """The table must have a row for every label of the data."""
        interface.require_rows("model.classes", self.classes, experiment.data, "label")

    @nn.compact
    def __call__(self, tokens: types.Tokens, t: jax.Array, streams: dict[str, types.Condition]) -> jax.Array:
        """tokens of values [B, L, p·p·C], t [B] or [B, L], the stream "label" of integers [B, S]; returns [B, L, p·p·C]."""
        scale = self.scaling.at(self.width)
        values = self.patch * self.patch * self.channels
        dtype = tokens.values.dtype
        x = Linear((("patch", values),), (("embed_out", self.width),), scale, name="patches")(tokens.values)
        x = x + position_sinusoid(tokens.positions, self.width).astype(dtype)
        x = constrain(x, "batch", "length", "activation_embed")

        t, owners = per_token(t, tokens.segments)
        label = streams["label"]
        table = Table("vocabulary", self.classes + 1, self.width, scale, name="labels")
        mean, present = segment_mean(table(interface.present(label)), label.segments, owners)
        absent = table(jnp.full_like(owners, self.classes))
        c = TimeEmbedding(self.width, scale, name="time")(t) + jnp.where(present[..., None], mean, absent)
        c = constrain(c.astype(dtype), "batch", "length", "activation_embed")

        block = scanned(DiTBlock, self.depth, self.remat, broadcast=2)
        x, _ = block(
            self.width, self.head_dim, self.mlp_ratio, self.activation, self.gates, scale, self.context_attention, name="blocks"
        )(x, c, tokens.segments)
        return VelocityHead(self.width, values, self.gates, scale, name="velocity")(x, c)
