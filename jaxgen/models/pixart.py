"""PixArt-α: a diffusion transformer that reads text by cross-attention (Chen et al., arXiv 2310.00426), under μP (2505.15270)."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.transformer import Transformer
from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.embeddings import TimeEmbedding, position_sinusoid
from jaxgen.nn.linear import Linear
from jaxgen.nn.mlp import MLP
from jaxgen.nn.modulation import Gates, Modulation, ModulationTable, modulate, per_token, segment_mean
from jaxgen.nn.projections import CrossHeads, FromHeads, QueryKeyValue
from jaxgen.nn.stack import scanned
from jaxgen.nn.start import Start, normal, normal_over_width, uniform_over_fan_in, xavier_uniform, zeros
from jaxgen.parallel.sharding import constrain

NULL = 1 << 30
"""Segment of the null caption's entries, and in cross-attention of the image tokens that have no text."""


START = Start(
    (
        ("patches.bias", uniform_over_fan_in),
        ("time.*.kernel", normal(0.02)),
        ("text_*.kernel", normal(0.02)),
        ("modulation.*.kernel", normal(0.02)),
        ("*modulation.table", normal_over_width),
        ("*from_cross_heads.*", zeros),
        ("velocity.*", zeros),
        ("*.kernel", xavier_uniform),
    )
)
"""Of the published code (PixArt-alpha/PixArt-alpha)."""


class PixArtBlock(nn.Module):
    """Self-attention, cross-attention to text, and feed-forward; the first and last modulated and gated by the time."""

    width: int
    head_dim: int
    mlp_ratio: int
    activation: str
    gates: Gates
    scale: mup.Scale
    context_attention: str = "all_gather"
    qkv_bias: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, shared: tuple[jax.Array, ...], text: jax.Array, segments: jax.Array, across: Mask
    ) -> tuple[jax.Array, None]:
        """x [B, L, D], six vectors [B, 1 or L, D] of modulation, text [B, S, D], segments [B, L], and which text a token sees."""
        std = 0.0 if self.gates == Gates.ZERO else 0.02
        table = ModulationTable(6, self.width, self.scale, std, name="modulation")
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = table(shared)
        factor = self.scale.attention_scale(self.head_dim)
        own = QueryKeyValue(self.width, self.head_dim, self.scale, bias=self.qkv_bias, name="heads")
        q, k, v = own(modulate(x, shift_1, scale_1))
        attended = attention(q, k, v, Mask(segments, segments), factor, self.context_attention)
        x = x + self.scale.branch(gate_1 * FromHeads(self.width, self.head_dim, self.scale, name="from_heads")(attended))
        x = constrain(x, "batch", "length", "activation_embed")

        q, k, v = CrossHeads(self.width, self.head_dim, self.scale, bias=self.qkv_bias, name="cross_heads")(x, text)
        read = attention(q, k, v, across, factor, self.context_attention)
        # Text is read from nothing at the start, whatever the gates: it has none.
        x = x + self.scale.branch(FromHeads(self.width, self.head_dim, self.scale, std=0.0, name="from_cross_heads")(read))
        x = constrain(x, "batch", "length", "activation_embed")

        hidden = MLP(self.width, self.mlp_ratio * self.width, self.scale, self.activation, name="mlp")(
            modulate(x, shift_2, scale_2)
        )
        return constrain(x + self.scale.branch(gate_2 * hidden), "batch", "length", "activation_embed"), None


class NullCaption(nn.Module):
    """Learned features that stand for no text."""

    length: int
    features: int
    scale: mup.Scale

    @nn.compact
    def __call__(self) -> jax.Array:
        """[S, C] float32."""
        inputs, outputs = (("position", self.length),), (("features", self.features),)
        return mup.param(self, "table", inputs=inputs, outputs=outputs, kind="embedding", std=1 / math.sqrt(self.features))


