"""Embeddings of time, tables and fixed positions."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import mup
from jaxgen.nn.linear import Linear
from jaxgen.nn.norms import RMSNorm
from jaxgen.parallel.sharding import constrain

TIME_FEATURES = 256


def sinusoid(values: jax.Array, features: int, max_period: float = 10_000.0) -> jax.Array:
    """[...] to [..., features], cosines then sines at geometrically spaced frequencies 1 … 1/max_period; float32."""
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(features // 2, dtype=jnp.float32) / (features // 2))
    angles = values.astype(jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def position_sinusoid(positions: jax.Array, width: int) -> jax.Array:
    """Fixed embedding of coordinates [..., axes] as [..., width], an equal share of the width per axis."""
    count = positions.shape[-1]
    parts = [sinusoid(positions[..., axis], width // count) for axis in range(count)]
    return jnp.concatenate(parts, axis=-1)


class TimeEmbedding(nn.Module):
    """Sinusoid of factor·t, then a two-layer SiLU network (Peebles and Xie, arXiv 2212.09748); float32 throughout.

    Attributes:
      factor: what t is multiplied by, 1000 where the slowest and the fastest sinusoid are to turn as over 1000 discrete steps.
      max_period: of the sinusoids over that of the fastest of them.
    """

    width: int
    scale: mup.Scale
    factor: float = 1000.0
    max_period: float = 10_000.0

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        """t [...] in [0, 1] to [..., D]."""
        hidden = Linear((("features", TIME_FEATURES),), (("embed_out", self.width),), self.scale, name="in")(
            sinusoid(self.factor * t, TIME_FEATURES, self.max_period)
        )
        return Linear((("embed", self.width),), (("embed_out", self.width),), self.scale, name="out")(nn.silu(hidden))


class Table(nn.Module):
    """A lookup table of `rows` vectors of the model's width.

    Attributes:
      axis: name of the row axis ("vocabulary" or "position").
      std: initial standard deviation, the same at every width.
    """

    axis: str
    rows: int
    width: int
    scale: mup.Scale
    std: float = 1.0

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Integer ids [...] to float32 [..., D]."""
        table = mup.param(
            self,
            "table",
            inputs=((self.axis, self.rows),),
            outputs=(("embed_out", self.width),),
            kind="embedding",
            std=self.std,
        )
        return jnp.take(table, ids, axis=0)


class NgramLayer(nn.Module):
    """Adds to each word a map of the words around it, normalized: what an n-gram says that its words do not, wherever it stands.

    Attributes:
      reach: neighbours on each side.
    """

    width: int
    scale: mup.Scale
    reach: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, segments: jax.Array) -> jax.Array:
        """[B, S, D] and segments [B, S] (0 absent) to [B, S, D]; other segments are no neighbours."""
        window = 2 * self.reach + 1
        y = RMSNorm(("embed_out", self.width), self.scale, name="norm")(x)
        around = jnp.stack(
            [jnp.where(mine[..., None], near, 0) for near, mine in _shifted(y, segments, self.reach)],
            axis=2,
        )
        inputs = (("neighbour", window), ("embed", self.width))
        y = Linear(inputs, (("embed_out", self.width),), self.scale, bias=False, name="map")(around)
        return x + jnp.square(nn.relu(y))


class NgramEmbedding(nn.Module):
    """Embeds ids together with their neighbours, for ids so small (bytes) that one alone says little.

    Each place gets the sum of a vector for its own id and one for each neighbour within `reach`, from tables that differ by
    distance, then SiLU and a linear map: features of the n-gram around the place, wherever in the text it stands.

    Attributes:
      rows: number of ids.
      reach: neighbours on each side.
      std: initial standard deviation of the tables, the same at every width.
    """

    rows: int
    width: int
    scale: mup.Scale
    reach: int = 2
    std: float = 0.5

    @nn.compact
    def __call__(self, ids: jax.Array, segments: jax.Array) -> jax.Array:
        """Integer ids [B, S] and their segments [B, S] (0 absent) to float32 [B, S, D]; other segments are no neighbours."""
        window = 2 * self.reach + 1
        tables = mup.param(
            self,
            "tables",
            inputs=(("neighbour", window), ("vocabulary", self.rows)),
            outputs=(("embed_out", self.width),),
            kind="embedding",
            std=self.std,
        )
        total = 0.0
        for table, (near, mine) in zip(tables, _shifted(ids, segments, self.reach), strict=True):
            total += jnp.where(mine[..., None], jnp.take(table, near, axis=0), 0.0)
        # Tables are no activations: without this, devices that share them out look up, and differentiate, the whole batch.
        total = constrain(total, "batch", "length", "activation_embed")
        return Linear((("embed", self.width),), (("embed_out", self.width),), self.scale, name="out")(nn.silu(total))


def _shifted(x: jax.Array, segments: jax.Array, reach: int) -> list[tuple[jax.Array, jax.Array]]:
    """x [B, S, ...] as seen from `reach` places before to as many behind, and [B, S] where that is of the same segment."""
    rest = ((0, 0),) * (x.ndim - 2)
    edge = ((0, 0), (reach, reach))
    padded, owners = jnp.pad(x, (*edge, *rest)), jnp.pad(segments, edge)
    spans = [slice(place, place + x.shape[1]) for place in range(2 * reach + 1)]
    return [(padded[:, span], (owners[:, span] == segments) & (segments > 0)) for span in spans]
