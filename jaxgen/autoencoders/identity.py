"""The autoencoder of models that work on pixels."""

from __future__ import annotations

import dataclasses

import jax

from jaxgen import types


@dataclasses.dataclass(frozen=True)
class Identity:
    """Latents are the pictures themselves."""

    factor = 1
    quantizer = None

    def channels(self, image_channels: int) -> int:
        """Channels of the latents of pictures with this many channels."""
        return image_channels

    def frozen(self, name: str) -> None:
        """There is no network."""

    def encode(self, params: types.PyTree, images: jax.Array) -> jax.Array:
        return images

    def decode(self, params: types.PyTree, latents: jax.Array) -> jax.Array:
        return latents
