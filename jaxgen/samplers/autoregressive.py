"""Codes of pictures drawn one after another from a causal model, with its keys and values kept."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen import types
from jaxgen.models import interface
from jaxgen.parallel import keys
from jaxgen.samplers import guidance
from jaxgen.samplers.sampler import check_drawing, keys_for


@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """How codes are drawn, row by row.

    Attributes:
      temperature: what logits are divided by: under 1 keeps to the likelier codes, 0 takes the likeliest.
      guidance: scale of classifier-free guidance of the logits; 1 is none and needs no unconditional rows.
      ema, images_per_device: as of `samplers.sampler.Sampler`.
    """

    temperature: float = 1.0
    guidance: float = 1.0
    ema: float | None = None
    images_per_device: int = 64

    def validate(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise types.BadInput("temperature", self.temperature, "a finite number, 0 or above")
        check_drawing(self)

    def check(self, experiment: Any) -> None:
        """The network must put out codes."""
        if not hasattr(experiment.model, "codes"):
            needed = f"jaxgen.samplers.sampler:Sampler, or none: {type(experiment.model).__name__} puts out no codes"
            raise types.BadInput("sampler", type(self).__name__, needed)

    def nfe(self, experiment: Any) -> int:
        """See `types.Sampler`: one for each code."""
        return (experiment.data.resolution // experiment.autoencoder.factor) ** 2

    def latents(
        self, experiment: Any, params: types.PyTree, streams: dict[str, types.Condition], indices: jax.Array, root: jax.Array
    ) -> jax.Array:
        """See `types.Sampler`."""
        model, quantizer = experiment.model, experiment.autoencoder.quantizer
        side = experiment.data.resolution // experiment.autoencoder.factor
        guided = guidance.needs_null(self.guidance)
        if guided:
            streams = jax.tree.map(guidance.interleaved, streams, interface.null(streams))
        own = keys_for(keys.stream(root, "sample"), indices)
        call = lambda *arguments, method: model.apply({"params": params}, *arguments, method=method)
        cache = call(streams, (side, side), jnp.dtype(experiment.precision.compute), method="begin")

        def body(carry: types.PyTree, place: jax.Array) -> tuple[types.PyTree, None]:
            codes, cache = carry
            rows = guidance.interleaved(codes, codes) if guided else codes
            logits, cache = call(rows, place, cache, streams, method="step")
            if guided:
                with_text, without = logits[::2], logits[1::2]
                logits = with_text + (self.guidance - 1) * (with_text - without)
            chosen = self._drawn(logits, jax.vmap(jax.random.fold_in, (0, None))(own, place))
            return (codes.reshape(len(codes), -1).at[:, place].set(chosen).reshape(codes.shape), cache), None

        codes = jnp.zeros((len(indices), side, side), jnp.int32)
        (codes, _), _ = jax.lax.scan(body, (codes, cache), jnp.arange(side * side))
        return quantizer.latents(codes)

    def _drawn(self, logits: jax.Array, own: jax.Array) -> jax.Array:
        """A code [B] of each row of logits [B, codes], by keys [B]."""
        if self.temperature == 0:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return jax.vmap(jax.random.categorical)(own, logits / self.temperature).astype(jnp.int32)
