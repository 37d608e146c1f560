"""Finite scalar quantization: latents rounded to a fixed grid, whose points are the codes (Mentzer et al., arXiv 2309.15505).

There is no codebook to learn and none to collapse: channel i of a latent takes one of levels[i] values, evenly spaced in [-1, 1],
and a code is the number that these make as digits of a mixed base, the first channel counting ones.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import types


@dataclasses.dataclass(frozen=True)
class FiniteScalar:
    """The grid.

    Attributes:
      levels: values of each channel of a latent. Their product is the number of codes.
    """

    levels: tuple[int, ...] = (5, 5, 5)

    def validate(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise types.BadInput("levels", self.levels, "at least one channel, each with at least 2 values")

    @property
    def size(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Any numbers [..., channels] to points of the grid, in [-1, 1]: the nearest to their tanh, whose gradient is theirs."""
        top = self._tops(x.dtype)
        # Counted from the lowest value, so that an even number of them lies evenly around 0 too.
        bounded = top * jnp.tanh(x) + top
        return (bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)) / top - 1

    def codes(self, latents: jax.Array) -> jax.Array:
        """Points of the grid [..., channels] to their numbers [...] int32."""
        digits = jnp.round((latents + 1) * self._tops(latents.dtype)).astype(jnp.int32)
        return jnp.sum(digits * jnp.asarray(self._places), axis=-1)

    def latents(self, codes: jax.Array) -> jax.Array:
        """The other way, float32."""
        digits = codes[..., None] // jnp.asarray(self._places) % jnp.asarray(self.levels)
        return digits / self._tops(jnp.float32) - 1

    def _tops(self, dtype: jnp.dtype) -> jax.Array:
        return (jnp.asarray(self.levels, dtype) - 1) / 2

    @property
    def _places(self) -> np.ndarray:
        return np.cumprod((1, *self.levels[:-1])).astype(np.int32)
