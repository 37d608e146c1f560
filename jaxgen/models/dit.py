"""DiT: the class-conditional diffusion transformer (Peebles and Xie, arXiv 2212.09748), under μP (arXiv 2505.15270)."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.transformer import Transformer
from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.embeddings import Table, TimeEmbedding, position_sinusoid
from jaxgen.nn.linear import Linear
from jaxgen.nn.mlp import MLP
from jaxgen.nn.modulation import Gates, Modulation, modulate, per_token
from jaxgen.nn.projections import FromHeads, QueryKeyValue
from jaxgen.nn.stack import scanned
from jaxgen.nn.start import Start, normal, xavier_uniform, zeros
from jaxgen.nn.velocity_head import VelocityHead
from jaxgen.parallel.sharding import constrain

START = Start(
    (
        ("time.*.kernel", normal(0.02)),
        ("labels.table", normal(0.02)),
        ("*modulation.*", zeros),
        ("velocity.*", zeros),
        ("*.kernel", xavier_uniform),
    )
)
"""Of the published code (facebookresearch/DiT, and SiT's)."""


class DiTBlock(nn.Module):
    """Self-attention and feed-forward, each modulated and gated by the conditioning vector."""

    width: int
    head_dim: int
    mlp_ratio: int
    activation: str
    gates: Gates
    scale: mup.Scale
    context_attention: str = "all_gather"
    qkv_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, c: jax.Array, segments: jax.Array) -> tuple[jax.Array, None]:
        """x [B, L, D], c [B, 1 or L, D], segments [B, L]."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = Modulation(6, self.width, self.scale, self.gates, name="modulation")(c)
        project = QueryKeyValue(self.width, self.head_dim, self.scale, bias=self.qkv_bias, name="heads")
        q, k, v = project(modulate(x, shift_1, scale_1))
        attended = attention(q, k, v, Mask(segments, segments), self.scale.attention_scale(self.head_dim), self.context_attention)
        x = x + self.scale.branch(gate_1 * FromHeads(self.width, self.head_dim, self.scale, name="from_heads")(attended))
        x = constrain(x, "batch", "length", "activation_embed")
        hidden = MLP(self.width, self.mlp_ratio * self.width, self.scale, self.activation, name="mlp")(
            modulate(x, shift_2, scale_2)
        )
        return constrain(x + self.scale.branch(gate_2 * hidden), "batch", "length", "activation_embed"), None


class DiT(Transformer):
    """Predicts the velocity of image tokens given a class label.

    Attributes:
      classes: number of labels; one more row stands for the null label.
      gates: zero or random start of modulation.
      activation: of the feed-forward layers, a name in `nn.mlp.ACTIVATIONS`.
      qkv_bias: queries, keys and values have biases, as in the published networks.
      learn_variance: the network puts out twice the channels, the second half of which say the variance of a step of a Gaussian
        process (Nichol and Dhariwal, arXiv 2102.09672).
      time_factor: what t is multiplied by before its sinusoid; DiT counts 1000 steps, SiT (arXiv 2401.08740) has t as it is.
      position_offset: added to coordinates, which count from the centre. Published tables count from the corner: half of the side
        of the one grid that such a network was trained on, in tokens.
    """

    classes: int = 10
    gates: Gates = Gates.ZERO
    activation: str = "gelu"
    qkv_bias: bool = False
    learn_variance: bool = False
    time_factor: float = 1000.0
    position_offset: float = 0.0

    streams = ("label",)
    published_start = START

    def validate(self) -> None:
        super().validate()
        if self.width % 4:
            raise types.BadInput("width", self.width, "a multiple of 4 (sines and cosines of two axes)")
        if not (math.isfinite(self.time_factor) and self.time_factor > 0):
            raise types.BadInput("time_factor", self.time_factor, "a finite positive factor")
        if not math.isfinite(self.position_offset):
            raise types.BadInput("position_offset", self.position_offset, "a finite number of tokens")

    def check(self, experiment: Any) -> None:
        """The table must have a row for every label of the data."""
        interface.require_rows("model.classes", self.classes, experiment.data, "label")

    @nn.compact
    def __call__(
        self, tokens: types.Tokens, t: jax.Array, streams: dict[str, types.Condition], tap: int | None = None
    ) -> jax.Array:
        """tokens of values [B, L, p·p·C], t [B] or [B, L], the stream "label" of integers [B, S]; `tap` as of `Transformer`.

        Returns [B, L, p·p·C], or [B, L, p·p·2C] with `learn_variance`, in each pixel first the C channels of the prediction.
        """
        scale = self.scale
        values = self.patch * self.patch * self.channels
        dtype = tokens.values.dtype
        x = Linear((("patch", values),), (("embed_out", self.width),), scale, name="patches")(tokens.values)
        x = x + position_sinusoid(tokens.positions + self.position_offset, self.width).astype(dtype)
        x = constrain(x, "batch", "length", "activation_embed")

        t, owners = per_token(t, tokens.segments)
        table = Table("vocabulary", self.classes + 1, self.width, scale, name="labels")
        time = TimeEmbedding(self.width, scale, self.time_factor, name="time")
        c = time(t) + interface.label_vectors(table, streams["label"], owners)
        c = constrain(c.astype(dtype), "batch", "length", "activation_embed")

        block = scanned(DiTBlock, self.depth, self.remat, broadcast=2, tap=tap)
        like = (self.width, self.head_dim, self.mlp_ratio, self.activation, self.gates, self.block_scale, self.context_attention)
        x, _ = block(*like, self.qkv_bias, name="blocks")(x, c, tokens.segments)
        return VelocityHead(self.width, values * (1 + self.learn_variance), self.gates, scale, name="velocity")(x, c)


VARIANTS = {
    "S": {"width": 384, "depth": 12, "head_dim": 64},
    "B": {"width": 768, "depth": 12, "head_dim": 64},
    "L": {"width": 1024, "depth": 24, "head_dim": 64},
    "XL": {"width": 1152, "depth": 28, "head_dim": 72},
}
"""Sizes by name (Peebles and Xie, arXiv 2212.09748, table 1); "XL/2" is XL with patch 2. SiT and REPA have the same."""

PUBLISHED = {"qkv_bias": True, "learn_variance": True}
"""What the published DiT and SiT networks have besides."""
