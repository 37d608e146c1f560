"""Distributions of training times t in (0, 1), where 1 is noise."""

from __future__ import annotations

import dataclasses

import jax

from jaxgen import types


@dataclasses.dataclass(frozen=True)
class Uniform:
    """t uniform on (0, 1)."""

    def __call__(self, key: jax.Array, count: int) -> jax.Array:
        return jax.random.uniform(key, (count,))


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
        return jax.nn.sigmoid(self.mean + self.std * jax.random.normal(key, (count,)))
