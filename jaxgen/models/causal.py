"""A causal transformer over the codes of a picture behind its text, one code after another in row-major order.

Text and picture are one sequence with one set of weights, as in LlamaGen (Sun et al., arXiv 2406.06525) and SimpleAR (Wang et al.,
arXiv 2504.11455); text is read as a whole, a picture from the first code on. Between them may stand a plan, ids that the model
writes before it draws: what is where in the picture, as language models lay out scenes for a generator (Feng et al., LayoutGPT,
arXiv 2305.15393), or reason before they draw (Fang et al., GoT, arXiv 2503.10639).

Two things help a small network, which would have to learn them: a place is given what lies left of it and in the row above, the
pixels that a picture is most predictable from (van den Oord et al., arXiv 1601.06759), and a word its neighbours. Rotations count
text and plan along the diagonal before the first code, and rows and columns apart behind (Wang et al., arXiv 2409.12191, §2.1, for
one picture).
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
"""Keys and values of all blocks, [layers, B, S + P + L, N, K] each: of S places of text, P of the plan, then of L codes."""

PLAN = "plan"
"""Name of the plan among streams and among the fields of data."""

PLAN_REACH = 3
"""Ids of a plan that the next one is given: what has been said of an object."""

START = Start((("*.kernel", normal(0.02)), ("*.tables", normal(0.02))))
"""As language models of this kind start, SimpleAR's Qwen2.5 among them (`initializer_range`)."""

