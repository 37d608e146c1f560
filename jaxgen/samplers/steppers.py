"""From one time to the next: integrators of dx/dt = v(x, t) from t = 1 (noise) down to t = 0 (data).

All integrate the flow x_t = (1 - t) x_0 + t ε; a network that was trained on another process is asked through `Process.as_flow`.
A stepper keeps what it remembers in `state` and hands `carry`, which is the network's, through unread. `t` and `t_next`
are scalars with t > t_next >= 0; the network gets them as [B]. The dtype of x is the dtype of all arithmetic.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxgen.samplers.process import Flow
from jaxgen.types import BadInput, PyTree, Velocity


class Stepper(Protocol):
    """Configuration of an integrator."""

    def calls(self, steps: int) -> int:
        """How often `steps` steps that end at t = 0 call the network."""

    def init(self, x: jax.Array, keys: jax.Array | None = None) -> PyTree:
        """The memory before the first step from x [B, ...].

        Args:
          keys: [B] typed threefry keys, one an image, for a stepper that draws noise on the way.

        Raises:
          ValueError: such a stepper got no keys.
        """

    def step(
        self, velocity: Velocity, x: jax.Array, t: jax.Array, t_next: jax.Array, state: PyTree, carry: PyTree
    ) -> tuple[jax.Array, PyTree, PyTree]:
        """x at t_next, the new memory, and the network's carry."""


FLOW = Flow()


def ask(velocity: Velocity, x: jax.Array, t: jax.Array, carry: PyTree) -> tuple[jax.Array, PyTree]:
    """The velocity in the dtype of x (a network may compute in bfloat16), at one time for all rows."""
    v, _, carry = ask_with_variance(velocity, x, t, carry)
    return v, carry


def ask_with_variance(velocity: Velocity, x: jax.Array, t: jax.Array, carry: PyTree) -> tuple[jax.Array, jax.Array, PyTree]:
    """Like `ask`, and the channels behind the velocity's, [B, ..., 0 or C]: what a network says of the variance of its step."""
    v, carry = velocity(x, jnp.full(x.shape[:1], t, x.dtype), carry)
    v, channels = v.astype(x.dtype), x.shape[-1]
    return v[..., :channels], v[..., channels:], carry


def with_keys(keys: jax.Array | None) -> PyTree:
    """The state of a stepper that draws noise: keys [B], and how many steps were made. Raises ValueError without keys."""
    if keys is None:
        raise ValueError("keys: found None, needed one an image: this stepper draws noise")
    return keys, jnp.zeros((), jnp.int32)


def draw(state: PyTree, x: jax.Array) -> tuple[jax.Array, PyTree]:
    """Standard normal noise like x [B, ...], each row's from its key and the step alone, and the next state."""
    keys, count = state
    drawn = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, count), x.shape[1:], x.dtype))(keys)
    return drawn, (keys, count + 1)


def posterior_noise(t: jax.Array, t_next: jax.Array) -> jax.Array:
    """ρ, the share of σ' that is fresh noise in a step of q(x' | x_t, x_0): √(1 - (α σ' / α' σ)²)."""
    kept = FLOW.alpha(t) * FLOW.sigma(t_next) / (FLOW.alpha(t_next) * FLOW.sigma(t))
    return jnp.sqrt(jnp.maximum(1 - kept**2, 0))


@dataclasses.dataclass(frozen=True)
class Euler:
    """First order, one call a step. It is DDIM without noise (Song et al. 2020, arXiv:2010.02502)."""

    def calls(self, steps: int) -> int:
        return steps

    def init(self, x: jax.Array, keys: jax.Array | None = None) -> PyTree:
        return ()

    def step(
        self, velocity: Velocity, x: jax.Array, t: jax.Array, t_next: jax.Array, state: PyTree, carry: PyTree
    ) -> tuple[jax.Array, PyTree, PyTree]:
        v, carry = ask(velocity, x, t, carry)
        return x + (t_next - t) * v, state, carry


