"""AdamW and SGD with per-parameter μP factors, clipping by global norm, and learning-rate schedules."""

from __future__ import annotations

import abc
import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from jaxgen import mup, types


@dataclasses.dataclass(frozen=True)
class Rule(abc.ABC):
    """What update rules share; a subclass says how gradients become updates of one size.

    Attributes:
      learning_rate: peak rate at base width.
      weight_decay: share of a matrix taken away per unit of learning rate; gains and biases do not decay.
      clip_norm: largest global norm of the gradient; None never clips.
      schedule: after a linear warm-up, "constant", "cosine" to zero at the last step, or "wsd" (constant, then linear to zero).
      warmup_steps: length of the warm-up.
      decay_share: share of training that the last phase of "wsd" takes.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    warmup_steps: int = 0
    decay_share: float = 0.2

    def validate(self) -> None:
        if self.learning_rate <= 0:
            raise types.BadInput("learning_rate", self.learning_rate, "a positive rate")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise types.BadInput("clip_norm", self.clip_norm, "a positive norm, or none")
        for name in ("weight_decay", "warmup_steps"):
            if getattr(self, name) < 0:
                raise types.BadInput(name, getattr(self, name), "0 or more")
        if not 0 < self.decay_share <= 1:
            raise types.BadInput("decay_share", self.decay_share, "a share in (0, 1]")

    def build(self, multipliers: mup.Multipliers, steps: int) -> optax.GradientTransformation:
        """The update rule for parameters with these μP factors, over `steps` updates."""
        # Adam's update g / (√v + ε m) with a factor m on ε is that of the gradient g / m with a plain ε. Under μP m = 1/ñ, so the
        # rescaled gradient is of one size at every width, and one ε serves all; so does one rate of SGD.
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm) if self.clip_norm is not None else optax.identity(),
            _scale(multipliers.epsilon, lambda factor: 1 / factor),
            self.direction(multipliers),
            _decay(self.weight_decay, multipliers.weight_decay),
            _scale(multipliers.learning_rate, lambda factor: factor),
            optax.scale_by_learning_rate(lambda count: self.rate(count, steps)),
        )

    @abc.abstractmethod
    def direction(self, multipliers: mup.Multipliers) -> optax.GradientTransformation:
        """From gradients to updates of one size, before decay and rates."""

    def rate(self, step: jax.Array, steps: int) -> jax.Array:
        """Learning rate at base width for the update numbered `step` (from 0) of `steps`; float32."""
        step = jnp.asarray(step, jnp.float32)
        factor = jnp.float32(1.0)
        if self.schedule == "cosine":
            progress = (step - self.warmup_steps) / max(steps - self.warmup_steps, 1)
            factor = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
        elif self.schedule == "wsd":
            factor = jnp.clip((steps - step) / max(self.decay_share * steps, 1), 0, 1)
        if self.warmup_steps:
            factor = factor * jnp.minimum((step + 1) / self.warmup_steps, 1.0)
        return self.learning_rate * factor


@dataclasses.dataclass(frozen=True)
class AdamW(Rule):
    """Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).

    Attributes:
      b1, b2: decays of the moments.
      epsilon: added to the root of the second moment, at base width.
    """

    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    def validate(self) -> None:
        super().validate()
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise types.BadInput(name, getattr(self, name), "a decay in [0, 1)")
        if self.epsilon < 0:
            raise types.BadInput("epsilon", self.epsilon, "0 or more")

    def direction(self, multipliers: mup.Multipliers) -> optax.GradientTransformation:
        del multipliers
        return optax.scale_by_adam(self.b1, self.b2, self.epsilon)


@dataclasses.dataclass(frozen=True)
class SGD(Rule):
    """Gradient descent, with a heavy ball where `momentum` is above 0.

    Under μP a gradient is divided by its factor on ε, 1/ñ, which gives the rates of Tensor Programs V, table 8, for SGD.
    """

    momentum: float = 0.0

    def validate(self) -> None:
        super().validate()
        if not 0 <= self.momentum < 1:
            raise types.BadInput("momentum", self.momentum, "a decay in [0, 1)")

    def direction(self, multipliers: mup.Multipliers) -> optax.GradientTransformation:
        del multipliers
        return optax.trace(self.momentum) if self.momentum else optax.identity()


def _scale(factors: types.PyTree, of) -> optax.GradientTransformation:
    def update(updates, params=None):
        return jax.tree.map(lambda u, factor: u * of(factor), updates, factors)

    return optax.stateless(update)


def _decay(rate: float, factors: types.PyTree) -> optax.GradientTransformation:
    if not rate:
        return optax.identity()

    def update(updates, params):
        return jax.tree.map(lambda u, p, factor: u + (rate * factor) * p if factor else u, updates, params, factors)

    return optax.stateless(update)
