"""The linear layer, over any number of input and output axes, under μP."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import axes, mup
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
      gather: every device gets the whole kernel for its part of the batch. Otherwise the kernel stays divided, and the caller gives
        all devices the whole input: for inputs so few that they are smaller than the kernel.
    """

    inputs: tuple[mup.AxisSize, ...]
    outputs: tuple[mup.AxisSize, ...]
    scale: mup.Scale
    kind: str = "dense"
    bias: bool = True
    std: float | None = None
    gather: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., inputs] to [..., outputs], computed in the dtype of `x`."""
        kernel = mup.param(self, "kernel", inputs=self.inputs, outputs=self.outputs, kind=self.kind, std=self.std)
        if self.kind == "output":
            x = x * mup.forward_multiplier(self.scale, self.inputs)
        # Gathered in the dtype of the computation, which may be half as wide.
        place = sharding.gathered if self.gather else sharding.constrain
        kernel = place(kernel.astype(x.dtype), *(axis[0] for axis in (*self.inputs, *self.outputs)))
        # Divided over `tensor`, a width is no longer in one piece behind an axis that only counts.
        tensor = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
        apart = tensor > 1 and len(self.outputs) > 1 and not axes.AXES[self.outputs[0][0]].width
        y = _product(x, kernel, len(self.inputs), apart)
        if self.bias:
            y = y + mup.param(self, "bias", outputs=self.outputs, kind="bias", of=self.inputs).astype(x.dtype)
        return y


def _product(x: jax.Array, kernel: jax.Array, count: int, apart: bool) -> jax.Array:
    """x [..., inputs] and kernel [inputs, outputs] to [..., outputs], over `count` inputs; `apart` for each first output alone.

    All as products of two matrices: a TPU pads the last two axes of an array to tiles, which heads do not fill, and computes the
    padding too.
    """
    if apart:
        parts = [_product(x, part, count, False) for part in jnp.moveaxis(kernel, count, 0)]
        return jnp.stack(parts, axis=x.ndim - count)
    rows, outputs = x.shape[: x.ndim - count], kernel.shape[count:]
    matrix = kernel.reshape(math.prod(kernel.shape[:count]), math.prod(outputs))
    contracted = (x.ndim - count,), (0,)
    y = jax.lax.dot_general(x.reshape(*rows, -1), matrix, (contracted, ((), ())), precision=precision(x))
    return y.reshape(*rows, *outputs)


def precision(x: jax.Array) -> jax.lax.Precision:
    """HIGHEST for float32, which a TPU would otherwise multiply in bfloat16 passes; DEFAULT for the rest."""
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
