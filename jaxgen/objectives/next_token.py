"""Next-token prediction: a causal model says the codes of a picture one after another (Sun et al., LlamaGen, arXiv 2406.06525)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgen import types
from jaxgen.models import interface
from jaxgen.models.causal import PLAN
from jaxgen.parallel import keys
from jaxgen.samplers.sampler import from_uint8


@dataclasses.dataclass(frozen=True)
class NextToken:
    """Cross-entropy in nats of a picture's codes, and of its plan where the model has plans, per code of the picture.

    Trains `models.causal.CausalTransformer`.

    Attributes:
      condition_dropout: share of examples whose conditions are made null, for classifier-free guidance; they have no plan either.
    """

    condition_dropout: float = 0.1

    def validate(self) -> None:
        if not 0 <= self.condition_dropout < 1:
            raise types.BadInput("condition_dropout", self.condition_dropout, "a share in [0, 1)")

    def check(self, experiment: Any) -> None:
        """The autoencoder must have codes, the model as many, and the data its conditions."""
        model, data, autoencoder = experiment.model, experiment.data, experiment.autoencoder
        if autoencoder.quantizer is None:
            raise types.BadInput("autoencoder", type(autoencoder).__name__, "one with a quantizer: its codes are predicted")
        if data.resolution % autoencoder.factor:
            raise types.BadInput("data.resolution", data.resolution, f"a multiple of the autoencoder's factor {autoencoder.factor}")
        if model.codes != autoencoder.quantizer.size:
            raise types.BadInput("model.codes", model.codes, f"{autoencoder.quantizer.size}, the codes of the autoencoder")
        interface.require_streams(model.streams, data)

    def players(self, experiment: Any) -> tuple[types.Player, ...]:
        side = experiment.data.resolution // experiment.autoencoder.factor

        def inputs() -> tuple:
            batch = {name: jnp.zeros((1, *f.shape), f.dtype) for name, f in experiment.data.features().items()}
            streams = interface.conditions(batch, _streams(experiment.model))
            return jnp.zeros((1, side, side), jnp.int32), streams, jnp.float32

        return (types.Player("model", experiment.model, inputs),)

    def frozen(self, experiment: Any) -> tuple[types.Frozen, ...]:
        return (experiment.autoencoder.frozen(types.AUTOENCODER),)

    def memory(self, experiment: Any) -> types.PyTree:
        return ()

    def prepare(self, views: types.Views, batch: types.Batch, key: jax.Array) -> types.Batch:
        """Encodes the pictures and draws dropped conditions for the whole batch."""
        autoencoder, images = views.modules[types.AUTOENCODER], from_uint8(batch["image"])
        codes = autoencoder.quantizer.codes(autoencoder.encode(views.frozen[types.AUTOENCODER], images))
        dropped = jax.random.bernoulli(keys.stream(key, "drop"), self.condition_dropout, (len(images),))
        rest = {name: value for name, value in batch.items() if name != "image"}
        return rest | {"codes": codes, "dropped": dropped}

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
        """See `types.Objective.loss`; the metrics `accuracy` and `plan_accuracy` are the shares of codes and of ids of plans that
        are the likeliest."""
        module, codes, weight, dropped = views.modules[player], batch["codes"], batch["weight"], batch["dropped"]
        streams = interface.conditions(batch, _streams(module))
        streams = {name: stream.dropped(dropped) for name, stream in streams.items()}
        logits, planned = module.apply({"params": params}, codes, streams, views.compute)
        targets = codes.reshape(len(codes), -1)
        losses, right = _cross_entropy(logits, targets)
        metrics = {"accuracy": types.Mean.of(right, weight)}
        if planned is not None:
            plan_losses, right = _cross_entropy(planned, batch[PLAN])
            shown = weight * ~dropped
            losses += jnp.where(dropped, 0, plan_losses) * batch[PLAN].shape[1] / targets.shape[1]
            metrics |= {"plan_loss": types.Mean.of(plan_losses, shown), "plan_accuracy": types.Mean.of(right, shown)}
        return types.Mean.of(losses, weight).or_zero(), metrics, memory


def _streams(model: Any) -> tuple[str, ...]:
    """What the model reads, and what it writes and is taught with."""
    return (*model.streams, PLAN) if model.plan else model.streams


def _cross_entropy(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of logits [B, L, ids] and targets [B, L]: nats and share right, means over L, [B] both."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.mean(losses, axis=1), jnp.mean(jnp.argmax(logits, axis=-1) == targets, axis=1)