@dataclasses.dataclass(frozen=True)
class Ancestral:
    """DDIM with noise of its own in each step (Song et al. 2020, arXiv:2010.02502, equations 12 and 16), one call a step.

    x' = α' x̂_0 + σ' (√(1 - ρ²) ε̂ + ρ z) with z ~ N(0, I) and ρ = η √(1 - (α σ' / α' σ)²). With η = 1 it is the ancestral sampler
    of DDPM, in whose chain fresh noise washes out what the network got wrong before; with η = 0 it is `Euler`.

    Attributes:
      eta: η, from 0 to 1.
    """

    eta: float = 1.0

    def validate(self) -> None:
        if not 0 <= self.eta <= 1:
            raise BadInput("eta", self.eta, "from 0 (no noise) to 1 (that of DDPM)")

    def calls(self, steps: int) -> int:
        return steps

    def init(self, x: jax.Array, keys: jax.Array | None = None) -> PyTree:
        return with_keys(keys)

    def step(
        self, velocity: Velocity, x: jax.Array, t: jax.Array, t_next: jax.Array, state: PyTree, carry: PyTree
    ) -> tuple[jax.Array, PyTree, PyTree]:
        t, t_next = jnp.asarray(t, x.dtype), jnp.asarray(t_next, x.dtype)
        v, carry = ask(velocity, x, t, carry)
        fresh = self.eta * posterior_noise(t, t_next)
        drawn, state = draw(state, x)
        noise = jnp.sqrt(1 - fresh**2) * FLOW.noise(x, v, t) + fresh * drawn
        return FLOW.interpolate(FLOW.data(x, v, t), noise, t_next), state, carry


@dataclasses.dataclass(frozen=True)
class Heun:
    """Second order, two calls a step, except one in the step that ends at t = 0 (Karras et al. 2022, algorithm 1).

    There the second call would ask for the velocity of noiseless data, of which v = (x_t - x̂_0)/t is a 0/0. One Euler
    step of the whole run costs O(1/steps²), so the order stays.
    """

    def calls(self, steps: int) -> int:
        return 2 * steps - 1

    def init(self, x: jax.Array, keys: jax.Array | None = None) -> PyTree:
        return ()

    def step(
        self, velocity: Velocity, x: jax.Array, t: jax.Array, t_next: jax.Array, state: PyTree, carry: PyTree
    ) -> tuple[jax.Array, PyTree, PyTree]:
        v, carry = ask(velocity, x, t, carry)
        guess = x + (t_next - t) * v

        def correct(carry: PyTree) -> tuple[jax.Array, PyTree]:
            v_next, carry = ask(velocity, guess, t_next, carry)
            return x + (t_next - t) * (v + v_next) / 2, carry

        x, carry = jax.lax.cond(t_next > 0, correct, lambda carry: (guess, carry), carry)
        return x, state, carry


