"""Adaptive layer norm: shifts, scales and gates from a conditioning vector (Peebles and Xie, arXiv 2212.09748)."""

from __future__ import annotations

import enum
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import mup
from jaxgen.nn import norms
from jaxgen.nn.linear import Linear
from jaxgen.parallel.sharding import constrain


class Gates(enum.StrEnum):
    """How modulation starts: adaLN-Zero, or N(0, 1/D) as in the published μP models (arXiv 2505.15270). Under the published
    parametrization it starts as its authors have it, whichever is asked for."""

    ZERO = "zero"
    RANDOM = "random"


class Modulation(nn.Module):
    """SiLU and a linear map from the conditioning vector to `count` vectors of width `width`.

    Attributes:
      condition: width of the conditioning vector where it is another than `width`.
      silu: False where the vector comes with its SiLU taken, once for all layers.
    """

    count: int
    width: int
    scale: mup.Scale
    gates: Gates = Gates.ZERO
    condition: int | None = None
    silu: bool = True

    @nn.compact
    def __call__(self, c: jax.Array) -> tuple[jax.Array, ...]:
        """c [B, M, condition] with M = 1 or L to `count` arrays [B, M, width]."""
        std = 0.0 if self.gates == Gates.ZERO else None
        condition = self.condition or self.width
        outputs = (("modulation", self.count), ("embed_out", self.width))
        # One vector a picture is a few rows, and the kernel as large as that of a feed-forward layer: it stays where it is.
        few = math.prod(c.shape[:2]) * (condition + self.count * self.width) < condition * self.count * self.width
        c = nn.silu(c) if self.silu else c
        if few:
            # Whole, then divided as the kernel is: so the product sums over devices instead of gathering the kernel.
            c = constrain(constrain(c, None, None, None), None, None, "embed")
        embed = ("embed", condition)
        vectors = Linear((embed,), outputs, self.scale, std=std, split="after", gather=not few, name="linear")(c)
        if few:
            # Whole first, so that gradients come back whole and the kernel's are made where they belong.
            whole = (constrain(vector, None, None, "activation_embed") for vector in vectors)
            vectors = tuple(constrain(vector, "batch", "length", "activation_embed") for vector in whole)
        return vectors


class ModulationTable(nn.Module):
    """adaLN-single: what a layer of its own adds to modulation that all layers share (Chen et al., arXiv 2310.00426, §2.3).

    Attributes:
      count: number of vectors.
      std: initial standard deviation of the table, the same at every width.
    """

    count: int
    width: int
    scale: mup.Scale
    std: float = 0.02

    @nn.compact
    def __call__(self, shared: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """`count` arrays [B, M, D] to as many."""
        outputs = (("embed_out", self.width),)
        inputs = (("modulation", self.count),)
        table = mup.param(self, "table", inputs=inputs, outputs=outputs, kind="embedding", std=self.std)
        return tuple(vector + table[i].astype(vector.dtype) for i, vector in enumerate(shared))


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """LayerNorm without gain or bias, then scale and shift; x [B, L, D], the others [B, 1 or L, D]."""
    return norms.layer_norm(x) * (1 + scale) + shift


def segment_mean(values: jax.Array, sources: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean of the values that share a target's segment.

    Args:
      values: [B, S, C]. sources: [B, S] segments of the values, 0 absent. targets: [B, M] segments that ask.

    Returns:
      Means [B, M, C] float32 (zero where nothing shares the segment) and a boolean [B, M], true where something does.
    """
    shares = (sources[:, None, :] == targets[:, :, None]) & (sources != 0)[:, None, :]
    weights = shares.astype(jnp.float32)
    count = jnp.sum(weights, axis=-1, keepdims=True)
    total = jnp.einsum("bms,bsc->bmc", weights, values.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    return total / jnp.maximum(count, 1.0), count[..., 0] > 0


def per_token(t: jax.Array, segments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Times and the segments that they belong to.

    Args:
      t: [B], one time for each row, or [B, L], one for each token (packed rows).
      segments: [B, L] of the tokens.

    Returns:
      Times [B, M] and segments [B, M] with M = 1 or L; a row with one time is one segment, numbered 1.
    """
    if t.ndim == 1:
        return t[:, None], jnp.ones((t.shape[0], 1), jnp.int32)
    return t, segments
