"""Plans and codes of pictures drawn one after another from a causal model, with its keys and values kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen import types
from jaxgen.models import interface
from jaxgen.models.causal import PLAN, Cache
from jaxgen.parallel import keys
from jaxgen.samplers import guidance
from jaxgen.samplers.sampler import check_drawing, keys_for


@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """How codes are drawn, row by row, behind a plan where the model has plans.

    Attributes:
      temperature: what logits are divided by: under 1 keeps to the likelier codes, 0 takes the likeliest.
      plan_temperature: the same of plans, which are drawn without guidance.
      guidance: scale of classifier-free guidance of the logits; 1 is none and needs no unconditional rows.
      ema, images_per_device: as of `samplers.sampler.Sampler`.
    """

    temperature: float = 1.0
    plan_temperature: float = 1.0
    guidance: float = 1.0
    ema: float | None = None
    images_per_device: int = 64

    def validate(self) -> None:
        for name in ("temperature", "plan_temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise types.BadInput(name, getattr(self, name), "a finite number, 0 or above")
        check_drawing(self)

    def check(self, experiment: Any) -> None:
        """The network must put out codes."""
        if not hasattr(experiment.model, "codes"):
            needed = f"jaxgen.samplers.sampler:Sampler, or none: {type(experiment.model).__name__} puts out no codes"
            raise types.BadInput("sampler", type(self).__name__, needed)

    def nfe(self, experiment: Any) -> int:
        """See `types.Sampler`: one for each id of a plan and each code."""
        return _plan_length(experiment) + _side(experiment) ** 2

    def latents(
        self, experiment: Any, params: types.PyTree, streams: dict[str, types.Condition], indices: jax.Array, root: jax.Array
    ) -> jax.Array:
        """See `types.Sampler`."""
        model, side, length = experiment.model, _side(experiment), _plan_length(experiment)
        call = lambda *arguments, method: model.apply({"params": params}, *arguments, method=method)
        begin = lambda streams: call(streams, length, (side, side), jnp.dtype(experiment.precision.compute), method="begin")
        cache = begin(streams)
        if length:
            own = keys_for(keys.stream(root, "plan"), indices)
            cache, plan = self._planned(call, cache, streams, own, length)
            streams = streams | {PLAN: plan}
        guided = guidance.needs_null(self.guidance)
        if guided:
            null = interface.null(streams)
            cache = jax.tree.map(jax.vmap(guidance.interleaved), cache, begin(null))
            streams = jax.tree.map(guidance.interleaved, streams, null)
        own = keys_for(keys.stream(root, "sample"), indices)

        def body(carry: types.PyTree, place: jax.Array) -> tuple[types.PyTree, None]:
            codes, cache = carry
            rows = guidance.interleaved(codes, codes) if guided else codes
            logits, cache = call(rows, place, cache, streams, method="step")
            if guided:
                with_text, without = logits[::2], logits[1::2]
                logits = with_text + (self.guidance - 1) * (with_text - without)
            chosen = _drawn(logits, own, place, self.temperature)
            return (codes.reshape(len(codes), -1).at[:, place].set(chosen).reshape(codes.shape), cache), None

        codes = jnp.zeros((len(indices), side, side), jnp.int32)
        (codes, _), _ = jax.lax.scan(body, (codes, cache), jnp.arange(side * side))
        return experiment.autoencoder.quantizer.latents(codes)

    def _planned(
        self, call: Callable, cache: Cache, streams: dict[str, types.Condition], own: jax.Array, length: int
    ) -> tuple[Cache, types.Condition]:
        """The cache with plans of so many ids, and these; row r is drawn by key own[r]."""
        there = jnp.ones((len(own), length), jnp.int32)

        def body(carry: types.PyTree, place: jax.Array) -> tuple[types.PyTree, None]:
            ids, cache = carry
            logits, cache = call(place, cache, streams | {PLAN: types.Condition(ids, there)}, method="plan_step")
            return (ids.at[:, place].set(_drawn(logits, own, place, self.plan_temperature)), cache), None

        (ids, cache), _ = jax.lax.scan(body, (jnp.zeros_like(there), cache), jnp.arange(length))
        return cache, types.Condition(ids, there)


def _side(experiment: Any) -> int:
    """Rows and columns of codes."""
    return experiment.data.resolution // experiment.autoencoder.factor


def _plan_length(experiment: Any) -> int:
    """Ids of a plan."""
    return experiment.data.features()[PLAN].shape[0] if experiment.model.plan else 0


def _drawn(logits: jax.Array, own: jax.Array, place: jax.Array, temperature: float) -> jax.Array:
    """An id [B] of each row of logits [B, ids], by keys [B] and the place."""
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    own = jax.vmap(jax.random.fold_in, (0, None))(own, place)
    return jax.vmap(jax.random.categorical)(own, logits / temperature).astype(jnp.int32)
