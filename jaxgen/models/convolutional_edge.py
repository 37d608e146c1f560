"""Convolutions where pictures enter and leave a transformer: few tokens to attend over, and crisp shapes all the same.

Patches are cut finer than tokens, convolved, merged into tokens and convolved again; behind the transformer tokens are convolved,
split, added to what went in, and convolved to the velocity: a U-Net of two levels with the transformer in its middle (Hoogeboom et
al., simple diffusion, arXiv 2301.11093). Convolutions see how neighbouring pixels hang together from the first steps on, so a small
model learns shapes from a fraction of the examples that attention over patches takes.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import mup, types
from jaxgen.nn import norms
from jaxgen.nn.convolution import ConvolutionBlock
from jaxgen.nn.linear import Linear
from jaxgen.nn.modulation import Gates
from jaxgen.nn.patches import joined, patches
from jaxgen.nn.velocity_head import VelocityHead


@dataclasses.dataclass(frozen=True)
class ConvolutionalEdge:
    """Attributes:
    split: finer patches along each side of a token; their width is the model's over `split`.
    before, after: convolution blocks of finer patches on either side of the transformer.
    inner: convolution blocks of tokens on each side of the transformer, between it and the finer patches.
    """

    split: int = 2
    before: int = 2
    after: int = 3
    inner: int = 2

    def validate(self) -> None:
        if self.split < 1:
            raise types.BadInput("split", self.split, "1 or more")
        for name in ("before", "after", "inner"):
            if getattr(self, name) < 0:
                raise types.BadInput(name, getattr(self, name), "0 or more")


class ConvolutionalStem(nn.Module):
    """From token values to tokens.

    Attributes:
      edge: number and fineness of the blocks.
      width: D of the transformer. patch: side of a token in latents. channels: of the latents.
    """

    edge: ConvolutionalEdge
    width: int
    patch: int
    channels: int
    gates: Gates
    scale: mup.Scale

    @nn.compact
    def __call__(self, tokens: types.Tokens, c: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Tokens of values [B, L, p·p·C] and c [B, 1 or L, D] to the transformer's [B, L, D], and what `ConvolutionalHead` adds
        again, [B, L·split², D/split].
        """
        split, fine, grid = self.edge.split, self.width // self.edge.split, _finer(tokens, self.edge.split)
        side = self.patch // split
        x = patches(joined(tokens.values, tokens.grid, self.patch), side)
        inputs = (("patch", side * side * self.channels),)
        x = Linear(inputs, (("embed_out", fine),), self.scale, name="patches")(x)
        c_fine = _for_finer(c, tokens, split)
        for i in range(self.edge.before):
            x = ConvolutionBlock(fine, self.width, self.gates, self.scale, name=f"block_{i}")(x, c_fine, grid)
        inner = patches(x.reshape(x.shape[0], *grid, fine), split).reshape(x.shape[0], -1, split * split, fine)
        merge = Linear((("neighbour", split * split), ("embed", fine)), (("embed_out", self.width),), self.scale, name="merge")
        y = merge(inner)
        for i in range(self.edge.inner):
            y = ConvolutionBlock(self.width, self.width, self.gates, self.scale, name=f"inner_{i}")(y, c, tokens.grid)
        return y, x


class ConvolutionalHead(nn.Module):
    """From tokens to the values of the velocity; attributes as of `ConvolutionalStem`."""

    edge: ConvolutionalEdge
    width: int
    patch: int
    channels: int
    gates: Gates
    scale: mup.Scale

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array, c: jax.Array, tokens: types.Tokens) -> jax.Array:
        """x [B, L, D], what the stem handed over, and c [B, 1 or L, D] to [B, L, p·p·C]."""
        split, fine, grid = self.edge.split, self.width // self.edge.split, _finer(tokens, self.edge.split)
        side = self.patch // split
        outputs = (("neighbour", split * split), ("embed_out", fine))
        for i in range(self.edge.inner):
            x = ConvolutionBlock(self.width, self.width, self.gates, self.scale, name=f"inner_{i}")(x, c, tokens.grid)
        x = Linear((("embed", self.width),), outputs, self.scale, name="split")(norms.layer_norm(x))
        x = skip + joined(x.reshape(*x.shape[:2], -1), tokens.grid, split).reshape(x.shape[0], -1, fine)
        c = _for_finer(c, tokens, split)
        for i in range(self.edge.after):
            x = ConvolutionBlock(fine, self.width, self.gates, self.scale, name=f"block_{i}")(x, c, grid)
        values = side * side * self.channels
        x = VelocityHead(fine, values, self.gates, self.scale, self.width, name="velocity")(x, c)
        return patches(joined(x, grid, side), self.patch)


def _finer(tokens: types.Tokens, split: int) -> tuple[int, int]:
    """Rows and columns of the finer grid."""
    if tokens.grid is None:
        raise ValueError("tokens: found packed ones, needed those of whole pictures; convolutions need neighbours on a grid")
    return tokens.grid[0] * split, tokens.grid[1] * split


def _for_finer(c: jax.Array, tokens: types.Tokens, split: int) -> jax.Array:
    """A conditioning vector for each token as one for each finer patch; one for all stays one."""
    if c.shape[1] == 1:
        return c
    x = c.reshape(c.shape[0], *tokens.grid, c.shape[-1])
    return jnp.repeat(jnp.repeat(x, split, axis=1), split, axis=2).reshape(c.shape[0], -1, c.shape[-1])
