"""The last layer of a diffusion transformer: modulated LayerNorm and the output map, zero at the start."""

from __future__ import annotations

import flax.linen as nn
import jax

from jaxgen import mup
from jaxgen.nn.linear import Linear
from jaxgen.nn.modulation import Gates, Modulation, modulate


class VelocityHead(nn.Module):
    """From the model's width to the values of a patch.

    Attributes:
      values: p·p·C, the size of a token of the result.
      condition: width of the conditioning vector where it is another than `width`.
      silu: False where the vector comes with its SiLU taken, once for all layers.
    """

    width: int
    values: int
    gates: Gates
    scale: mup.Scale
    condition: int | None = None
    silu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, c: jax.Array) -> jax.Array:
        """x [B, L, D] and c [B, 1 or L, condition] to [B, L, values]."""
        shift, scale = Modulation(2, self.width, self.scale, self.gates, self.condition, self.silu, name="modulation")(c)
        outputs = (("patch", self.values),)
        return Linear((("embed", self.width),), outputs, self.scale, kind="output", std=0.0, name="out")(modulate(x, shift, scale))
