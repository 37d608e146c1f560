"""Masked image modelling: an encoder says what the pixels of hidden patches are (Xie et al., SimMIM, arXiv 2111.09886).

Mean squared error of the hidden patches alone. No label and no caption is read.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen import types
from jaxgen.nn.patches import patches
from jaxgen.parallel import keys
from jaxgen.samplers.sampler import from_uint8


@dataclasses.dataclass(frozen=True)
class MaskedModelling:
    """Trains a model such as `encoders.self_supervised.MaskedEncoder`.

    Attributes:
      hidden_share: of a picture's patches, drawn anew at each step; rounded to whole patches, the same number in every picture.
    """

    hidden_share: float = 0.6

    def validate(self) -> None:
        if not 0 < self.hidden_share < 1:
            raise types.BadInput("hidden_share", self.hidden_share, "a share in (0, 1)")

    def check(self, experiment: Any) -> None:
        """The model must take the data's pictures, and patches be hidden and shown."""
        model, data = experiment.model, experiment.data
        if model.channels != data.channels:
            raise types.BadInput("model.tower.channels", model.channels, f"{data.channels}, the channels of the data's pictures")
        if data.resolution % model.patch:
            raise types.BadInput("data.resolution", data.resolution, f"a multiple of model.tower.patch={model.patch}")
        count = (data.resolution // model.patch) ** 2
        if not 0 < self._hidden(count) < count:
            needed = f"a share that hides and shows at least one of {count} patches"
            raise types.BadInput("objective.hidden_share", self.hidden_share, needed)

    def players(self, experiment: Any) -> tuple[types.Player, ...]:
        side, channels = experiment.data.resolution, experiment.data.channels
        return (types.Player("model", experiment.model, lambda: (jnp.zeros((1, side, side, channels)),)),)

    def frozen(self, experiment: Any) -> tuple[types.Frozen, ...]:
        return ()

    def memory(self, experiment: Any) -> types.PyTree:
        return ()

    def prepare(self, views: types.Views, batch: types.Batch, key: jax.Array) -> types.Batch:
        """Draws which patches are hidden."""
        images = from_uint8(batch["image"])
        count = (images.shape[1] // views.modules["model"].patch) ** 2
        order = jax.random.uniform(keys.stream(key, "hidden"), (images.shape[0], count))
        rank = jnp.argsort(jnp.argsort(order, axis=1), axis=1)
        return {"weight": batch["weight"], "images": images, "hidden": rank < self._hidden(count)}

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
        module, images, hidden = views.modules[player], batch["images"], batch["hidden"]
        found = module.apply({"params": params}, images.astype(views.compute), hidden).astype(jnp.float32)
        errors = jnp.mean((found - patches(images, module.patch)) ** 2, axis=-1)
        errors = jnp.sum(errors * hidden, axis=-1) / self._hidden(hidden.shape[1])
        return types.Mean.of(errors, batch["weight"]).or_zero(), {}, memory

    def _hidden(self, count: int) -> int:
        return round(self.hidden_share * count)
