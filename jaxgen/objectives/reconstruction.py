"""Reconstruction: an autoencoder learns to give pictures back from their latents, with noise added to these in between."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen import types
from jaxgen.parallel import keys
from jaxgen.samplers.sampler import from_uint8


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Mean squared error of the pixels; trains a model such as `autoencoders.convolutional.ConvolutionalAutoencoder`.

    Attributes:
      noise: standard deviation of what is added to latents, whose own is 1. More of it makes latents smoother: easier to generate,
        and less is remembered.
    """

    noise: float = 0.1

    def validate(self) -> None:
        if self.noise < 0:
            raise types.BadInput("noise", self.noise, "a standard deviation, 0 or more")

    def check(self, experiment: Any) -> None:
        """The model must take the data's pictures, as a whole number of latent tokens."""
        model, data = experiment.model, experiment.data
        if model.channels != data.channels:
            raise types.BadInput("model.channels", model.channels, f"{data.channels}, the channels of the data's pictures")
        if data.resolution % model.factor:
            raise types.BadInput("data.resolution", data.resolution, f"a multiple of the autoencoder's factor {model.factor}")

    def players(self, experiment: Any) -> tuple[types.Player, ...]:
        return (types.Player("model", experiment.model, experiment.model.example),)

    def frozen(self, experiment: Any) -> tuple[types.Frozen, ...]:
        return ()

    def memory(self, experiment: Any) -> types.PyTree:
        return ()

    def prepare(self, views: types.Views, batch: types.Batch, key: jax.Array) -> types.Batch:
        """Draws the noise."""
        module, images = views.modules["model"], from_uint8(batch["image"])
        shape = (images.shape[0], images.shape[1] // module.factor, images.shape[2] // module.factor, module.latent_channels)
        noise = self.noise * jax.random.normal(keys.stream(key, "noise"), shape)
        return {"weight": batch["weight"], "images": images, "noise": noise}

    def loss(
        self,
        player: str,
        params: types.PyTree,
        views: types.Views,
        batch: types.Batch,
        key: jax.Array,
        step: jax.Array,
        memory: types.PyTree,
    ) -> tuple[jax.Array, types.Metrics, types.PyTree]:
        """See `types.Objective.loss`."""
        images, noise = batch["images"], batch["noise"]
        inputs = images.astype(views.compute), noise.astype(views.compute)
        found = views.modules[player].apply({"params": params}, *inputs).astype(jnp.float32)
        errors = jnp.mean((found - images) ** 2, axis=(1, 2, 3))
        return types.Mean.of(errors, batch["weight"]).or_zero(), {}, memory
