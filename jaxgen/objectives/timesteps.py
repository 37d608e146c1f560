"""Distributions of training times t in (0, 1), where 1 is noise.

Each draw of n times takes one from each n-th part of the distribution, in random order: every t is distributed as stated, and the
mean over a batch varies less than with independent draws (Kingma et al., arXiv 2107.00630, appendix I.1).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxgen import types
from jaxgen.parallel import keys


@dataclasses.dataclass(frozen=True)
class Uniform:
    """t uniform on (0, 1)."""

    def __call__(self, key: jax.Array, count: int) -> jax.Array:
        return _stratified(key, count)


@dataclasses.dataclass(frozen=True)
class LogitNormal:
    """logit t normal (Esser et al., arXiv 2403.03206, eq. 19).

    Attributes:
      mean: of logit t; negative puts weight near the data.
      std: of logit t.
    """

    mean: float = 0.0
    std: float = 1.0

    def validate(self) -> None:
        if self.std <= 0:
            raise types.BadInput("std", self.std, "a positive standard deviation")

    def __call__(self, key: jax.Array, count: int) -> jax.Array:
        return jax.nn.sigmoid(self.mean + self.std * jax.scipy.special.ndtri(_stratified(key, count)))


def _stratified(key: jax.Array, count: int) -> jax.Array:
    """[count] uniform draws, one in each interval of length 1 / count, in random order; never 0 or 1."""
    order = jax.random.permutation(keys.stream(key, "order"), count)
    within = jax.random.uniform(keys.stream(key, "within"), (count,))
    return jnp.clip((order + within) / count, 1e-7, 1 - 1e-7)
