"""The learning rate as part of the training state, so that one compiled step serves every rate of a sweep."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import mup, types
from jaxgen.training.state import State


class HeldRate(NamedTuple):
    """The peak learning rate at base width, float32 ()."""

    rate: jax.Array


@dataclasses.dataclass(frozen=True)
class TracedRate:
    """An update rule whose peak learning rate is read from the optimizer's state.

    Every rule of the package is proportional to its rate, weight decay and per-parameter factors included, so the rule at rate 1
    times the held rate is the rule at that rate; with a constant schedule to the bit. Held in the state the rate is an input of
    the ordinary step, which needs to know nothing of it; a rate in the schedule's closure would be a constant of the program.

    Attributes:
      optimizer: the rule; its own `learning_rate` is what the state holds at first.
    """

    optimizer: Any

    def build(self, multipliers: mup.Multipliers, steps: int) -> optax.GradientTransformation:
        """As `types.Optimizer.build`."""
        return optax.chain(self._at_one.build(multipliers, steps), _times_held_rate(self.optimizer.learning_rate))

    def rate(self, step: jax.Array, steps: int) -> jax.Array:
        """The schedule as a multiple of the held rate."""
        return self._at_one.rate(step, steps)

    @property
    def _at_one(self) -> types.Optimizer:
        return dataclasses.replace(self.optimizer, learning_rate=1.0)


def with_rate(state: State, rate: float) -> State:
    """The state with this peak learning rate for every player whose optimizer is a `TracedRate`; compiles nothing."""

    def changed(leaf: Any) -> Any:
        if not isinstance(leaf, HeldRate):
            return leaf
        return HeldRate(jax.device_put(np.float32(rate), leaf.rate.sharding))

    return state.replace(optimizer=jax.tree.map(changed, state.optimizer, is_leaf=lambda leaf: isinstance(leaf, HeldRate)))


def _times_held_rate(start: float) -> optax.GradientTransformation:
    def initial(params: types.PyTree) -> HeldRate:
        del params
        return HeldRate(jnp.float32(start))

    def update(updates: types.PyTree, state: HeldRate, params: types.PyTree = None) -> tuple[types.PyTree, HeldRate]:
        del params
        return jax.tree.map(lambda u: u * state.rate, updates), state

    return optax.GradientTransformation(initial, update)
