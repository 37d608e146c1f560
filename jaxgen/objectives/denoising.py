"""What objectives that train a denoiser of images share: draws, conditions, the network's input, and losses by time."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen import types
from jaxgen.models import interface
from jaxgen.objectives.alignment import TEACHER, Alignment
from jaxgen.parallel import keys
from jaxgen.samplers.sampler import from_uint8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising(abc.ABC):
    """The network sees x_t of a process and predicts something of x_0 and ε. Subclasses have `process` and say times and loss.

    Attributes:
      condition_dropout: share of examples whose conditions are made null, for classifier-free guidance.
      time_buckets: the loss is also reported by this many equal intervals of t.
      alignment: of hidden tokens with the features of a frozen encoder; None has none.
    """

    condition_dropout: float = 0.1
    time_buckets: int = 4
    alignment: Alignment | None = dataclasses.field(
        default=None, metadata={"choices": {"repa": "jaxgen.objectives.alignment:Alignment"}}
    )

    def validate(self) -> None:
        if not 0 <= self.condition_dropout < 1:
            raise types.BadInput("condition_dropout", self.condition_dropout, "a share in [0, 1)")
        if self.time_buckets < 1:
            raise types.BadInput("time_buckets", self.time_buckets, "at least 1")

    @abc.abstractmethod
    def times(self, key: jax.Array, count: int, pixels: int) -> jax.Array:
        """t [count] of the process, for pictures of so many pixels."""

    @abc.abstractmethod
    def errors(
        self, output: jax.Array, x_t: jax.Array, latents: jax.Array, noise: jax.Array, t: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Losses [B] of the network's output [B, H, W, ...] at x_t, t [B], and parts of them [B] to be reported by name."""

    def check(self, experiment: Any) -> None:
        """The model must fit the data's pictures and conditions, and put out what the process needs."""
        model, data, autoencoder = experiment.model, experiment.data, experiment.autoencoder
        step = autoencoder.factor * model.patch
        if data.resolution % step:
            needed = f"a multiple of {step} (autoencoder factor {autoencoder.factor} × model.patch={model.patch})"
            raise types.BadInput("data.resolution", data.resolution, needed)
        channels = autoencoder.channels(data.channels)
        if model.channels != channels:
            raise types.BadInput("model.channels", model.channels, f"{channels}, the channels of the autoencoder's latents")
        interface.require_streams(model.streams, data)
        learns = getattr(model, "learn_variance", False)
        if learns != self.process.learned_variance:
            needed = f"{self.process.learned_variance}, as the process of the objective {type(self).__name__} has it"
            raise types.BadInput("model.learn_variance", learns, needed)

    def players(self, experiment: Any) -> tuple[types.Player, ...]:
        model = experiment.model

        def inputs() -> tuple:
            batch = {name: jnp.zeros((1, *f.shape), f.dtype) for name, f in experiment.data.features().items()}
            side = experiment.data.resolution // experiment.autoencoder.factor
            tokens = interface.image_tokens(jnp.zeros((1, side, side, model.channels)), model.patch, jnp.float32)
            return tokens, jnp.zeros((1,)), interface.conditions(batch, model.streams)

        player = types.Player("model", model, inputs)
        return (player, self._aligned.player(player)) if self._aligned else (player,)

    def frozen(self, experiment: Any) -> tuple[types.Frozen, ...]:
        autoencoder = experiment.autoencoder.frozen(types.AUTOENCODER)
        networks = (autoencoder, self._aligned.frozen() if self._aligned else None)
        return tuple(network for network in networks if network is not None)

    def memory(self, experiment: Any) -> types.PyTree:
        return ()

    def prepare(self, views: types.Views, batch: types.Batch, key: jax.Array) -> types.Batch:
        """Encodes the pictures, asks the teacher about them, and draws t, noise and dropped conditions for the whole batch."""
        pixels = batch["image"]
        count = pixels.shape[0]
        images = from_uint8(pixels)
        latents = views.modules[types.AUTOENCODER].encode(views.frozen.get(types.AUTOENCODER), images)
        rest = {name: value for name, value in batch.items() if name != "image"}
        if self._aligned:
            patch = views.modules["model"].patch
            grid = (latents.shape[1] // patch, latents.shape[2] // patch)
            rest[TEACHER] = self._aligned.targets(views, images, grid, pixels.shape[1])
        return rest | {
            "latents": latents,
            "t": self.times(keys.stream(key, "t"), count, pixels.shape[1] * pixels.shape[2]),
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
        """See `types.Objective.loss`; metrics `loss_by_time/…` per interval of t, and the parts of the loss.

        Where hidden tokens are aligned, `loss_denoising` is the loss without that term, and `alignment` the mean cosine.
        """
        module = views.modules[player]
        latents, noise, t, weight = batch["latents"], batch["noise"], batch["t"], batch["weight"]
        x_t = self.process.interpolate(latents, noise, t)
        streams = interface.conditions(batch, module.streams)
        streams = {name: stream.dropped(batch["dropped"]) for name, stream in streams.items()}
        inputs = (module, params, x_t, self.process.network_time(t), streams, views.compute)
        if self._aligned:
            output, hidden = interface.velocity_and_hidden(*inputs, self._aligned.block)
        else:
            output = interface.velocity(*inputs)
        errors, parts = self.errors(output, x_t, latents, noise, t)
        metrics = {name: types.Mean.of(values, weight) for name, values in parts.items()}
        for i in range(self.time_buckets):
            low, high = i / self.time_buckets, (i + 1) / self.time_buckets
            inside = (t >= low) & ((t < high) | (i == self.time_buckets - 1))
            metrics[f"loss_by_time/{low:.2f}-{high:.2f}"] = types.Mean.of(errors, weight * inside)
        if self._aligned:
            cosines = self._aligned.cosines(views, hidden, batch[TEACHER])
            metrics |= {"loss_denoising": types.Mean.of(errors, weight), "alignment": types.Mean.of(cosines, weight)}
            errors = errors - self._aligned.weight * cosines
        return types.Mean.of(errors, weight).or_zero(), metrics, memory

    @property
    def _aligned(self) -> Alignment | None:
        return self.alignment if self.alignment is not None and self.alignment.weight > 0 else None
