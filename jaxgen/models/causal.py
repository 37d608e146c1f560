"""A causal transformer over the codes of a picture behind its text, one code after another in row-major order.

Text and picture are one sequence with one set of weights, as in LlamaGen (Sun et al., arXiv 2406.06525) and SimpleAR (Wang et al.,
arXiv 2504.11455); text is read as a whole, a picture from the first code on. Two things help a small network, which would have to
learn them: a place is given what lies left of it and in the row above, the pixels that a picture is most predictable from (van den
Oord et al., arXiv 1601.06759), and a word its neighbours. Rotations count text along the diagonal before the first code, and rows
and columns apart behind (Wang et al., arXiv 2409.12191, §2.1, for one picture).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.transformer import Blocks
from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import BlockKind, Mask
from jaxgen.nn.attention_mask import Blocks as MaskBlocks
from jaxgen.nn.embeddings import NgramEmbedding, NgramLayer, position_sinusoid
from jaxgen.nn.linear import Linear
from jaxgen.nn.mlp import MLP
from jaxgen.nn.norms import RMSNorm
from jaxgen.nn.projections import FromHeads, QueryKeyValue
from jaxgen.nn.stack import scanned
from jaxgen.nn.start import Start, normal
from jaxgen.parallel.sharding import constrain

Cache = tuple[jax.Array, jax.Array]
"""Keys and values of all blocks, [layers, B, S + L, N, K] each: of S places of text, then of L codes."""

START = Start((("*.kernel", normal(0.02)), ("*.tables", normal(0.02))))
"""As language models of this kind start, SimpleAR's Qwen2.5 among them (`initializer_range`)."""

KINDS = (BlockKind(causal=False, sees=()), BlockKind(causal=True, sees=(0,)))
"""Text and picture."""


class CausalBlock(nn.Module):
    """Attention and a feed-forward layer, each behind an RMSNorm."""

    width: int
    head_dim: int
    mlp_ratio: int
    activation: str
    scale: mup.Scale
    context_attention: str

    @nn.compact
    def __call__(
        self, x: jax.Array, cache: Cache | None, positions: jax.Array, mask: Mask, start: jax.Array | int
    ) -> tuple[jax.Array, Cache | None]:
        """x [B, L, D] to the same, and the cache with the keys and values of x written at `start`.

        Args:
          cache: of this block, [B, S, N, K] twice: what is attended to; None attends to x itself.
          positions: [B, L, 2] of rotations. mask: which keys each token sees.
        """
        axis = ("embed_out", self.width)
        project = QueryKeyValue(self.width, self.head_dim, self.scale, qk_norm=True, name="heads")
        q, k, v = project(RMSNorm(axis, self.scale, name="attention_norm")(x), positions)
        if cache is not None:
            write = lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part.astype(whole.dtype), start, axis=1)
            k, v = cache = jax.tree.map(write, cache, (k, v))
        y = attention(q, k, v, mask, self.scale.attention_scale(self.head_dim), self.context_attention)
        x = x + self.scale.branch(FromHeads(self.width, self.head_dim, self.scale, name="from_heads")(y))
        y = RMSNorm(axis, self.scale, name="mlp_norm")(constrain(x, "batch", "length", "activation_embed"))
        hidden = self.mlp_ratio * self.width
        y = MLP(self.width, hidden, self.scale, self.activation, bias=False, name="mlp")(y)
        return constrain(x + self.scale.branch(y), "batch", "length", "activation_embed"), cache


