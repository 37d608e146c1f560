"""The linear layer, over any number of input and output axes, under μP."""

from __future__ import annotations

import math

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
      split: where the parts along the first output axis come apart, as a tuple; an axis of a few in front of others would be laid
        out anew on a TPU, forward and backward. "after": cut from one product. "before": each from a product of its own, for parts
        that are wide: a stack of layers keeps them for the backward pass, and copies out as a whole what was one product.
      gather: every device gets the whole kernel for its part of the batch. Otherwise the kernel stays divided, and the caller gives
        all devices the whole input: for inputs so few that they are smaller than the kernel.
    """

    inputs: tuple[mup.AxisSize, ...]
    outputs: tuple[mup.AxisSize, ...]
    scale: mup.Scale
    kind: str = "dense"
    bias: bool = True
    std: float | None = None
    split: str | None = None
    gather: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array | tuple[jax.Array, ...]:
        """[..., inputs] to [..., outputs], computed in the dtype of `x`; with `split` to arrays [..., outputs[1:]]."""
        kernel = mup.param(self, "kernel", inputs=self.inputs, outputs=self.outputs, kind=self.kind, std=self.std)
        if self.kind == "output":
            x = x * mup.forward_multiplier(self.scale, self.inputs)
        # Gathered in the dtype of the computation, which may be half as wide.
        place = sharding.gathered if self.gather else sharding.constrain
        kernel, names = kernel.astype(x.dtype), [axis[0] for axis in (*self.inputs, *self.outputs)]
        count = len(self.inputs)
        if len(self.outputs) == 1 or jax.sharding.get_abstract_mesh().shape.get("tensor", 1) > 1:
            kernel = place(kernel, *names)
            # Divided over `tensor`, a part is not in one piece within the whole.
            kernels = jnp.moveaxis(kernel, count, 0) if self.split else (kernel,)
            parts = tuple(_product(x, part, count) for part in kernels)
        else:
            # Flat before it is gathered, and its gradient flat until it is scattered, which the barrier sees to: a TPU is slower at
            # a gradient of more than two axes, and lays out anew what it knows of all tokens for it.
            sizes, names = kernel.shape[count:], (*names[:count], None if self.split else names[count])
            kernel = jax.lax.optimization_barrier(kernel.reshape(*kernel.shape[:count], -1))
            kernel = place(sharding.constrain(kernel, *names), *names)
            kernels = jnp.split(kernel, sizes[0], axis=-1) if self.split == "before" else (kernel,)
            flat = [_product(x, one, count) for one in kernels]
            if self.split == "after":
                flat = jnp.split(flat[0], sizes[0], axis=-1)
            parts = tuple(part.reshape(*part.shape[:-1], *sizes[bool(self.split) :]) for part in flat)
        if self.bias:
            bias = mup.param(self, "bias", outputs=self.outputs, kind="bias", of=self.inputs).astype(x.dtype)
            parts = tuple(part + one for part, one in zip(parts, bias if self.split else (bias,), strict=True))
        return parts if self.split else parts[0]


def _product(x: jax.Array, kernel: jax.Array, count: int) -> jax.Array:
    """x [..., inputs] and kernel [inputs, outputs] to [..., outputs], over `count` inputs.

    As a product of two matrices: a TPU pads the last two axes of an array to tiles, which heads do not fill, and computes the
    padding too.
    """
    rows, outputs = x.shape[: x.ndim - count], kernel.shape[count:]
    matrix = kernel.reshape(math.prod(kernel.shape[:count]), math.prod(outputs))
    y = matrix_product(x.reshape(*rows, -1), matrix)
    return y.reshape(*rows, *outputs)


def matrix_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """x [..., I] and matrix [I, O], of one dtype, to [..., O] in it.

    Arrays of float32 are multiplied as such, unless JAX's default precision of products is "bfloat16": then they are rounded to it,
    forward and backward, and summed in float32.
    """
    if x.dtype == jnp.float32 and jax.config.jax_default_matmul_precision == "bfloat16":
        return _rounded(x, matrix)
    return jax.lax.dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())), precision=precision(x))


# Derivatives by hand: those that JAX finds would round gradients of inputs once more, and multiply float32 by bfloat16, which
# matrix units do not.
@jax.custom_vjp
def _rounded(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return _rounded_forward(x, matrix)[0]


def _rounded_forward(x: jax.Array, matrix: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    inputs = x.astype(jnp.bfloat16), matrix.astype(jnp.bfloat16)
    return _summed("...i,io->...o", *inputs), inputs


def _rounded_backward(inputs: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, matrix = inputs
    gradient = gradient.astype(jnp.bfloat16)
    return _summed("...o,io->...i", gradient, matrix), _summed("...i,...o->io", x, gradient)


def _summed(letters: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(letters, a, b, preferred_element_type=jnp.float32)


_rounded.defvjp(_rounded_forward, _rounded_backward)


def precision(x: jax.Array) -> jax.lax.Precision:
    """HIGHEST for float32, which a TPU would otherwise multiply in bfloat16 passes; DEFAULT for the rest."""
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
