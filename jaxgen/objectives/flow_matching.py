"""Flow matching on images: the network predicts v = ε - x_0 at x_t = (1 - t) x_0 + t ε (arXiv 2210.02747, 2209.03003)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen import types
from jaxgen.models import interface
from jaxgen.objectives.timesteps import LogitNormal
from jaxgen.parallel import keys
from jaxgen.samplers import time_grids
from jaxgen.samplers.process import Flow


@dataclasses.dataclass(frozen=True)
class FlowMatching:
    """Mean squared error of the velocity.

    Attributes:
      timesteps: distribution of t.
      base_pixels: pixels of a picture at which t is not shifted. A picture of m pixels has t shifted by α = √(m / base_pixels)
        towards noise (Esser et al., arXiv 2403.03206, §5.3.2); None never shifts.
      condition_dropout: share of examples whose conditions are made null, for classifier-free guidance.
      time_buckets: the loss is also reported by this many equal intervals of t.
    """

    timesteps: Any = dataclasses.field(
        default_factory=LogitNormal,
        metadata={
            "choices": {
                "logit_normal": "jaxgen.objectives.timesteps:LogitNormal",
                "uniform": "jaxgen.objectives.timesteps:Uniform",
            }
        },
    )
    base_pixels: int | None = None
    condition_dropout: float = 0.1
    time_buckets: int = 4

    process = Flow()

    def validate(self) -> None:
        if not 0 <= self.condition_dropout < 1:
            raise types.BadInput("condition_dropout", self.condition_dropout, "a share in [0, 1)")
        if self.time_buckets < 1:
            raise types.BadInput("time_buckets", self.time_buckets, "at least 1")
        if self.base_pixels is not None and self.base_pixels < 1:
            raise types.BadInput("base_pixels", self.base_pixels, "a positive number of pixels, or none")

    def check(self, experiment: Any) -> None:
        """The model must fit the data's pictures and conditions."""
        model, data, autoencoder = experiment.model, experiment.data, experiment.autoencoder
        step = autoencoder.factor * model.patch
        if data.resolution % step:
            needed = f"a multiple of {step} (autoencoder factor {autoencoder.factor} × model.patch={model.patch})"
            raise types.BadInput("data.resolution", data.resolution, needed)
        channels = autoencoder.channels(data.channels)
        if model.channels != channels:
            raise types.BadInput("model.channels", model.channels, f"{channels}, the channels of the autoencoder's latents")
        features = data.features()
        for name in model.streams:
            if name not in features:
                needed = f"a source with the field {name!r} that the model is conditioned on; it has {', '.join(features)}"
                raise types.BadInput("data.source", type(data.source).__name__, needed)

    def players(self, experiment: Any) -> tuple[types.Player, ...]:
        model = experiment.model

        def inputs() -> tuple:
            batch = {name: jnp.zeros((1, *f.shape), f.dtype) for name, f in experiment.data.features().items()}
            side = experiment.data.resolution // experiment.autoencoder.factor
            tokens = interface.image_tokens(jnp.zeros((1, side, side, model.channels)), model.patch, jnp.float32)
            return tokens, jnp.zeros((1,)), interface.conditions(batch, model.streams)

        return (types.Player("model", model, inputs),)

    def frozen(self, experiment: Any) -> tuple[types.Frozen, ...]:
        return ()

    def memory(self, experiment: Any) -> types.PyTree:
        return ()

    def prepare(self, views: types.Views, batch: types.Batch, key: jax.Array) -> types.Batch:
        """Encodes the pictures and draws t, noise and dropped conditions for the whole batch."""
        pixels = batch["image"]
        count = pixels.shape[0]
        images = pixels.astype(jnp.float32) / 127.5 - 1.0
        latents = views.modules["autoencoder"].encode(views.frozen.get("autoencoder"), images)
        t = self.timesteps(keys.stream(key, "t"), count)
        if self.base_pixels is not None:
            t = time_grids.shift(t, math.sqrt(pixels.shape[1] * pixels.shape[2] / self.base_pixels))
        rest = {name: value for name, value in batch.items() if name != "image"}
        return rest | {
            "latents": latents,
            "t": t,
            "noise": jax.random.normal(keys.stream(key, "noise"), latents.shape),
            "dropped": jax.random.bernoulli(keys.stream(key, "drop"), self.condition_dropout, (count,)),
        }

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
        """See `types.Objective.loss`; metrics `loss_by_time/…` per interval of t."""
        module = views.modules[player]
        latents, noise, t, weight = batch["latents"], batch["noise"], batch["t"], batch["weight"]
        x_t = self.process.interpolate(latents, noise, t)
        streams = interface.conditions(batch, module.streams)
        streams = {name: stream.dropped(batch["dropped"]) for name, stream in streams.items()}
        predicted = interface.velocity(module, params, x_t, t, streams, views.compute)
        errors = jnp.mean((predicted - self.process.velocity(latents, noise)) ** 2, axis=(1, 2, 3))
        metrics = {}
        for i in range(self.time_buckets):
            low, high = i / self.time_buckets, (i + 1) / self.time_buckets
            inside = (t >= low) & ((t < high) | (i == self.time_buckets - 1))
            metrics[f"loss_by_time/{low:.2f}-{high:.2f}"] = types.Mean.of(errors, weight * inside)
        return types.Mean.of(errors, weight).or_zero(), metrics, memory