class PixArt(Transformer):
    """Predicts the velocity of image tokens given the features of a text.

    Modulation is one map of the time for all blocks and a table in each (adaLN-single). Where a segment has no text, its tokens
    read a null caption instead, learned features of the longest text's length.

    Attributes:
      text_features: channels of the text features.
      text_length: S, the longest text.
      gates: zero or random start of modulation, the map's and the tables'.
      activation: of the feed-forward layers, a name in `nn.mlp.ACTIVATIONS`.
      qkv_bias: queries, keys and values have biases, as in the published networks.
      learn_variance: the network puts out twice the channels, the second half of which say the variance of a step of a Gaussian
        process (Nichol and Dhariwal, arXiv 2102.09672).
      position_offset: added to coordinates, which count from the centre; published tables count from the corner: half of the side
        of a picture in tokens.
      position_spacing: what coordinates are multiplied by then; 1/2 at 1024 pixels in the published networks, 1 below.
    """

    text_features: int = 64
    text_length: int = 64
    gates: Gates = Gates.ZERO
    activation: str = "gelu"
    qkv_bias: bool = False
    learn_variance: bool = False
    position_offset: float = 0.0
    position_spacing: float = 1.0

    streams = ("text",)
    published_start = START

    def validate(self) -> None:
        super().validate()
        for name in ("text_features", "text_length"):
            if getattr(self, name) < 1:
                raise types.BadInput(name, getattr(self, name), "a positive number")
        if self.width % 4:
            raise types.BadInput("width", self.width, "a multiple of 4 (sines and cosines of two axes)")
        if not math.isfinite(self.position_offset):
            raise types.BadInput("position_offset", self.position_offset, "a finite number of tokens")
        if not (math.isfinite(self.position_spacing) and self.position_spacing > 0):
            raise types.BadInput("position_spacing", self.position_spacing, "a finite positive factor")

    def check(self, experiment: Any) -> None:
        """The text of the data must be features that fit."""
        text = experiment.data.features().get("text")
        if text is None:
            return  # the objective names the stream that is missing
        if text.shape[0] > self.text_length:
            raise types.BadInput("model.text_length", self.text_length, f"at least {text.shape[0]}, the length of the data's texts")
        if len(text.shape) != 2:
            raise types.BadInput("data.source", type(experiment.data.source).__name__, "a source whose text is features, not ids")
        if text.shape[1] != self.text_features:
            raise types.BadInput("model.text_features", self.text_features, f"{text.shape[1]}, the channels of the data's text")

    @nn.compact
    def __call__(
        self, tokens: types.Tokens, t: jax.Array, streams: dict[str, types.Condition], tap: int | None = None
    ) -> jax.Array:
        """Velocity at the tokens' values.

        Args:
          tokens: values [B, L, p·p·C].
          t: [B] or [B, L].
          streams: "text" of features [B, S, text_features].
          tap: as of `Transformer`.

        Returns:
          [B, L, p·p·C] in the dtype of the token values; or [B, L, p·p·2C] with `learn_variance`, in each pixel first the C
          channels of the prediction.
        """
        scale = self.scale
        values = self.patch * self.patch * self.channels
        dtype = tokens.values.dtype
        embed, embed_out = (("embed", self.width),), (("embed_out", self.width),)
        x = Linear((("patch", values),), embed_out, scale, name="patches")(tokens.values)
        places = self.position_spacing * (tokens.positions + self.position_offset)
        x = constrain(x + position_sinusoid(places, self.width).astype(dtype), "batch", "length", "activation_embed")

        t, owners = per_token(t, tokens.segments)
        time = constrain(TimeEmbedding(self.width, scale, name="time")(t).astype(dtype), "batch", "length", "activation_embed")
        shared = Modulation(6, self.width, scale, self.gates, name="modulation")(time)

        null = NullCaption(self.text_length, self.text_features, scale, name="null")().astype(dtype)
        y, across = _captions(streams["text"], null, owners, tokens.segments)
        y = Linear((("features", self.text_features),), embed_out, scale, name="text_in")(y)
        y = Linear(embed, embed_out, scale, name="text_out")(nn.gelu(y))
        y = constrain(y, "batch", "length", "activation_embed")

        like = (self.width, self.head_dim, self.mlp_ratio, self.activation, self.gates, self.block_scale, self.context_attention)
        block = scanned(PixArtBlock, self.depth, self.remat, broadcast=4, tap=tap)(*like, self.qkv_bias, name="blocks")
        x, _ = block(x, shared, y, tokens.segments, across)
        std = 0.0 if self.gates == Gates.ZERO else 0.02
        shift, factor = ModulationTable(2, self.width, scale, std, name="last_modulation")((time, time))
        outputs = (("patch", values * (1 + self.learn_variance)),)
        return Linear(embed, outputs, scale, kind="output", std=0.0, name="velocity")(modulate(x, shift, factor))


VARIANTS = {"XL": {"width": 1152, "depth": 28, "head_dim": 72, "text_features": 4096, "text_length": 120}}
"""Sizes by name (Chen et al., arXiv 2310.00426, §2.2); "XL/2" is XL with patch 2."""

PUBLISHED = {"qkv_bias": True, "learn_variance": True}
"""What the published networks have besides."""


def _captions(text: types.Condition, null: jax.Array, owners: jax.Array, segments: jax.Array) -> tuple[jax.Array, Mask]:
    """Features that are read, the null caption [S, C] among them, and which of them each image token sees.

    Args:
      owners: [B, M] segments that have a time, M = 1 or L. segments: [B, L] of the image tokens.
    """
    values = interface.present(text).astype(null.dtype)
    there = segment_mean(jnp.zeros((*text.segments.shape, 1)), text.segments, owners)[1]
    count = values.shape[0]
    if owners.shape[1] == 1:
        # One example a row has one caption, its own or the null.
        missing = null.shape[0] - values.shape[1]
        values = jnp.pad(values, ((0, 0), (0, missing), (0, 0)))
        own = jnp.pad(text.segments, ((0, 0), (0, missing)))
        return jnp.where(there[..., None], values, null), Mask(segments, jnp.where(there, own, 1))
    values = jnp.concatenate([values, jnp.broadcast_to(null, (count, *null.shape))], axis=1)
    own = jnp.concatenate([text.segments, jnp.full((count, null.shape[0]), NULL)], axis=1)
    return values, Mask(jnp.where(there, segments, NULL), own)
