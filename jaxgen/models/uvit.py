"""U-ViT: a transformer over label, time and patches as tokens, with long skips (Bao et al., arXiv 2209.12152), under μP."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.transformer import Transformer
from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.convolution import Convolution
from jaxgen.nn.embeddings import Table, sinusoid
from jaxgen.nn.linear import Linear
from jaxgen.nn.mlp import MLP
from jaxgen.nn.modulation import per_token
from jaxgen.nn.norms import LayerNorm
from jaxgen.nn.patches import joined, patches
from jaxgen.nn.projections import FromHeads, QueryKeyValue
from jaxgen.nn.stack import HIDDEN, scanned
from jaxgen.nn.start import Start, normal, uniform_over_fan_in
from jaxgen.parallel.sharding import constrain

START = Start(
    (
        ("patches.*", uniform_over_fan_in),
        ("convolution.*", uniform_over_fan_in),
        ("*.kernel", normal(0.02)),
        ("positions.table", normal(0.02)),
    )
)
"""Of the published code (baofff/U-ViT), which leaves convolutions as PyTorch starts them; the output does not start at zero."""


class UViTBlock(nn.Module):
    """Pre-norm attention and feed-forward, behind a map of the tokens and those of an earlier block where there is a long skip."""

    width: int
    head_dim: int
    mlp_ratio: int
    activation: str
    scale: mup.Scale
    context_attention: str = "all_gather"
    qkv_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array | None, segments: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """x and the tokens of an earlier block, if any, [B, L, D], segments [B, L].

        Returns the new tokens, and the same to keep for a later block where they are of the first half.
        """
        keep = skip is None
        if skip is not None:
            both = (("embed", 2 * self.width),)
            outside = dataclasses.replace(self.scale, residual=1.0)
            x = Linear(both, (("embed_out", self.width),), outside, name="skip")(jnp.concatenate([x, skip], axis=-1))
        normed = LayerNorm(self.width, self.scale, name="norm_1")(x)
        q, k, v = QueryKeyValue(self.width, self.head_dim, self.scale, bias=self.qkv_bias, name="heads")(normed)
        attended = attention(q, k, v, Mask(segments, segments), self.scale.attention_scale(self.head_dim), self.context_attention)
        x = x + self.scale.branch(FromHeads(self.width, self.head_dim, self.scale, name="from_heads")(attended))
        x = constrain(x, "batch", "length", "activation_embed")
        normed = LayerNorm(self.width, self.scale, name="norm_2")(x)
        x = x + self.scale.branch(MLP(self.width, self.mlp_ratio * self.width, self.scale, self.activation, name="mlp")(normed))
        x = constrain(x, "batch", "length", "activation_embed")
        return x, x if keep else None


class UViT(Transformer):
    """Predicts the velocity of image tokens given a class label.

    Time and label are tokens of their own in front of the patches. The output of the i-th block from the front is what the i-th
    block from the back takes besides the tokens. Of a row of one time there are two such tokens; of a packed row two for each
    place, of which each example's first ones are seen, so packing costs three times the tokens.

    Attributes:
      width: D. depth: number of blocks besides the middle one, half of them in front of it. head_dim: K, the same at every width.
      grid: rows and columns of tokens that the learned table of positions has; smaller pictures take its middle.
      classes: number of labels; one more row stands for the null label.
      time_network: a two-layer SiLU network of hidden width 4D behind the sinusoid of D features, which is else the token itself.
      convolution: a convolution of 3 × 3 pixels behind the map to patches, for crisp seams.
      activation: of the feed-forward layers, a name in `nn.mlp.ACTIVATIONS`.
      qkv_bias: queries, keys and values have biases.
    """

    grid: tuple[int, int] = (4, 4)
    classes: int = 10
    time_network: bool = False
    convolution: bool = True
    activation: str = "gelu_exact"
    qkv_bias: bool = False

    streams = ("label",)
    published_start = START

    @property
    def block_count(self) -> int:
        return self.depth + 1

    def validate(self) -> None:
        super().validate()
        if self.depth % 2:
            raise types.BadInput("depth", self.depth, "an even number (long skips from the first half to the second)")
        if self.width % 2:
            raise types.BadInput("width", self.width, "an even number (sines and cosines of the time)")
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise types.BadInput("grid", self.grid, "rows and columns, both positive")

    def check(self, experiment: Any) -> None:
        """Tables must have a row for every label and every place of the data's pictures."""
        interface.require_rows("model.classes", self.classes, experiment.data, "label")
        side = experiment.data.resolution // experiment.autoencoder.factor // self.patch
        if min(self.grid) < side or any((size - side) % 2 for size in self.grid):
            needed = f"({side}, {side}), the data's pictures in tokens, or more by an even number"
            raise types.BadInput("model.grid", self.grid, needed)

    @nn.compact
    def __call__(
        self, tokens: types.Tokens, t: jax.Array, streams: dict[str, types.Condition], tap: int | None = None
    ) -> jax.Array:
        """Velocity at the tokens' values.

        Args:
          tokens: values [B, L, p·p·C]; coordinates are whole numbers above the middle of `grid`.
          t: [B] or [B, L].
          streams: "label" of integers [B, S].
          tap: as of `Transformer`; the middle block counts too.

        Returns:
          [B, L, p·p·C] in the dtype of the token values.

        Raises:
          ValueError: packed tokens, which have no neighbours on a grid, where there is a convolution.
        """
        scale = self.scale
        values = self.patch * self.patch * self.channels
        dtype = tokens.values.dtype
        embed, embed_out = (("embed", self.width),), (("embed_out", self.width),)
        if self.convolution and tokens.grid is None:
            raise ValueError("tokens: found packed ones, needed those of whole pictures; a convolution needs neighbours on a grid")

        t, owners = per_token(t, tokens.segments)
        labels = Table("vocabulary", self.classes + 1, self.width, scale, name="labels")
        label = interface.label_vectors(labels, streams["label"], owners)
        time = sinusoid(1000.0 * t, self.width)
        if self.time_network:
            hidden = Linear(embed, (("mlp", 4 * self.width),), scale, name="time_in")(time)
            time = Linear((("mlp", 4 * self.width),), embed_out, scale, name="time_out")(nn.silu(hidden))
        places = Table("position", 2 + self.grid[0] * self.grid[1], self.width, scale, std=0.02, name="positions")
        x = Linear((("patch", values),), embed_out, scale, name="patches")(tokens.values)
        x = x + places(2 + _places(tokens, self.grid)).astype(dtype)
        label, time = (part + places(jnp.full_like(owners, row)) for row, part in enumerate((label, time)))
        x = constrain(jnp.concatenate([label.astype(dtype), time.astype(dtype), x], axis=1), "batch", "length", "activation_embed")
        own = _first(owners)
        segments = jnp.concatenate([own, own, tokens.segments], axis=1)

        like = (self.width, self.head_dim, self.mlp_ratio, self.activation, self.block_scale, self.context_attention, self.qkv_bias)
        half, image = self.depth // 2, lambda x: x[:, 2 * owners.shape[1] :]
        in_blocks = scanned(UViTBlock, half, self.remat, broadcast=2, tap=tap, tokens=image)(*like, name="in_blocks")
        x, skips = in_blocks(x, None, segments)
        x, _ = UViTBlock(*like, name="mid_block")(x, None, segments)
        if tap == half + 1:
            self.sow(HIDDEN, "tokens", image(x))
        behind = None if tap is None else tap - half - 1
        out_blocks = scanned(UViTBlock, half, self.remat, broadcast=1, per_layer=1, tap=behind, tokens=image)
        x, _ = out_blocks(*like, name="out_blocks")(x, skips[::-1], segments)

        x = LayerNorm(self.width, scale, name="norm")(image(x))
        x = Linear(embed, (("patch", values),), scale, kind="output", std=0.0, name="velocity")(x)
        if not self.convolution:
            return x
        picture = joined(x, tokens.grid, self.patch)
        pixels = picture.reshape(x.shape[0], -1, self.channels)
        smooth = Convolution(self.channels, scale, ("features", "patch"), bias=True, name="convolution")
        return patches(smooth(pixels, picture.shape[1:3]).reshape(picture.shape), self.patch)


