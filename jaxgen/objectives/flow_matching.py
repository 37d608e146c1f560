"""Flow matching on images: the network predicts v = ε - x_0 at x_t = (1 - t) x_0 + t ε (arXiv 2210.02747, 2209.03003)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen import types
from jaxgen.objectives.denoising import Denoising
from jaxgen.objectives.timesteps import LogitNormal
from jaxgen.samplers import time_grids
from jaxgen.samplers.process import Flow


@dataclasses.dataclass(frozen=True)
class FlowMatching(Denoising):
    """Mean squared error of the velocity.

    Attributes:
      timesteps: distribution of t.
      base_pixels: pixels of a picture at which t is not shifted. A picture of m pixels has t shifted by α = √(m / base_pixels)
        towards noise (Esser et al., arXiv 2403.03206, §5.3.2); None never shifts.
    """

    timesteps: Any = dataclasses.field(
        default_factory=LogitNormal,
        metadata={
            "choices": {
                "logit_normal": "jaxgen.objectives.timesteps:LogitNormal",
                "uniform": "jaxgen.objectives.timesteps:Uniform",
            }
        },
    )
    base_pixels: int | None = None

    process = Flow()

    def validate(self) -> None:
        super().validate()
        if self.base_pixels is not None and self.base_pixels < 1:
            raise types.BadInput("base_pixels", self.base_pixels, "a positive number of pixels, or none")

    def times(self, key: jax.Array, count: int, pixels: int) -> jax.Array:
        t = self.timesteps(key, count)
        return t if self.base_pixels is None else time_grids.shift(t, math.sqrt(pixels / self.base_pixels))

    def errors(
        self, output: jax.Array, x_t: jax.Array, latents: jax.Array, noise: jax.Array, t: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        return jnp.mean((output - self.process.velocity(latents, noise)) ** 2, axis=(1, 2, 3)), {}
