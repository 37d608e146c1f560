"""How published networks start (`mup.Parametrization.PUBLISHED`): what each parameter is drawn from, by patterns of its name."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen import mup

Draw = Callable[[int, int], mup.Initializer]
"""Fan-in and fan-out to what draws a parameter."""


@dataclasses.dataclass(frozen=True)
class Start:
    """A `mup.Start`.

    Attributes:
      rules: patterns of dotted names, as of `fnmatch`, and draws; the first that fits counts. What fits none starts as under the
        standard parametrization, biases at zero.
    """

    rules: tuple[tuple[str, Draw], ...]

    def initializer(self, name: str, fan_in: int, fan_out: int) -> mup.Initializer | None:
        draw = next((draw for pattern, draw in self.rules if fnmatch.fnmatchcase(name, pattern)), None)
        return None if draw is None else draw(fan_in, fan_out)


def zeros(fan_in: int, fan_out: int) -> mup.Initializer:
    return lambda key, shape: jnp.zeros(shape, jnp.float32)


def normal(std: float) -> Draw:
    """N(0, std²) at every size. Truncated two units from zero, as some code has it, that is the same for all that is small."""
    return lambda fan_in, fan_out: lambda key, shape: std * jax.random.normal(key, shape, jnp.float32)


def normal_over_width(fan_in: int, fan_out: int) -> mup.Initializer:
    """N(0, 1/fan_out), of tables whose rows are as wide as the model."""
    return normal(1 / math.sqrt(fan_out))(fan_in, fan_out)


def xavier_uniform(fan_in: int, fan_out: int) -> mup.Initializer:
    """Uniform of variance 2 / (fan_in + fan_out) (Glorot and Bengio, AISTATS 2010, equation 16)."""
    return _uniform(math.sqrt(6 / (fan_in + fan_out)))


def uniform_over_fan_in(fan_in: int, fan_out: int) -> mup.Initializer:
    """Uniform from -1/√fan_in to 1/√fan_in, with which weights and biases of PyTorch's layers start by themselves."""
    return _uniform(1 / math.sqrt(fan_in))


def _uniform(limit: float) -> mup.Initializer:
    return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -limit, limit)
