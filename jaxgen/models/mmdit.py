"""MMDiT: joint attention over text and image tokens with weights of its own per modality.

The block of Stable Diffusion 3 (Esser et al., arXiv 2403.03206) with the QK-norm and the two-dimensional RoPE of Seedream 2.0
(arXiv 2503.07703, §3.1), under μP (arXiv 2505.15270).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.convolutional_edge import ConvolutionalEdge, ConvolutionalHead, ConvolutionalStem
from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.embeddings import NgramEmbedding, Table, TimeEmbedding
from jaxgen.nn.linear import Linear
from jaxgen.nn.mlp import MLP
from jaxgen.nn.modulation import Gates, Modulation, modulate, per_token, segment_mean
from jaxgen.nn.projections import FromHeads, QueryKeyValue
from jaxgen.nn.stack import scanned
from jaxgen.nn.velocity_head import VelocityHead
from jaxgen.parallel.sharding import constrain

MODALITIES = ("image", "text")


class MMDiTBlock(nn.Module):
    """One attention over both modalities; projections, feed-forward and modulation separate."""

    width: int
    head_dim: int
    mlp_ratio: int
    activation: str
    gates: Gates
    scale: mup.Scale
    context_attention: str = "all_gather"

    @nn.compact
    def __call__(
        self, carry: dict[str, jax.Array], c: dict[str, jax.Array], positions: jax.Array, segments: dict[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], None]:
        """carry: tokens [B, L or S, D] by modality; c: [B, 1 or L or S, D]; positions [B, L, 2]; segments [B, L or S]."""
        mods, heads = {}, {}
        for name in MODALITIES:
            mods[name] = Modulation(6, self.width, self.scale, self.gates, name=f"{name}_modulation")(c[name])
            shift, scale = mods[name][:2]
            project = QueryKeyValue(self.width, self.head_dim, self.scale, qk_norm=True, name=f"{name}_heads")
            heads[name] = project(modulate(carry[name], shift, scale), positions if name == "image" else None)
        q, k, v = (jnp.concatenate([heads[name][i] for name in MODALITIES], axis=1) for i in range(3))
        joint = jnp.concatenate([segments[name] for name in MODALITIES], axis=1)
        attended = attention(q, k, v, Mask(joint, joint), self.scale.attention_scale(self.head_dim), self.context_attention)
        split = carry["image"].shape[1]
        attended = {"image": attended[:, :split], "text": attended[:, split:]}

        out = {}
        for name in MODALITIES:
            _, _, gate_1, shift, scale, gate_2 = mods[name]
            x = carry[name] + gate_1 * FromHeads(self.width, self.head_dim, self.scale, name=f"{name}_from_heads")(attended[name])
            x = constrain(x, "batch", "length", "activation_embed")
            hidden = MLP(self.width, self.mlp_ratio * self.width, self.scale, self.activation, name=f"{name}_mlp")(
                modulate(x, shift, scale)
            )
            out[name] = constrain(x + gate_2 * hidden, "batch", "length", "activation_embed")
        return out, None


class MMDiT(nn.Module):
    """Predicts the velocity of image tokens given text.

    The conditioning vector is the time embedding plus a two-layer map of the mean text embedding, or a learned null vector
    where a segment has no text. Text tokens carry a learned position, image tokens a rotary one.

    Attributes:
      width: D. depth: number of blocks. head_dim: K, the same at every width; a multiple of 4.
      mlp_ratio: feed-forward width over D.
      patch: side of a patch. channels: channels of the latents.
      vocabulary: number of text ids where the stream "text" holds ids; 0 where it holds features.
      text_features: channels of the text features where vocabulary is 0.
      text_length: S, the longest text.
      edge: convolutions at a finer patch before and behind the blocks; None has linear maps there.
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
    vocabulary: int = 259
    text_features: int = 0
    text_length: int = 64
    edge: ConvolutionalEdge | None = None
    gates: Gates = Gates.ZERO
    activation: str = "gelu"
    context_attention: str = "all_gather"
    remat: str = "none"
    scaling: mup.Scaling = mup.Scaling()

    streams = ("text",)

    def validate(self) -> None:
        interface.validate_transformer(self)
        if self.head_dim % 4:
            raise types.BadInput("head_dim", self.head_dim, "a multiple of 4 (rotations over two axes)")
        for name in ("width", "patch"):
            if self.edge is not None and getattr(self, name) % self.edge.split:
                raise types.BadInput(name, getattr(self, name), f"a multiple of edge.split={self.edge.split}")
        if (self.vocabulary > 0) == (self.text_features > 0):
            raise types.BadInput(
                "vocabulary",
                self.vocabulary,
                f"either ids (vocabulary > 0) or features (text_features={self.text_features} > 0)",
            )

    def check(self, experiment: Any) -> None:
        """The text of the data must fit the tables."""
        text = experiment.data.features().get("text")
        if text is None:
            return  # the objective names the streams that are missing
        if text.shape[0] > self.text_length:
            raise types.BadInput("model.text_length", self.text_length, f"at least {text.shape[0]}, the length of the data's texts")
        features = text.shape[1] if len(text.shape) > 1 else 0
        if self.text_features != features:
            needed = f"{features}, the channels of the data's text" if features else "0 and a vocabulary, as the data's text is ids"
            raise types.BadInput("model.text_features", self.text_features, needed)
        if self.vocabulary:
            interface.require_rows("model.vocabulary", self.vocabulary, experiment.data, "text")

    @nn.compact
    def __call__(self, tokens: types.Tokens, t: jax.Array, streams: dict[str, types.Condition]) -> jax.Array:
        """tokens of values [B, L, p·p·C], t [B] or [B, L], the stream "text" of ids [B, S] or features [B, S, C].

        Returns [B, L, p·p·C] in the dtype of the token values.
        """
        scale = self.scaling.at(self.width)
        values = self.patch * self.patch * self.channels
        dtype = tokens.values.dtype
        embed_out = (("embed_out", self.width),)
        embed = (("embed", self.width),)
        text = streams["text"]

        if self.vocabulary:
            y = NgramEmbedding(self.vocabulary, self.width, scale, name="text_ids")(interface.present(text), text.segments)
        else:
            y = Linear((("features", self.text_features),), embed_out, scale, name="text_features")(interface.present(text))

        t, owners = per_token(t, tokens.segments)
        pooled, present = segment_mean(y, text.segments, owners)
        pooled = Linear(embed, embed_out, scale, name="pooled_in")(pooled)
        pooled = Linear(embed, embed_out, scale, name="pooled_out")(nn.silu(pooled))
        null = Table("vocabulary", 1, self.width, scale, name="null")(jnp.zeros_like(owners))
        c = TimeEmbedding(self.width, scale, name="time")(t) + jnp.where(present[..., None], pooled, null)
        c = constrain(c, "batch", "length", "activation_embed")
        c_text = c if c.shape[1] == 1 else segment_mean(c, tokens.segments, text.segments)[0]

        if self.edge is None:
            x = Linear((("patch", values),), embed_out, scale, name="patches")(tokens.values)
        else:
            ends = (self.edge, self.width, self.patch, self.channels, self.gates, scale)
            x, skip = ConvolutionalStem(*ends, name="stem")(tokens, c.astype(dtype))

        y = y + Table("position", self.text_length, self.width, scale, name="text_positions")(places(text.segments))
        carry = {"image": x, "text": y.astype(dtype)}
        carry = {name: constrain(value, "batch", "length", "activation_embed") for name, value in carry.items()}
        block = scanned(MMDiTBlock, self.depth, self.remat, broadcast=3)(
            self.width, self.head_dim, self.mlp_ratio, self.activation, self.gates, scale, self.context_attention, name="blocks"
        )
        carry, _ = block(
            carry,
            {"image": c.astype(dtype), "text": c_text.astype(dtype)},
            tokens.positions,
            {"image": tokens.segments, "text": text.segments},
        )
        if self.edge is not None:
            return ConvolutionalHead(*ends, name="head")(carry["image"], skip, c.astype(dtype), tokens)
        return VelocityHead(self.width, values, self.gates, scale, name="velocity")(carry["image"], c.astype(dtype))


def places(segments: jax.Array) -> jax.Array:
    """[B, S] segments to the place of each entry counted from the first of its segment; 0 for absent entries."""
    first = jnp.argmax(segments[:, :, None] == segments[:, None, :], axis=-1)
    return jnp.where(segments > 0, jnp.arange(segments.shape[1])[None] - first, 0)