VARIANTS = {
    "S": {"width": 512, "depth": 12, "head_dim": 64},
    "S-deep": {"width": 512, "depth": 16, "head_dim": 64},
    "M": {"width": 768, "depth": 16, "head_dim": 64},
    "L": {"width": 1024, "depth": 20, "head_dim": 64},
    "H": {"width": 1152, "depth": 28, "head_dim": 72, "convolution": False},
}
"""Sizes by name (Bao et al., arXiv 2209.12152, table 1, which counts the middle block too); "L/2" is L with patch 2."""


def _places(tokens: types.Tokens, grid: tuple[int, int]) -> jax.Array:
    """[B, L] row of the table of patches for each token: past its end, where NaN is looked up, for places that it does not have."""
    rows, columns = grid
    row, column = (jnp.round(tokens.positions[..., axis] + size / 2).astype(jnp.int32) for axis, size in enumerate(grid))
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    # Padding lies anywhere, and a NaN would spread from there through attention.
    return jnp.where(tokens.segments > 0, jnp.where(inside, row * columns + column, rows * columns), 0)


def _first(owners: jax.Array) -> jax.Array:
    """[B, M] segments with 0 for all places but the first of each."""
    first = jnp.argmax(owners[:, :, None] == owners[:, None, :], axis=-1) == jnp.arange(owners.shape[1])
    return jnp.where(first, owners, 0)