@dataclasses.dataclass(frozen=True)
class DPMSolverPP2M:
    """DPM-Solver++(2M): second order, one call a step (Lu et al. 2022, arXiv:2211.01095, algorithm 2).

    Exact in the linear part, with x̂_0 extrapolated in λ = log(α/σ) from this step and the one before:
    x' = (σ'/σ) x + (α' - α σ'/σ) D, D = x̂_0 + h/(2 h₋) (x̂_0 - x̂_0₋), h = λ' - λ. The paper's α' (1 - e^-h) is written
    without λ because λ is -inf at t = 1 and +inf at t = 0. D = x̂_0 where there is no earlier step, where h₋ = inf (the
    earlier step began at t = 1) and where h = inf (this one ends at t = 0 and returns x̂_0 itself). On a grid that is
    uniform in t the error is O(log(steps)/steps²), for λ moves by O(1) in each of the steps next to both ends.
    """

    def calls(self, steps: int) -> int:
        return steps

    def init(self, x: jax.Array, keys: jax.Array | None = None) -> PyTree:
        return jnp.zeros_like(x), jnp.full((), jnp.inf, x.dtype)

    def step(
        self, velocity: Velocity, x: jax.Array, t: jax.Array, t_next: jax.Array, state: PyTree, carry: PyTree
    ) -> tuple[jax.Array, PyTree, PyTree]:
        t, t_next = jnp.asarray(t, x.dtype), jnp.asarray(t_next, x.dtype)
        data_before, lambda_before = state
        v, carry = ask(velocity, x, t, carry)
        data = FLOW.data(x, v, t)
        lambda_now, lambda_next = FLOW.log_snr(t) / 2, FLOW.log_snr(t_next) / 2
        h_before, h = lambda_now - lambda_before, lambda_next - lambda_now
        # No earlier step counts as infinitely far away. h is made finite first: inf/inf would trip `jax_debug_nans`.
        blend = jnp.where(jnp.isfinite(h), h, 0) / (2 * h_before)
        extrapolated = data + blend * (data - data_before)
        ratio = FLOW.sigma(t_next) / FLOW.sigma(t)
        weight = FLOW.alpha(t_next) - FLOW.alpha(t) * ratio
        return ratio * x + weight * extrapolated, (data, lambda_now), carry


@dataclasses.dataclass(frozen=True)
class AdamsBashforth:
    """The explicit linear multistep method on any grid, one call a step (Hairer, Nørsett, Wanner, Solving ODEs I, §III.5).

    A step integrates the polynomial through the last `order` velocities exactly. The first steps have fewer and are of lower order,
    and as the first of all is Euler's, the error of a run falls with the square of the steps at best; orders 3 and 4 change the
    factor. It is the multistep solver of DDT's code (arXiv 2504.05741).

    Attributes:
      order: 1 (Euler) to 4.
    """

    order: int = 2

    def validate(self) -> None:
        if not 1 <= self.order <= 4:
            raise BadInput("order", self.order, "1, 2, 3 or 4")

    def calls(self, steps: int) -> int:
        return steps

    def init(self, x: jax.Array, keys: jax.Array | None = None) -> PyTree:
        before = self.order - 1
        # Times of velocities that are not there yet: never used, apart from each other so that nothing divides by zero.
        times = 2 + jnp.arange(before, dtype=x.dtype)
        return jnp.zeros((before, *x.shape), x.dtype), times, jnp.zeros((), jnp.int32)

    def step(
        self, velocity: Velocity, x: jax.Array, t: jax.Array, t_next: jax.Array, state: PyTree, carry: PyTree
    ) -> tuple[jax.Array, PyTree, PyTree]:
        earlier, earlier_times, count = state
        v, carry = ask(velocity, x, t, carry)
        velocities = jnp.concatenate([v[None], earlier])
        times = jnp.concatenate([jnp.asarray(t, x.dtype)[None], earlier_times])
        h = t_next - t
        rows = [adams_weights((times[: k + 1] - t) / h) for k in range(self.order)]
        weights = jnp.stack([jnp.pad(row, (0, self.order - len(row))) for row in rows])[jnp.minimum(count, self.order - 1)]
        x = x + h * jnp.tensordot(weights, velocities, axes=1, precision=jax.lax.Precision.HIGHEST)
        return x, (velocities[:-1], times[:-1], count + 1), carry


def adams_weights(places: jax.Array) -> jax.Array:
    """Weights [n] by which values at `places` [n] (all different) give the mean over [0, 1] of the polynomial through them."""
    weights = []
    for j in range(places.shape[0]):
        # Coefficients of the Lagrange polynomial that is 1 at place j and 0 at the others, lowest power first.
        basis = jnp.ones((1,), places.dtype)
        for i in range(places.shape[0]):
            if i != j:
                shifted = jnp.pad(basis, (1, 0)) - places[i] * jnp.pad(basis, (0, 1))
                basis = shifted / (places[j] - places[i])
        weights.append(jnp.sum(basis / jnp.arange(1, basis.shape[0] + 1, dtype=places.dtype)))
    return jnp.stack(weights)
