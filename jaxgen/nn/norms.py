"""LayerNorm and RMSNorm with float32 statistics."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import mup


def layer_norm(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """LayerNorm over the last axis without gain or bias, as before an adaptive modulation; returns the dtype of `x`."""
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + epsilon)).astype(x.dtype)


class LayerNorm(nn.Module):
    """LayerNorm over the model's width with a gain and a bias (Ba et al., arXiv 1607.06450).

    Attributes:
      width: D, the size of the last axis.
      scale: μP multipliers of the model.
    """

    width: int
    scale: mup.Scale
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., D] in the dtype of `x`."""
        axis = (("embed_out", self.width),)
        gain = mup.param(self, "gain", outputs=axis, kind="gain")
        bias = mup.param(self, "bias", outputs=axis, kind="bias")
        return (layer_norm(x.astype(jnp.float32), self.epsilon) * gain + bias).astype(x.dtype)


RMS_EPSILON = 1e-6


class Gain(nn.Module):
    """The gain of an RMSNorm alone, under the same name: for who normalizes elsewhere.

    Attributes:
      axis: name and size of the last axis.
      scale: μP multipliers of the model.
    """

    axis: mup.AxisSize
    scale: mup.Scale

    @nn.compact
    def __call__(self) -> jax.Array:
        """float32 [size of the axis]."""
        return mup.param(self, "gain", outputs=(self.axis,), kind="gain")


class RMSNorm(Gain):
    """RMSNorm over the last axis with a gain (Zhang and Sennrich, arXiv 1910.07467)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gain = mup.param(self, "gain", outputs=(self.axis,), kind="gain")
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + RMS_EPSILON)
        return (wide * gain).astype(x.dtype)