class CausalTransformer(Blocks):
    """Predicts each code of a picture from its text and the codes before it.

    An example without text is predicted from codes alone.

    Attributes:
      head_dim: K, a multiple of 4.
      codes: number of codes, as the autoencoder's quantizer has them.
      vocabulary: number of text ids. text_depth: layers that read text alone, each two words further.
      activation: of the feed-forward layers, a name in `nn.mlp.ACTIVATIONS`.
    """

    codes: int = 125
    vocabulary: int = 259
    text_depth: int = 2
    activation: str = "gelu"

    streams = ("text",)
    published_start = START

    def validate(self) -> None:
        super().validate()
        if self.head_dim % 4:
            raise types.BadInput("head_dim", self.head_dim, "a multiple of 4 (rotations over two axes)")
        if self.width % 4:
            raise types.BadInput("width", self.width, "a multiple of 4 (sines and cosines of two axes)")
        for name, least in (("codes", 2), ("vocabulary", 2), ("text_depth", 0)):
            if getattr(self, name) < least:
                raise types.BadInput(name, getattr(self, name), f"at least {least}")

    def check(self, experiment: Any) -> None:
        """The table must hold the data's text, which is ids."""
        text = experiment.data.features().get("text")
        if text is None:
            return  # the objective names the streams that are missing
        if text.ndim > 1:
            raise types.BadInput("model", type(self).__name__, "another model: this one reads ids, and the data's text is features")
        interface.require_rows("model.vocabulary", self.vocabulary, experiment.data, "text")

    def setup(self) -> None:
        scale, block_scale = self.scale, self.block_scale
        embed, embed_out = (("embed", self.width),), (("embed_out", self.width),)
        self.text_ids = NgramEmbedding(self.vocabulary, self.width, scale)
        self.text_layers = [NgramLayer(self.width, scale) for _ in range(self.text_depth)]
        self.neighbours = Neighbours(self.codes, self.width, scale)
        block = scanned(CausalBlock, self.depth, self.remat, broadcast=3, per_layer=1)
        like = (self.width, self.head_dim, self.mlp_ratio, self.activation, block_scale, self.context_attention)
        self.blocks = block(*like)
        self.norm = RMSNorm(embed_out[0], scale)
        self.logits = Linear(embed, (("codes", self.codes),), scale, kind="output", std=0.0)

    def __call__(self, codes: jax.Array, streams: dict[str, types.Condition], dtype: Any) -> jax.Array:
        """Logits of every code of a picture.

        Args:
          codes: [B, h, w] int32; a code is predicted from those before it in row-major order.
          streams: "text" of ids [B, S].
          dtype: in which to compute.

        Returns:
          [B, h·w, codes] float32.
        """
        text, (batch, *grid) = streams["text"], codes.shape
        length, count = text.values.shape[1], grid[0] * grid[1]
        words = self._text(text, dtype)
        places = self._places(jnp.arange(count), grid)
        marks = self.neighbours(neighbouring(codes, self.codes)) + position_sinusoid(places, self.width)
        x = constrain(jnp.concatenate([words, marks.astype(dtype)], axis=1), "batch", "length", "activation_embed")
        positions = jnp.concatenate([self._before(length), places])
        segments = jnp.concatenate([text.segments, jnp.ones((batch, count), jnp.int32)], axis=1)
        kind = jnp.broadcast_to(jnp.arange(length + count) >= length, segments.shape).astype(jnp.int32)
        blocks = MaskBlocks(kind, kind)
        mask = Mask(segments, segments, blocks, blocks, kinds=KINDS)
        x, _ = self.blocks(x, None, self._rows(positions, batch), mask, 0)
        return self._read(x[:, length:])

    def begin(self, streams: dict[str, types.Condition], grid: tuple[int, int], dtype: Any) -> Cache:
        """The cache of a picture of this many rows and columns, of which the text [B, S] alone is there."""
        text = streams["text"]
        batch, length = text.values.shape
        shape = (self.depth, batch, length + grid[0] * grid[1], self.width // self.head_dim, self.head_dim)
        cache = jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)
        positions = self._rows(self._before(length), batch)
        mask = Mask(text.segments, self._written(text, shape[2], length))
        return self.blocks(self._text(text, dtype), cache, positions, mask, 0)[1]

    def step(
        self, codes: jax.Array, place: jax.Array, cache: Cache, streams: dict[str, types.Condition]
    ) -> tuple[jax.Array, Cache]:
        """Logits [B, codes] float32 of one code, and the cache with its place.

        Args:
          codes: [B, h, w] int32, known in front of `place`, a number in row-major order. What stands from there on is not read.
          cache: as of `begin`, with all places in front.
        """
        text, (batch, *grid) = streams["text"], codes.shape
        length = text.values.shape[1]
        around = jax.lax.dynamic_slice_in_dim(neighbouring(codes, self.codes), place, 1, axis=1)
        position = self._places(place[None], grid)
        x = (self.neighbours(around) + position_sinusoid(position, self.width)).astype(cache[0].dtype)
        mask = Mask(jnp.ones((batch, 1), jnp.int32), self._written(text, cache[0].shape[2], length + place + 1))
        x, cache = self.blocks(x, cache, self._rows(position, batch), mask, length + place)
        return self._read(x)[:, 0], cache

    def _text(self, text: types.Condition, dtype: Any) -> jax.Array:
        x = self.text_ids(interface.present(text), text.segments).astype(dtype)
        for layer in self.text_layers:
            x = layer(x, text.segments)
        return x

    def _read(self, x: jax.Array) -> jax.Array:
        return self.logits(self.norm(x)).astype(jnp.float32)

    @staticmethod
    def _places(numbers: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Row and column [n, 2] of places [n]."""
        return jnp.stack([numbers // grid[1], numbers % grid[1]], axis=-1).astype(jnp.float32)

    @staticmethod
    def _before(length: int) -> jax.Array:
        """Positions [S, 2] of text."""
        return jnp.stack(2 * [jnp.arange(-length, 0, dtype=jnp.float32)], axis=-1)

    @staticmethod
    def _rows(positions: jax.Array, batch: int) -> jax.Array:
        return jnp.broadcast_to(positions, (batch, *positions.shape))

    @staticmethod
    def _written(text: types.Condition, size: int, known: jax.Array | int) -> jax.Array:
        """Segments [B, size] of a cache of which the first `known` places are written."""
        codes = jnp.ones((len(text.segments), size - text.segments.shape[1]), jnp.int32)
        return jnp.where(jnp.arange(size) < known, jnp.concatenate([text.segments, codes], axis=1), 0)


class Neighbours(nn.Module):
    """The sum of a vector for each code around a place, from tables that differ by direction."""

    codes: int
    width: int
    scale: mup.Scale

    @nn.compact
    def __call__(self, around: jax.Array) -> jax.Array:
        """Codes [B, L, 4] (`neighbouring`) to float32 [B, L, D]."""
        axes = (("neighbour", 4), ("codes", self.codes + 1))
        embed_out = (("embed_out", self.width),)
        tables = mup.param(self, "tables", inputs=axes, outputs=embed_out, kind="embedding", std=0.5)
        found = sum(jnp.take(tables[i], around[..., i], axis=0) for i in range(4))
        return constrain(found, "batch", "length", "activation_embed")


def neighbouring(codes: jax.Array, outside: int) -> jax.Array:
    """Codes [B, h, w] to those known around each place, [B, h·w, 4].

    They are the one before it in row-major order, and the three above: left, straight and right; `outside` where there is none.
    """
    batch, height, width = codes.shape
    flat = codes.reshape(batch, -1)
    before = jnp.pad(flat[:, :-1], ((0, 0), (1, 0)), constant_values=outside)
    padded = jnp.pad(codes[:, :-1], ((0, 0), (1, 0), (1, 1)), constant_values=outside)
    above = [padded[:, :, i : i + width].reshape(batch, -1) for i in range(3)]
    return jnp.stack([before, *above], axis=-1)