KINDS = (BlockKind(causal=False, sees=()), BlockKind(causal=True, sees=(0,)), BlockKind(causal=True, sees=(0, 1)))
"""Text, plan and picture."""


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
    """Predicts each code of a picture from its text, its plan and the codes before it, and each id of the plan likewise.

    An example without text and plan is predicted from codes alone.

    Attributes:
      head_dim: K, a multiple of 4.
      codes: number of codes, as the autoencoder's quantizer has them.
      plan: number of ids in plans; 0 has no plan.
      vocabulary: number of text ids. text_depth: layers that read text alone, each two words further.
      activation: of the feed-forward layers, a name in `nn.mlp.ACTIVATIONS`.
    """

    codes: int = 125
    plan: int = 0
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
        for name, least in (("codes", 2), ("plan", 0), ("vocabulary", 2), ("text_depth", 0)):
            if getattr(self, name) < least:
                raise types.BadInput(name, getattr(self, name), f"at least {least}")

    def check(self, experiment: Any) -> None:
        """The tables must hold the data's text, which is ids, and the data's plans."""
        text = experiment.data.features().get("text")
        if text is None:
            return  # the objective names the streams that are missing
        if text.ndim > 1:
            raise types.BadInput("model", type(self).__name__, "another model: this one reads ids, and the data's text is features")
        interface.require_rows("model.vocabulary", self.vocabulary, experiment.data, "text")
        if self.plan:
            interface.require_streams((PLAN,), experiment.data)
            interface.require_rows("model.plan", self.plan, experiment.data, PLAN)

    def setup(self) -> None:
        scale, block_scale = self.scale, self.block_scale
        embed, embed_out = (("embed", self.width),), (("embed_out", self.width),)
        self.text_ids = NgramEmbedding(self.vocabulary, self.width, scale)
        self.text_layers = [NgramLayer(self.width, scale) for _ in range(self.text_depth)]
        self.neighbours = Neighbours(4, "codes", self.codes, self.width, scale)
        block = scanned(CausalBlock, self.depth, self.remat, broadcast=3, per_layer=1)
        like = (self.width, self.head_dim, self.mlp_ratio, self.activation, block_scale, self.context_attention)
        self.blocks = block(*like)
        self.norm = RMSNorm(embed_out[0], scale)
        self.logits = Linear(embed, (("codes", self.codes),), scale, kind="output", std=0.0)
        if self.plan:
            self.plan_neighbours = Neighbours(PLAN_REACH, "vocabulary", self.plan, self.width, scale)
            self.plan_logits = Linear(embed, (("vocabulary", self.plan),), scale, kind="output", std=0.0)

    def __call__(self, codes: jax.Array, streams: dict[str, types.Condition], dtype: Any) -> tuple[jax.Array, jax.Array | None]:
        """Logits of every code of a picture, and of every id of its plan.

        Args:
          codes: [B, h, w] int32; a code is predicted from those before it in row-major order.
          streams: "text" of ids [B, S]; of a model with plans also "plan" of ids [B, P], each predicted from those before it; the
            last only ends a plan, and no code depends on it.
          dtype: in which to compute.

        Returns:
          [B, h·w, codes] float32, and [B, P, plan] float32 or None.
        """
        text, (batch, *grid) = streams["text"], codes.shape
        places = self._places(jnp.arange(grid[0] * grid[1]), grid)
        marks = self.neighbours(neighbouring(codes, self.codes)) + position_sinusoid(places, self.width)
        # As they follow each other: what is read, and its segments.
        parts = [(self._text(text, dtype), text.segments)]
        if self.plan:
            plan = streams[PLAN]
            parts += [(self._planned(preceding(interface.present(plan), self.plan), 0, dtype), plan.segments)]
        parts += [(marks.astype(dtype), jnp.ones(marks.shape[:2], jnp.int32))]
        x = constrain(jnp.concatenate([x for x, _ in parts], axis=1), "batch", "length", "activation_embed")
        segments = jnp.concatenate([own for _, own in parts], axis=1)
        known = x.shape[1] - len(places)
        positions = jnp.concatenate([self._before(0, known, known), places])
        kinds = (0, 1, 2) if self.plan else (0, 2)
        kind = jnp.concatenate([jnp.full(own.shape, k, jnp.int32) for k, (_, own) in zip(kinds, parts, strict=True)], axis=1)
        blocks = MaskBlocks(kind, kind)
        mask = Mask(segments, segments, blocks, blocks, kinds=KINDS)
        x, _ = self.blocks(x, None, self._rows(positions, batch), mask, 0)
        planned = self._read(x[:, text.values.shape[1] : known], self.plan_logits) if self.plan else None
        return self._read(x[:, known:], self.logits), planned

    def begin(self, streams: dict[str, types.Condition], plan: int, grid: tuple[int, int], dtype: Any) -> Cache:
        """The cache of a picture of this many rows and columns behind a plan of so many ids; the text [B, S] alone is there."""
        text = streams["text"]
        batch, length = text.values.shape
        shape = (self.depth, batch, length + plan + grid[0] * grid[1], self.width // self.head_dim, self.head_dim)
        cache = jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)
        positions = self._rows(self._before(0, length, length + plan), batch)
        mask = Mask(text.segments, self._written((text,), shape[2], length))
        return self.blocks(self._text(text, dtype), cache, positions, mask, 0)[1]

    def plan_step(self, place: jax.Array, cache: Cache, streams: dict[str, types.Condition]) -> tuple[jax.Array, Cache]:
        """Logits [B, plan] float32 of the id of a plan at `place`, and the cache with it.

        Args:
          cache: as of `begin`, with all places in front.
          streams: with the plan, of which what stands from `place` on is not read.
        """
        text, plan = streams["text"], streams[PLAN]
        length, size = text.values.shape[1], plan.values.shape[1]
        around = jax.lax.dynamic_slice_in_dim(preceding(plan.values, self.plan), place, 1, axis=1)
        x = self._planned(around, place, cache[0].dtype)
        position = self._before(length + place, 1, length + size)
        x, cache = self._next(x, position, length + place, cache, (text, plan))
        return self._read(x, self.plan_logits)[:, 0], cache

    def step(
        self, codes: jax.Array, place: jax.Array, cache: Cache, streams: dict[str, types.Condition]
    ) -> tuple[jax.Array, Cache]:
        """Logits [B, codes] float32 of one code, and the cache with its place.

        Args:
          codes: [B, h, w] int32, known in front of `place`, a number in row-major order. What stands from there on is not read.
          cache: as of `begin`, with the plan and all places in front.
        """
        before = (streams["text"], streams[PLAN]) if self.plan else (streams["text"],)
        around = jax.lax.dynamic_slice_in_dim(neighbouring(codes, self.codes), place, 1, axis=1)
        position = self._places(place[None], codes.shape[1:])
        x = (self.neighbours(around) + position_sinusoid(position, self.width)).astype(cache[0].dtype)
        start = sum(stream.values.shape[1] for stream in before)
        x, cache = self._next(x, position, start + place, cache, before)
        return self._read(x, self.logits)[:, 0], cache

    def _next(
        self, x: jax.Array, position: jax.Array, start: jax.Array, cache: Cache, before: tuple[types.Condition, ...]
    ) -> tuple[jax.Array, Cache]:
        """One token x [B, 1, D] through the blocks, which see what is written up to `start`, its own index."""
        mask = Mask(jnp.ones((len(x), 1), jnp.int32), self._written(before, cache[0].shape[2], start + 1))
        return self.blocks(x, cache, self._rows(position, len(x)), mask, start)

    def _text(self, text: types.Condition, dtype: Any) -> jax.Array:
        x = self.text_ids(interface.present(text), text.segments).astype(dtype)
        for layer in self.text_layers:
            x = layer(x, text.segments)
        return x

    def _planned(self, around: jax.Array, start: jax.Array | int, dtype: Any) -> jax.Array:
        """Places of a plan from `start` on, by the ids before each, [B, n, PLAN_REACH] to [B, n, D]."""
        places = (start + jnp.arange(around.shape[1]))[:, None]
        return (self.plan_neighbours(around) + position_sinusoid(places, self.width)).astype(dtype)

    def _read(self, x: jax.Array, logits: Linear) -> jax.Array:
        return logits(self.norm(x)).astype(jnp.float32)

    @staticmethod
    def _places(numbers: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Row and column [n, 2] of places [n]."""
        return jnp.stack([numbers // grid[1], numbers % grid[1]], axis=-1).astype(jnp.float32)

    @staticmethod
    def _before(start: jax.Array | int, count: int, known: int) -> jax.Array:
        """Positions [count, 2] of places from `start` on, of `known` before the first code."""
        return jnp.stack(2 * [start + jnp.arange(count, dtype=jnp.float32) - known], axis=-1)

    @staticmethod
    def _rows(positions: jax.Array, batch: int) -> jax.Array:
        return jnp.broadcast_to(positions, (batch, *positions.shape))

    @staticmethod
    def _written(before: tuple[types.Condition, ...], size: int, known: jax.Array | int) -> jax.Array:
        """Segments [B, size] of a cache of which the first `known` places are written."""
        segments = jnp.concatenate([stream.segments for stream in before], axis=1)
        rest = jnp.ones((len(segments), size - segments.shape[1]), jnp.int32)
        return jnp.where(jnp.arange(size) < known, jnp.concatenate([segments, rest], axis=1), 0)


class Neighbours(nn.Module):
    """The sum of a vector for each id around a place, from tables that differ by direction.

    Attributes:
      count: ids around a place.
      axis: name of the axis of ids. ids: how many there are; one more stands for none.
    """

    count: int
    axis: str
    ids: int
    width: int
    scale: mup.Scale

    @nn.compact
    def __call__(self, around: jax.Array) -> jax.Array:
        """Ids [B, L, count] to float32 [B, L, D]."""
        axes = (("neighbour", self.count), (self.axis, self.ids + 1))
        embed_out = (("embed_out", self.width),)
        tables = mup.param(self, "tables", inputs=axes, outputs=embed_out, kind="embedding", std=0.5)
        found = sum(jnp.take(tables[i], around[..., i], axis=0) for i in range(self.count))
        return constrain(found, "batch", "length", "activation_embed")


def preceding(ids: jax.Array, outside: int) -> jax.Array:
    """Ids [B, P] to the `PLAN_REACH` before each place, the nearest first, [B, P, PLAN_REACH]; `outside` where there is none."""
    padded = jnp.pad(ids, ((0, 0), (PLAN_REACH, 0)), constant_values=outside)
    return jnp.stack([padded[:, PLAN_REACH - i : PLAN_REACH - i + ids.shape[1]] for i in range(1, PLAN_REACH + 1)], axis=-1)


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
