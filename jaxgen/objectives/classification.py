"""Classification of pictures: the network names the class of each, and is scored by cross-entropy."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgen import types
from jaxgen.samplers.sampler import from_uint8


@dataclasses.dataclass(frozen=True)
class Classification:
    """Cross-entropy of the field `label` given the pictures in [-1, 1]."""

    def check(self, experiment: Any) -> None:
        if "label" not in experiment.data.features():
            raise types.BadInput("data.source", type(experiment.data.source).__name__, "a source with labels, to classify by")

    def players(self, experiment: Any) -> tuple[types.Player, ...]:
        image = experiment.data.features()["image"]
        return (types.Player("model", experiment.model, lambda: (jnp.zeros((1, *image.shape), jnp.float32),)),)

    def frozen(self, experiment: Any) -> tuple[types.Frozen, ...]:
        return ()

    def memory(self, experiment: Any) -> types.PyTree:
        return ()

    def prepare(self, views: types.Views, batch: types.Batch, key: jax.Array) -> types.Batch:
        """Pictures as float32 in [-1, 1]."""
        return batch | {"image": from_uint8(batch["image"])}

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
        """See `types.Objective.loss`; the metric `accuracy` is the share of rows whose class is named first."""
        logits = views.modules[player].apply({"params": params}, batch["image"].astype(views.compute)).astype(jnp.float32)
        errors = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        hits = (jnp.argmax(logits, axis=-1) == batch["label"]).astype(jnp.float32)
        metrics = {"accuracy": types.Mean.of(hits, batch["weight"])}
        return types.Mean.of(errors, batch["weight"]).or_zero(), metrics, memory
