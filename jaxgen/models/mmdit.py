"""MMDiT: joint attention over text and image tokens with weights of its own per modality.

The block of Stable Diffusion 3 (Esser et al., arXiv 2403.03206) with the QK-norm and the two-dimensional RoPE of Seedream 2.0
(arXiv 2503.07703, §3.1), under μP (arXiv 2505.15270). Behind such blocks may come others over both modalities in one sequence, and
the network may be told a guidance scale, as in FLUX.1 (Black Forest Labs, 2024). `PUBLISHED` makes it Stable Diffusion 3 itself.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.convolutional_edge import ConvolutionalEdge, ConvolutionalHead, ConvolutionalStem
from jaxgen.models.single_stream import SingleStreamBlock
from jaxgen.models.transformer import Transformer
from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.embeddings import NgramEmbedding, Table, TimeEmbedding, position_sinusoid
from jaxgen.nn.linear import Linear
from jaxgen.nn.mlp import MLP
from jaxgen.nn.modulation import Gates, Modulation, modulate, per_token, segment_mean
from jaxgen.nn.projections import FromHeads, QueryKeyValue
from jaxgen.nn.stack import HIDDEN, scanned
from jaxgen.nn.start import Start, uniform_over_fan_in
from jaxgen.nn.velocity_head import VelocityHead
from jaxgen.parallel.sharding import constrain

MODALITIES = ("image", "text")


START = Start((("*.kernel", uniform_over_fan_in), ("*.bias", uniform_over_fan_in)))
"""No start of Stable Diffusion 3 was published: public code of its network (sihyun-yu/REPA, for one) leaves all of it as PyTorch
starts it."""


class AbsentText(enum.StrEnum):
    """What an example without a text reads."""

    NULL = "null"
    """Nothing, and a learned vector stands for the text in the conditioning vector."""
    ZEROS = "zeros"
    """Features that are zero, as Stable Diffusion 3 drops its texts: entries that are absent are read like others."""


@dataclasses.dataclass(frozen=True)
class PositionTable:
    """Fixed sinusoids of the coordinates of image tokens, a window of a table that is larger than pictures.

    Attributes:
      offset: added to coordinates, which count from the centre of a picture: half of the side of a published table in tokens, as
        these count from the corner.
      spacing: what coordinates are multiplied by then: the side of the pictures of most of the training over that of the table.
    """

    offset: float = 0.0
    spacing: float = 1.0

    def validate(self) -> None:
        if not math.isfinite(self.offset):
            raise types.BadInput("offset", self.offset, "a finite number of tokens")
        if not (math.isfinite(self.spacing) and self.spacing > 0):
            raise types.BadInput("spacing", self.spacing, "a finite positive factor")

    def __call__(self, positions: jax.Array, width: int) -> jax.Array:
        """[B, L, 2] to float32 [B, L, D]."""
        return position_sinusoid(self.spacing * (positions + self.offset), width)


class MMDiTBlock(nn.Module):
    """One attention over both modalities; projections, feed-forward and modulation separate.

    Attributes:
      context_pre_only: text is read and not written to: behind this block nobody reads it.
    """

    width: int
    head_dim: int
    mlp_ratio: int
    activation: str
    gates: Gates
    scale: mup.Scale
    context_attention: str = "all_gather"
    qk_norm: bool = True
    qkv_bias: bool = False
    context_pre_only: bool = False

    @nn.compact
    def __call__(
        self, carry: dict[str, jax.Array], c: dict[str, jax.Array], positions: jax.Array | None, segments: dict[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], None]:
        """carry: tokens [B, L or S, D] by modality; c: [B, 1 or L or S, D]; positions [B, L, 2] of rotations, if there are any;
        segments [B, L or S]."""
        mods, heads = {}, {}
        for name in MODALITIES:
            count = 2 if name == "text" and self.context_pre_only else 6
            mods[name] = Modulation(count, self.width, self.scale, self.gates, name=f"{name}_modulation")(c[name])
            shift, scale = mods[name][:2]
            project = QueryKeyValue(self.width, self.head_dim, self.scale, self.qk_norm, self.qkv_bias, name=f"{name}_heads")
            heads[name] = project(modulate(carry[name], shift, scale), positions if name == "image" else None)
        q, k, v = (joined({name: heads[name][i] for name in MODALITIES}) for i in range(3))
        joint = joined(segments)
        attended = attention(q, k, v, Mask(joint, joint), self.scale.attention_scale(self.head_dim), self.context_attention)
        split = carry["image"].shape[1]
        attended = {"image": attended[:, :split], "text": attended[:, split:]}

        out = dict(carry)
        for name in ("image",) if self.context_pre_only else MODALITIES:
            _, _, gate_1, shift, scale, gate_2 = mods[name]
            project = FromHeads(self.width, self.head_dim, self.scale, name=f"{name}_from_heads")
            x = carry[name] + self.scale.branch(gate_1 * project(attended[name]))
            x = constrain(x, "batch", "length", "activation_embed")
            hidden = MLP(self.width, self.mlp_ratio * self.width, self.scale, self.activation, name=f"{name}_mlp")(
                modulate(x, shift, scale)
            )
            out[name] = constrain(x + self.scale.branch(gate_2 * hidden), "batch", "length", "activation_embed")
        return out, None


class MMDiT(Transformer):
    """Predicts the velocity of image tokens given text.

    The conditioning vector is the time embedding plus a two-layer map of the text as one vector (the stream "pooled", or the mean
    text embedding), or a learned null vector where a segment has none; and the embedding of a guidance scale, where there is one.
    Text tokens carry a learned position, image tokens a rotary one, unless there is a table.

    Attributes:
      width: D. depth: number of blocks with weights per modality. head_dim: K, the same at every width; a multiple of 4 where there
        are rotations.
      single_depth: number of single-stream blocks behind them.
      vocabulary: number of text ids where the stream "text" holds ids; 0 where it holds features.
      text_features: channels of the text features where vocabulary is 0.
      text_length: S, the longest text.
      pooled_features: channels of the stream "pooled", the whole text as one vector; 0 takes the mean of the text embeddings.
      guidance: scale of guidance that the network takes its output to have, where no stream "guidance" says another; None embeds
        none. A network that imitates a guided one is trained with the stream.
      edge: convolutions at a finer patch before and behind the blocks; None has linear maps there.
      gates: zero or random start of modulation.
      activation: of the feed-forward layers, a name in `nn.mlp.ACTIVATIONS`.
      qk_norm: queries and keys are normalized. qkv_bias: queries, keys and values have biases.
      position_table: of image tokens, in the place of rotations; text then has no positions but those that its features bring.
      absent_text: what an example without a text reads. A row of several examples does not tell whose an absent entry is, and reads
        none.
      context_pre_only: the last block reads text and writes to the image alone.
    """

    single_depth: int = 0
    vocabulary: int = 259
    text_features: int = 0
    text_length: int = 64
    pooled_features: int = 0
    guidance: float | None = None
    edge: ConvolutionalEdge | None = None
    gates: Gates = Gates.ZERO
    activation: str = "gelu"
    qk_norm: bool = True
    qkv_bias: bool = False
    position_table: PositionTable | None = None
    absent_text: AbsentText = AbsentText.NULL
    context_pre_only: bool = False

    published_start = START

    @property
    def streams(self) -> tuple[str, ...]:
        """The fields of the data that the network is conditioned on."""
        return ("text", "pooled") if self.pooled_features else ("text",)

    @property
    def block_count(self) -> int:
        return self.depth + self.single_depth

    def validate(self) -> None:
        super().validate()
        for name in ("single_depth", "pooled_features"):
            if getattr(self, name) < 0:
                raise types.BadInput(name, getattr(self, name), "0 or more")
        if self.guidance is not None and not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise types.BadInput("guidance", self.guidance, "a finite number, 0 or above, or none")
        if self.position_table is None and self.head_dim % 4:
            raise types.BadInput("head_dim", self.head_dim, "a multiple of 4 (rotations over two axes)")
        if self.position_table is not None and self.width % 4:
            raise types.BadInput("width", self.width, "a multiple of 4 (sines and cosines of two axes)")
        for name in ("width", "patch"):
            if self.edge is not None and getattr(self, name) % self.edge.split:
                raise types.BadInput(name, getattr(self, name), f"a multiple of edge.split={self.edge.split}")
        if (self.vocabulary > 0) == (self.text_features > 0):
            raise types.BadInput(
                "vocabulary",
                self.vocabulary,
                f"either ids (vocabulary > 0) or features (text_features={self.text_features} > 0)",
            )
        if self.vocabulary and self.position_table is not None:
            raise types.BadInput("position_table", self.position_table, "none, as ids (vocabulary > 0) bring no order of their own")
        if self.vocabulary and self.absent_text == AbsentText.ZEROS:
            raise types.BadInput("absent_text", str(self.absent_text), "null, as ids (vocabulary > 0) have no zero")
        if self.context_pre_only and self.single_depth:
            needed = f"false, as the single_depth={self.single_depth} blocks behind read what is written to text"
            raise types.BadInput("context_pre_only", True, needed)
        if self.context_pre_only and self.depth < 2:
            raise types.BadInput("depth", self.depth, "at least 2, of which the last is of another kind (context_pre_only)")

    def check(self, experiment: Any) -> None:
        """The text of the data must fit the tables."""
        fields = experiment.data.features()
        if any(name not in fields for name in self.streams):
            return  # the objective names the streams that are missing
        text = fields["text"]
        if text.shape[0] > self.text_length:
            raise types.BadInput("model.text_length", self.text_length, f"at least {text.shape[0]}, the length of the data's texts")
        features = text.shape[1] if len(text.shape) > 1 else 0
        if self.text_features != features:
            needed = f"{features}, the channels of the data's text" if features else "0 and a vocabulary, as the data's text is ids"
            raise types.BadInput("model.text_features", self.text_features, needed)
        if self.vocabulary:
            interface.require_rows("model.vocabulary", self.vocabulary, experiment.data, "text")
        if self.pooled_features and fields["pooled"].shape != (1, self.pooled_features):
            needed = f"{fields['pooled'].shape[-1]}, the channels of the data's one vector a text"
            raise types.BadInput("model.pooled_features", self.pooled_features, needed)

    @nn.compact
    def __call__(
        self, tokens: types.Tokens, t: jax.Array, streams: dict[str, types.Condition], tap: int | None = None
    ) -> jax.Array:
        """Velocity at the tokens' values.

        Args:
          tokens: values [B, L, p·p·C].
          t: [B] or [B, L].
          streams: "text" of ids [B, S] or features [B, S, C]; "pooled" [B, 1 or a few, C] where the network takes it; "guidance"
            [B, 1 or a few], scales, where it embeds one and is to be told another than its own.
          tap: as of `Transformer`; blocks of a single stream count on from the others.

        Returns:
          [B, L, p·p·C] in the dtype of the token values.
        """
        scale = self.scale
        values = self.patch * self.patch * self.channels
        dtype = tokens.values.dtype
        embed_out = (("embed_out", self.width),)
        embed = (("embed", self.width),)
        text = streams["text"]
        if self.absent_text == AbsentText.ZEROS:
            text = _all_read(text, tokens.segments)

        if self.vocabulary:
            y = NgramEmbedding(self.vocabulary, self.width, scale, name="text_ids")(interface.present(text), text.segments)
        else:
            y = interface.present(text).astype(dtype)
            y = Linear((("features", self.text_features),), embed_out, scale, name="text_features")(y)

        t, owners = per_token(t, tokens.segments)
        if self.pooled_features:
            one = streams["pooled"]
            pooled, present = segment_mean(interface.present(one), one.segments, owners)
            pooled = Linear((("features", self.pooled_features),), embed_out, scale, name="pooled_in")(pooled)
        else:
            pooled, present = segment_mean(y, text.segments, owners)
            pooled = Linear(embed, embed_out, scale, name="pooled_in")(pooled)
        pooled = Linear(embed, embed_out, scale, name="pooled_out")(nn.silu(pooled))
        if self.absent_text == AbsentText.NULL:
            null = Table("vocabulary", 1, self.width, scale, name="null")(jnp.zeros_like(owners))
            pooled = jnp.where(present[..., None], pooled, null)
        c = TimeEmbedding(self.width, scale, name="time")(t) + pooled
        if self.guidance is not None:
            told = jnp.full(owners.shape, self.guidance, jnp.float32)
            if "guidance" in streams:
                scales = streams["guidance"]
                given, there = segment_mean(interface.present(scales)[..., None], scales.segments, owners)
                told = jnp.where(there, given[..., 0], told)
            c = c + TimeEmbedding(self.width, scale, name="guidance")(told)
        c = constrain(c, "batch", "length", "activation_embed")
        c_text = c if c.shape[1] == 1 else segment_mean(c, tokens.segments, text.segments)[0]

        if self.edge is None:
            x = Linear((("patch", values),), embed_out, scale, name="patches")(tokens.values)
        else:
            ends = (self.edge, self.width, self.patch, self.channels, self.gates, scale)
            x, skip = ConvolutionalStem(*ends, name="stem")(tokens, c.astype(dtype))

        positions = tokens.positions
        if self.position_table is None:
            y = y + Table("position", self.text_length, self.width, scale, name="text_positions")(places(text.segments))
        else:
            x, positions = x + self.position_table(positions, self.width).astype(dtype), None
        carry = {"image": x, "text": y.astype(dtype)}
        carry = {name: constrain(value, "batch", "length", "activation_embed") for name, value in carry.items()}
        like = (self.width, self.head_dim, self.mlp_ratio, self.activation, self.gates, self.block_scale, self.context_attention)
        like += (self.qk_norm, self.qkv_bias)
        image = lambda carry: carry["image"]
        conditions = {"image": c.astype(dtype), "text": c_text.astype(dtype)}
        segments = {"image": tokens.segments, "text": text.segments}
        depth = self.depth - self.context_pre_only
        block = scanned(MMDiTBlock, depth, self.remat, broadcast=3, tap=tap, tokens=image)(*like, name="blocks")
        carry, _ = block(carry, conditions, positions, segments)
        if self.context_pre_only:
            carry, _ = MMDiTBlock(*like, context_pre_only=True, name="last_block")(carry, conditions, positions, segments)
            if tap == self.depth:
                self.sow(HIDDEN, "tokens", carry["image"])
        x = carry["image"]
        if self.single_depth:
            if positions is not None:
                # Text stands still under the rotations: its positions are zero.
                positions = jnp.pad(positions, ((0, 0), (0, y.shape[1]), (0, 0)))
            c_both = c.astype(dtype) if c.shape[1] == 1 else joined(conditions)
            image = lambda carry: carry[:, : tokens.values.shape[1]]
            behind = None if tap is None else tap - self.depth
            block = scanned(SingleStreamBlock, self.single_depth, self.remat, broadcast=3, tap=behind, tokens=image)
            x, _ = block(*like, name="single_blocks")(joined(carry), c_both, positions, joined(segments))
            x = image(x)
        if self.edge is not None:
            return ConvolutionalHead(*ends, name="head")(x, skip, c.astype(dtype), tokens)
        return VelocityHead(self.width, values, self.gates, scale, name="velocity")(x, c.astype(dtype))


_SD3 = {"text_features": 4096, "pooled_features": 2048, "text_length": 333, "position_table": PositionTable(96.0, 64 / 192)}
VARIANTS = {
    "SD3-medium": {"width": 1536, "depth": 24, "head_dim": 64, "qk_norm": False, **_SD3},
    "SD3.5-large": {"width": 2432, "depth": 38, "head_dim": 64, "qk_norm": True, **_SD3},
}
"""Sizes by name, as released, patch 2 of 16 channels: as many heads as blocks (Esser et al., arXiv 2403.03206, §5.3), a table of
192 × 192 tokens for pictures of 64 × 64, text of 77 tokens by CLIP and 256 by T5."""

PUBLISHED = {"vocabulary": 0, "qkv_bias": True, "absent_text": AbsentText.ZEROS, "context_pre_only": True}
"""What the published networks have besides."""


def joined(arrays: dict[str, jax.Array]) -> jax.Array:
    """Arrays by modality, [B, L, …] and [B, S, …], one behind the other."""
    return jnp.concatenate([arrays[name] for name in MODALITIES], axis=1)


def _all_read(text: types.Condition, segments: jax.Array) -> types.Condition:
    """The text with zeros for absent entries, which are read too in rows of one example; segments [B, L] are the image tokens'."""
    alone = jnp.max(segments, axis=1, keepdims=True) <= 1
    return types.Condition(interface.present(text), jnp.where(alone, 1, text.segments))


def places(segments: jax.Array) -> jax.Array:
    """[B, S] segments to the place of each entry counted from the first of its segment; 0 for absent entries."""
    first = jnp.argmax(segments[:, :, None] == segments[:, None, :], axis=-1)
    return jnp.where(segments > 0, jnp.arange(segments.shape[1])[None] - first, 0)
