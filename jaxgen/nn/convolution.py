"""Convolutions over tokens that lie on a grid: the layer, and residual blocks, plain and under a conditioning vector."""

from __future__ import annotations

import flax.linen as nn
import jax

from jaxgen import mup
from jaxgen.nn import norms
from jaxgen.nn.linear import precision
from jaxgen.nn.modulation import Gates, Modulation, modulate
from jaxgen.parallel.sharding import constrain


class Convolution(nn.Module):
    """Convolution of 3 × 3 tokens with zeros around the grid.

    Attributes:
      width: channels, in and out.
      scale: μP multipliers of the model.
      axes: names of the channels, in and out; others than these where they do not grow with the model's width.
      bias: adds a bias, zero at the start.
    """

    width: int
    scale: mup.Scale
    axes: tuple[str, str] = ("embed", "embed_out")
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """[B, rows·columns, C] in row-major order on a grid of (rows, columns) to the same shape, in the dtype of `x`."""
        inputs, outputs = (("neighbour", 9), (self.axes[0], self.width)), ((self.axes[1], self.width),)
        kernel = mup.param(self, "kernel", inputs=inputs, outputs=outputs, kind="dense")
        y = jax.lax.conv_general_dilated(
            x.reshape(x.shape[0], *grid, self.width),
            kernel.reshape(3, 3, self.width, self.width).astype(x.dtype),
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision(x),
        )
        if self.bias:
            y = y + mup.param(self, "bias", outputs=outputs, kind="bias", of=inputs).astype(x.dtype)
        return y.reshape(x.shape)


class ConvolutionBlock(nn.Module):
    """Two convolutions, the first modulated and the sum gated by the conditioning vector: the ResNet block of diffusion
    U-Nets (Dhariwal and Nichol, arXiv 2105.05233) in a variant with the modulation and gate of a DiT block.

    Attributes:
      width: channels. condition: width of the conditioning vector.
    """

    width: int
    condition: int
    gates: Gates
    scale: mup.Scale

    @nn.compact
    def __call__(self, x: jax.Array, c: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """x [B, L, C] on a grid of L tokens, c [B, 1 or L, D]; returns [B, L, C]."""
        shift, scale, gate = Modulation(3, self.width, self.scale, self.gates, self.condition, name="modulation")(c)
        hidden = Convolution(self.width, self.scale, name="in")(modulate(x, shift, scale), grid)
        hidden = Convolution(self.width, self.scale, name="out")(nn.silu(norms.layer_norm(hidden)), grid)
        return constrain(x + gate * hidden, "batch", "length", "activation_embed")


class ResidualBlock(nn.Module):
    """Two convolutions, each behind a norm and the first SiLU between them, as in the autoencoders of latent diffusion (Rombach et
    al., arXiv 2112.10752), with LayerNorm of each token.

    Attributes:
      width: channels.
    """

    width: int
    scale: mup.Scale

    @nn.compact
    def __call__(self, x: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """x [B, L, C] on a grid of L tokens; returns [B, L, C]."""
        hidden = Convolution(self.width, self.scale, name="in")(norms.layer_norm(x), grid)
        hidden = Convolution(self.width, self.scale, name="out")(nn.silu(norms.layer_norm(hidden)), grid)
        return constrain(x + hidden, "batch", "length", "activation_embed")
