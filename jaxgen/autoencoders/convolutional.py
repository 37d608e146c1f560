"""A convolutional autoencoder of pictures: what latent diffusion models work on (Rombach et al., arXiv 2112.10752).

Latents have mean 0 and size 1 over the channels of each token, by a LayerNorm behind the encoder, and are decoded with noise of a
fixed size added in training (σ-VAE: Sun et al., arXiv 2412.08635; noisy decoding: Zheng et al., arXiv 2510.11690). So they need no
scale to be found after training and no weight of a divergence, and the decoder forgives small errors of a generator. With a
quantizer they are points of a grid instead, each with a number: what autoregressive models work on.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import mup, types
from jaxgen.autoencoders.finite_scalar import FiniteScalar
from jaxgen.mup import Scaling
from jaxgen.nn import norms
from jaxgen.nn.convolution import ResidualBlock
from jaxgen.nn.linear import Linear
from jaxgen.nn.patches import joined, patches


class ConvolutionalAutoencoder(nn.Module):
    """Encoder and decoder; each level halves the sides.

    Attributes:
      channels: of the pictures. latent_channels: C of the latents.
      width: channels of the finest level.
      multipliers: width of each level over `width`, the finest first.
      blocks: residual blocks of a level in the encoder; the decoder has one more.
      quantizer: makes latents discrete; None leaves them continuous.
      scaling: how hyper-parameters carry over between widths.
    """

    channels: int = 3
    latent_channels: int = 16
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 2
    quantizer: FiniteScalar | None = None
    scaling: Scaling = Scaling(base_width=32)

    streams = ()

    @property
    def factor(self) -> int:
        """Pixels along a side of a latent token."""
        return 2 ** len(self.multipliers)

    def validate(self) -> None:
        if self.latent_channels < 2:
            raise types.BadInput("latent_channels", self.latent_channels, "at least 2: each token's channels are normalised")
        if self.quantizer is not None and self.latent_channels != len(self.quantizer.levels):
            needed = f"{len(self.quantizer.levels)}, one for each of quantizer.levels={self.quantizer.levels}"
            raise types.BadInput("latent_channels", self.latent_channels, needed)
        if not self.multipliers or min(self.multipliers) < 1:
            raise types.BadInput("multipliers", self.multipliers, "the width of each level over `width`, at least one level")
        for name in ("channels", "width", "blocks"):
            if getattr(self, name) < 1:
                raise types.BadInput(name, getattr(self, name), "a positive number")

    def example(self) -> tuple[jax.Array, jax.Array]:
        """Arguments of `__call__` for one token, to make parameters with."""
        return jnp.zeros((1, self.factor, self.factor, self.channels)), jnp.zeros((1, 1, 1, self.latent_channels))

    def setup(self) -> None:
        scale = self.scaling.at(self.width)
        self.encoder = _Encoder(self.latent_channels, self._widths, self.channels, self.blocks, scale)
        self.decoder = _Decoder(self.latent_channels, self._widths, self.channels, self.blocks + 1, scale)

    def __call__(self, images: jax.Array, noise: jax.Array) -> jax.Array:
        """Pictures [B, H, W, channels] in [-1, 1] and noise to add to their latents to what is decoded, [B, H, W, channels]."""
        return self.decode(self.encode(images) + noise)

    def encode(self, images: jax.Array) -> jax.Array:
        """[B, H, W, channels] in [-1, 1] to latents [B, H/factor, W/factor, C]."""
        latents = self.encoder(images)
        return norms.layer_norm(latents) if self.quantizer is None else self.quantizer(latents)

    def decode(self, latents: jax.Array) -> jax.Array:
        """The other way."""
        return self.decoder(latents)

    @property
    def _widths(self) -> tuple[int, ...]:
        return tuple(self.width * multiplier for multiplier in self.multipliers)


class _Encoder(nn.Module):
    latent_channels: int
    widths: tuple[int, ...]
    channels: int
    blocks: int
    scale: mup.Scale

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        batch, *grid = images.shape[:3]
        inputs: tuple[mup.AxisSize, ...] = (("patch", 4 * self.channels),)
        x = images
        for level, width in enumerate(self.widths):
            grid = [side // 2 for side in grid]
            x = patches(x.reshape(batch, 2 * grid[0], 2 * grid[1], -1), 2)
            x = Linear(inputs, (("embed_out", width),), self.scale, name=f"merge_{level}")(x.reshape(*x.shape[:2], *_sizes(inputs)))
            for i in range(self.blocks):
                x = ResidualBlock(width, self.scale, name=f"block_{level}_{i}")(x, tuple(grid))
            inputs = (("neighbour", 4), ("embed", width))
        outputs = (("latent", self.latent_channels),)
        x = Linear((("embed", width),), outputs, self.scale, kind="output", name="latents")(norms.layer_norm(x))
        return x.reshape(batch, *grid, self.latent_channels)


class _Decoder(nn.Module):
    latent_channels: int
    widths: tuple[int, ...]
    channels: int
    blocks: int
    scale: mup.Scale

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        batch, *grid = latents.shape[:3]
        x = latents.reshape(batch, -1, self.latent_channels)
        inputs: tuple[mup.AxisSize, ...] = (("latent", self.latent_channels),)
        for level, width in reversed(list(enumerate(self.widths))):
            outer = level == len(self.widths) - 1
            outputs = (("embed_out", width),) if outer else (("neighbour", 4), ("embed_out", width))
            x = Linear(inputs, outputs, self.scale, name=f"split_{level}")(x)
            if not outer:
                x = joined(x.reshape(batch, x.shape[1], -1), tuple(grid), 2)
                grid = x.shape[1:3]
                x = x.reshape(batch, -1, width)
            for i in range(self.blocks):
                x = ResidualBlock(width, self.scale, name=f"block_{level}_{i}")(x, tuple(grid))
            inputs = (("embed", width),)
        outputs = (("patch", 4 * self.channels),)
        x = Linear(inputs, outputs, self.scale, kind="output", std=0.0, name="pixels")(norms.layer_norm(x))
        return joined(x, tuple(grid), 2)


def _sizes(axes: tuple[mup.AxisSize, ...]) -> tuple[int, ...]:
    return tuple(size for _, size in axes)
