"""A frozen autoencoder between pictures and a generator (`types.Autoencoder`), here with random weights.

That is enough to see whether everything runs; `training.saved_network` reads weights that were trained.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax

from jaxgen import types


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomAutoencoder:
    """An autoencoder with the weights that it starts with.

    Attributes:
      module: a Linen module with `channels`, `latent_channels`, `factor`, `quantizer`, `encode` and `decode`, such as
        `autoencoders.convolutional.ConvolutionalAutoencoder`.
    """

    module: Any

    @property
    def factor(self) -> int:
        """Pixels along a side of a latent token."""
        return self.module.factor

    @property
    def quantizer(self) -> Any:
        """See `types.Autoencoder`."""
        return self.module.quantizer

    def validate(self) -> None:
        if not isinstance(self.module, nn.Module) or not hasattr(self.module, "decode"):
            raise types.BadInput("module", type(self.module).__name__, "an autoencoder: a Linen module with `encode` and `decode`")

    def check(self, experiment: Any) -> None:
        """It must take the data's pictures."""
        if self.module.channels != experiment.data.channels:
            needed = f"{experiment.data.channels}, the channels of the data's pictures"
            raise types.BadInput("autoencoder.module.channels", self.module.channels, needed)

    def channels(self, image_channels: int) -> int:
        """Channels of the latents of pictures with this many channels."""
        del image_channels
        return self.module.latent_channels

    def frozen(self, name: str) -> types.Frozen:
        return types.Frozen(name, self.module, self.initial, "random weights")

    def initial(self, key: jax.Array) -> types.PyTree:
        """Boxed parameters as drawn at the start."""
        return self.module.init(key, *self.module.example())["params"]

    def encode(self, params: types.PyTree, images: jax.Array) -> jax.Array:
        """See `types.Autoencoder`."""
        return self.module.apply({"params": params}, images, method="encode")

    def decode(self, params: types.PyTree, latents: jax.Array) -> jax.Array:
        """See `types.Autoencoder`."""
        return self.module.apply({"params": params}, latents, method="decode")
