"""Next-token prediction: a causal model says the codes of a picture one after another (Sun et al., LlamaGen, arXiv 2406.06525)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgen import types
from jaxgen.models import interface
from jaxgen.parallel import keys
from jaxgen.samplers.sampler import from_uint8


@dataclasses.dataclass(frozen=True)
class NextToken:
    """Cross-entropy of the codes in nats, the mean over the codes of a picture; trains `models.causal.CausalTransformer`.

    Attributes:
      condition_dropout: share of examples whose conditions are made null, for classifier-free guidance.
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
        interface.require_streams(model, data)

    def players(self, experiment: Any) -> tuple[types.Player, ...]:
        side = experiment.data.resolution // experiment.autoencoder.factor

        def inputs() -> tuple:
            batch = {name: jnp.zeros((1, *f.shape), f.dtype) for name, f in experiment.data.features().items()}
            streams = interface.conditions(batch, experiment.model.streams)
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
        """See `types.Objective.loss`; the metric `accuracy` is the share of codes that are the likeliest."""
        module, codes, weight = views.modules[player], batch["codes"], batch["weight"]
        streams = interface.conditions(batch, module.streams)
        streams = {name: stream.dropped(batch["dropped"]) for name, stream in streams.items()}
        logits = module.apply({"params": params}, codes, streams, views.compute)
        targets = codes.reshape(len(codes), -1)
        losses = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets), axis=1)
        right = jnp.mean(jnp.argmax(logits, axis=-1) == targets, axis=1)
        return types.Mean.of(losses, weight).or_zero(), {"accuracy": types.Mean.of(right, weight)}, memory
