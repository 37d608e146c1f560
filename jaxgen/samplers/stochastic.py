"""Steppers that draw noise in each step as published samplers do: DDPM's reverse chain, and SiT's stochastic differential equation.

Coordinates and interface are those of `jaxgen.samplers.steppers`. The step that ends at t = 0 draws none.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxgen.samplers import steppers
from jaxgen.samplers.steppers import FLOW
from jaxgen.types import BadInput, PyTree, Velocity


@dataclasses.dataclass(frozen=True)
class DDPM:
    """The reverse chain of DDPM over the times of the grid (Ho et al. 2020, arXiv:2006.11239), one call a step.

    The mean is that of q(x' | x_t, x̂_0), however the process is scaled. The variances are those of the variance-preserving process
    of the same α/σ, which `Diffusion` is.

    Attributes:
      variance: "fixed_small" is the variance of q(x' | x_t, x_0), which `Ancestral` with η = 1 has too; "fixed_large" that of x_t
        given x', β where no step is skipped; "learned_range" lies between their logarithms where the network says (Nichol and
        Dhariwal 2021, arXiv:2102.09672, equation 15).
    """

    variance: Literal["fixed_small", "fixed_large", "learned_range"] = "learned_range"

    def check(self, experiment: Any) -> None:
        """A network that says nothing of the variance cannot be asked for it."""
        if self.variance == "learned_range" and not experiment.objective.process.learned_variance:
            needed = "fixed_small or fixed_large, as the network of this objective does not learn the variance"
            raise BadInput("sampler.stepper.variance", self.variance, needed)

    def calls(self, steps: int) -> int:
        return steps

    def init(self, x: jax.Array, keys: jax.Array | None = None) -> PyTree:
        return steppers.with_keys(keys)

    def step(
        self, velocity: Velocity, x: jax.Array, t: jax.Array, t_next: jax.Array, state: PyTree, carry: PyTree
    ) -> tuple[jax.Array, PyTree, PyTree]:
        t, t_next = jnp.asarray(t, x.dtype), jnp.asarray(t_next, x.dtype)
        v, place, carry = steppers.ask_with_variance(velocity, x, t, carry)
        fresh = steppers.posterior_noise(t, t_next)
        mean = FLOW.interpolate(FLOW.data(x, v, t), jnp.sqrt(1 - fresh**2) * FLOW.noise(x, v, t), t_next)
        # The last step has no variance; in its place stands anything of which a logarithm can be taken.
        end = jnp.where(t_next > 0, t_next, t)
        small = end * jnp.where(t_next > 0, fresh, 1)
        large = small * (t / jnp.hypot(1 - t, t)) / (end / jnp.hypot(1 - end, end))
        if self.variance == "learned_range":
            share = (place + 1) / 2
            deviation = jnp.exp(share * jnp.log(large) + (1 - share) * jnp.log(small))
        else:
            deviation = small if self.variance == "fixed_small" else large
        drawn, state = steppers.draw(state, x)
        return mean + jnp.where(t_next > 0, deviation, 0) * drawn, state, carry


@dataclasses.dataclass(frozen=True)
class EulerMaruyama:
    """First order for dx = (v + D ε̂/σ) dt + √(2 D) dw, one call a step (Ma et al. 2024, arXiv:2401.08740, §2.4; SiT's "SDE").

    Whatever D is, x_t has the distributions of the flow; noise washes out what the network got wrong before. With D = strength · t
    the score, -ε̂/t, is never divided by 0. The last step follows the drift alone and ends at x̂_0 - strength · t ε̂: it is to be
    short (SiT: 0.04).

    Attributes:
      strength: D/σ. SiT's sampler has 1, its half is what DDT's code takes for models without its decoder; 0 is `Euler`.
    """

    strength: float = 1.0

    def validate(self) -> None:
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise BadInput("strength", self.strength, "a finite number, 0 or above")

    def calls(self, steps: int) -> int:
        return steps

    def init(self, x: jax.Array, keys: jax.Array | None = None) -> PyTree:
        return steppers.with_keys(keys)

    def step(
        self, velocity: Velocity, x: jax.Array, t: jax.Array, t_next: jax.Array, state: PyTree, carry: PyTree
    ) -> tuple[jax.Array, PyTree, PyTree]:
        t, t_next = jnp.asarray(t, x.dtype), jnp.asarray(t_next, x.dtype)
        slope, carry = _drift(velocity, x, t, self.strength, carry)
        drawn, state = steppers.draw(state, x)
        return x + (t - t_next) * slope + _deviation(t, t_next, self.strength) * drawn, state, carry


@dataclasses.dataclass(frozen=True)
class HeunSDE(EulerMaruyama):
    """The equation of `EulerMaruyama` with a step of noise, then one of Heun's for the drift; two calls a step, one in the last.

    The second stage of the drift is that of SiT's code: noise first, both slopes along the path that begins behind it.
    """

    def calls(self, steps: int) -> int:
        return 2 * steps - 1

    def step(
        self, velocity: Velocity, x: jax.Array, t: jax.Array, t_next: jax.Array, state: PyTree, carry: PyTree
    ) -> tuple[jax.Array, PyTree, PyTree]:
        t, t_next = jnp.asarray(t, x.dtype), jnp.asarray(t_next, x.dtype)
        drawn, state = steppers.draw(state, x)
        x = x + _deviation(t, t_next, self.strength) * drawn
        slope, carry = _drift(velocity, x, t, self.strength, carry)
        guess = x + (t - t_next) * slope

        def correct(carry: PyTree) -> tuple[jax.Array, PyTree]:
            slope_next, carry = _drift(velocity, guess, t_next, self.strength, carry)
            return x + (t - t_next) * (slope + slope_next) / 2, carry

        x, carry = jax.lax.cond(t_next > 0, correct, lambda carry: (guess, carry), carry)
        return x, state, carry


def _drift(velocity: Velocity, x: jax.Array, t: jax.Array, strength: float, carry: PyTree) -> tuple[jax.Array, PyTree]:
    """The slope of x towards t = 0: against the velocity, and strength · t times the score."""
    v, carry = steppers.ask(velocity, x, t, carry)
    return -v - strength * FLOW.noise(x, v, t), carry


def _deviation(t: jax.Array, t_next: jax.Array, strength: float) -> jax.Array:
    """Of the noise between two times; 0 in the last step, which goes to the mean."""
    return jnp.where(t_next > 0, jnp.sqrt(2 * strength * t * (t - t_next)), 0)
