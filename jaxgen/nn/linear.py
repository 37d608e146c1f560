"""The linear layer, over any number of input and output axes, under μP."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import mup
from jaxgen.parallel import sharding


class Linear(nn.Module):
    """Contracts the trailing axes of its input with a kernel.

    Attributes:
      inputs: axes contracted, the trailing axes of the input.
      outputs: axes produced.
      scale: μP multipliers of the model.
      kind: "dense", or "output" for a map from width to a finite size.
      bias: adds a bias over the output axes, zero at the start.
      std: see `mup.param`; 0 starts the kernel at zero.
    """

    inputs: tuple[mup.AxisSize, ...]
    outputs: tuple[mup.AxisSize, ...]
    scale: mup.Scale
    kind: str = "dense"
    bias: bool = True
    std: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., inputs] to [..., outputs], computed in the dtype of `x`."""
        kernel = mup.param(self, "kernel", inputs=self.inputs, outputs=self.outputs, kind=self.kind, std=self.std)
        if self.kind == "output":
            x = x * mup.forward_multiplier(self.scale, self.inputs)
        count = len(self.inputs)
        contracted = tuple(range(x.ndim - count, x.ndim)), tuple(range(count))
        # Gathered in the dtype of the computation, which may be half as wide.
        kernel = sharding.gathered(kernel.astype(x.dtype), *(name for name, _ in (*self.inputs, *self.outputs)))
        y = jax.lax.dot_general(x, kernel, (contracted, ((), ())), precision=precision(x))
        if self.bias:
            y = y + mup.param(self, "bias", outputs=self.outputs, kind="bias").astype(x.dtype)
        return y


def precision(x: jax.Array) -> jax.lax.Precision:
    """HIGHEST for float32, which a TPU would otherwise multiply in bfloat16 passes; DEFAULT for the rest."""
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
