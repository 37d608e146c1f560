"""Gaussian diffusion in discrete steps (Ho et al. 2020, arXiv:2006.11239), sampled as the flow that it is.

After k of T noising steps x_t = √ᾱ_k x_0 + √(1 - ᾱ_k) ε, and t = k/T: t = 0 is data, t = 1 the noisiest state. Public code counts
states from 0: its integer timestep k - 1 is what the network is told, over T (`network_time`).

Every process x_t = α x_0 + σ ε is rectified flow in other coordinates: x_t/(α + σ) = (1 - τ) x_0 + τ ε with τ = σ/(α + σ).
Steppers know flow alone; `Diffusion.as_flow` is the one place where what a network predicts becomes the velocity ε - x_0. Euler
steps in these coordinates are DDIM (Song et al. 2020, arXiv:2010.02502); DPM-Solver++, which knows α/σ alone, stays what it is.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.samplers.process import over
from jaxgen.types import BadInput, PyTree, Velocity


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """A variance-preserving chain of T steps with variances β that rise linearly.

    In all methods x_0, noise and x_t share one shape [B, ...], channels last, and `t` is a scalar, [B] or [B, L]; it is rounded to
    a multiple of 1/T.

    Attributes:
      steps: T, the number of noising steps.
      beta_start, beta_end: first and last β of a chain of 1000 steps; other lengths scale both by 1000/T, so that the noise at
        the end stays about the same.
      prediction: what the network puts out: "noise" is ε, "v" is α ε - σ x_0 (Salimans and Ho 2022, arXiv:2202.00512).
      learned_variance: whether the network puts out as many channels again, which say where the log-variance of a reverse step
        lies between its bounds (Nichol and Dhariwal 2021, arXiv:2102.09672, equation 15); -1 is the lower, 1 the upper.
    """

    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    prediction: Literal["noise", "v"] = "noise"
    learned_variance: bool = False

    def validate(self) -> None:
        """Raises BadInput for a chain whose variances do not lie in (0, 1)."""
        if self.steps < 2:
            raise BadInput("steps", self.steps, "at least 2")
        if self.beta_start <= 0:
            raise BadInput("beta_start", self.beta_start, "above 0")
        highest = self.steps / 1000
        if not self.beta_start <= self.beta_end < highest:
            raise BadInput("beta_end", self.beta_end, f"from beta_start={self.beta_start} to below steps/1000={highest:g}")

    def betas(self) -> np.ndarray:
        """β_k, the variance that step k = 1 … T adds, [T] float64."""
        return np.linspace(self.beta_start, self.beta_end, self.steps, dtype=np.float64) * (1000 / self.steps)

    def alphas_cumprod(self) -> np.ndarray:
        """ᾱ_k for k = 0 … T, [T + 1] float64: 1, and the products of 1 - β."""
        return np.concatenate([[1.0], np.cumprod(1 - self.betas())])

    def alpha(self, t: jax.Array) -> jax.Array:
        """The factor of the data in x_t; shape and dtype of `t`."""
        return self._look_up(self._alphas(), t)

    def sigma(self, t: jax.Array) -> jax.Array:
        """The factor of the noise in x_t; shape and dtype of `t`."""
        return self._look_up(self._sigmas(), t)

    def network_time(self, t: jax.Array) -> jax.Array:
        """What the network is told at time t: (k - 1)/T."""
        return ((self._index(t) - 1) / self.steps).astype(t.dtype)

    def interpolate(self, x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
        """x_t."""
        return over(self.alpha(t), x0) * x0 + over(self.sigma(t), x0) * noise

    def target(self, x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
        """What the network is trained to predict at x_t."""
        if self.prediction == "noise":
            return noise
        return over(self.alpha(t), x0) * noise - over(self.sigma(t), x0) * x0

    def data_and_noise(self, x_t: jax.Array, predicted: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The estimates of x_0 and ε that a prediction at x_t implies."""
        alpha, sigma = over(self.alpha(t), x_t), over(self.sigma(t), x_t)
        if self.prediction == "noise":
            return (x_t - sigma * predicted) / alpha, predicted
        return alpha * x_t - sigma * predicted, sigma * x_t + alpha * predicted

    def in_flow(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flow times τ of the times of a grid, and the factors α + σ by which x_t is longer than the flow's state.

        Args:
          times: [N + 1], from at most 1 to 0; each is rounded to a multiple of 1/T.

        Returns:
          Two arrays [N + 1] float64.
        """
        index = self._rounded(times)
        return self._flow_times()[index], (self._alphas() + self._sigmas())[index]

    def check_times(self, times: np.ndarray) -> None:
        """See `Process.check_times`: at most T steps, of which no two ends fall together when rounded."""
        count, index = len(times) - 1, self._rounded(times)
        if count > self.steps:
            raise BadInput("sampler.steps", count, f"at most {self.steps}, the steps of the process (objective.process.steps)")
        if np.any(np.diff(index) >= 0):
            needed = f"times that differ by 1/{self.steps} or more, as the process has {self.steps} steps (objective.process.steps)"
            raise BadInput("sampler.grid", f"{count} steps from {times[0]:g} to {times[-1]:g}", needed)

    def as_flow(self, network: Velocity) -> Velocity:
        """A flow's velocity from a network that was trained on this process.

        Args:
          network: (x_t [B, ...], network's time [B], carry) -> (its output [B, ..., C or 2C], carry).

        Returns:
          (x_t/(α + σ), τ [B], carry) -> (v, carry), at the times that `in_flow` gives. With a learned variance, v has the network's
          channels for it behind its own.
        """
        # Halfway between neighbours, so that a τ rounded to float32 is still found.
        table = self._flow_times()
        between = (table[1:] + table[:-1]) / 2

        def velocity(x: jax.Array, tau: jax.Array, carry: PyTree) -> tuple[jax.Array, PyTree]:
            index = jnp.maximum(jnp.searchsorted(jnp.asarray(between, tau.dtype), tau), 1)
            t = (index / self.steps).astype(tau.dtype)
            x_t = x * over(self.alpha(t) + self.sigma(t), x)
            output, carry = network(x_t, self.network_time(t), carry)
            output = output.astype(jnp.promote_types(output.dtype, x.dtype))
            predicted, rest = output[..., : x.shape[-1]], output[..., x.shape[-1] :]
            data, noise = self.data_and_noise(x_t, predicted, t)
            return jnp.concatenate([noise - data, rest], axis=-1) if self.learned_variance else noise - data, carry

        return velocity

    def _alphas(self) -> np.ndarray:
        return np.sqrt(self.alphas_cumprod())

    def _sigmas(self) -> np.ndarray:
        return np.sqrt(1 - self.alphas_cumprod())

    def _flow_times(self) -> np.ndarray:
        return self._sigmas() / (self._alphas() + self._sigmas())

    def _rounded(self, times: np.ndarray) -> np.ndarray:
        return np.rint(np.asarray(times, np.float64) * self.steps).astype(int)

    def _index(self, t: jax.Array) -> jax.Array:
        return jnp.round(t * self.steps).astype(jnp.int32)

    def _look_up(self, table: np.ndarray, t: jax.Array) -> jax.Array:
        return jnp.take(jnp.asarray(table, t.dtype), self._index(t))


@dataclasses.dataclass(frozen=True)
class Posterior:
    """q(x' | x_t, x_0) for states of a variance-preserving chain, x' being each one's neighbour towards the data.

    Attributes:
      data, state: [N], factors of x_0 and of x_t in its mean.
      log_beta: [N], log of the variance of x_t given x', the upper bound of the variance of a reverse step.
      log_variance: [N], log of its own variance, the lower bound. That of the state next to the data is 0; there stands its
        neighbour's, as in the published code, since a network is trained on the logarithm.
    """

    data: np.ndarray
    state: np.ndarray
    log_beta: np.ndarray
    log_variance: np.ndarray

    @classmethod
    def of(cls, alphas_cumprod: np.ndarray) -> Posterior:
        """From ᾱ of the states visited, [N + 1] float64, falling from 1 (the data)."""
        before, now = alphas_cumprod[:-1], alphas_cumprod[1:]
        beta = 1 - now / before
        variance = beta * (1 - before) / (1 - now)
        return cls(
            data=np.sqrt(before) * beta / (1 - now),
            state=np.sqrt(now / before) * (1 - before) / (1 - now),
            log_beta=np.log(beta),
            log_variance=np.log(np.concatenate([variance[1:2], variance[1:]])),
        )


@dataclasses.dataclass(frozen=True)
class Respaced:
    """The steps of a chain that DDPM samplers visit: evenly spread, the noisiest and the one next to the data included.

    Timesteps, counted from 0, are round(j (T - 1)/(N - 1)) (Nichol and Dhariwal 2021, arXiv:2102.09672, §4; "250" of DiT's code).

    Attributes:
      training_steps: T of the process.
    """

    training_steps: int = 1000

    def __call__(self, steps: int) -> np.ndarray:
        _check_steps(steps, self.training_steps)
        return _times(np.rint(np.linspace(self.training_steps - 1, 0, steps)), self.training_steps)

    def check(self, experiment: Any) -> None:
        _check_length(self.training_steps, experiment)


@dataclasses.dataclass(frozen=True)
class Strided:
    """Every n-th step of a chain, the one next to the data included, as DDIM samplers visit them ("ddim25" of public code).

    n is the smallest stride that visits as many as asked for. The noisiest state visited lies up to n - 1 steps below T, and is
    taken to be pure noise all the same.

    Attributes:
      training_steps: T of the process.
    """

    training_steps: int = 1000

    def __call__(self, steps: int) -> np.ndarray:
        _check_steps(steps, self.training_steps)
        stride = -(-self.training_steps // steps)
        visited = np.arange(0, self.training_steps, stride)
        if len(visited) != steps:
            raise BadInput("steps", steps, f"a number that a whole stride gives: one of {stride} visits {len(visited)} states")
        return _times(visited[::-1], self.training_steps)

    def check(self, experiment: Any) -> None:
        _check_length(self.training_steps, experiment)


def _times(timesteps: np.ndarray, training_steps: int) -> np.ndarray:
    """Public timesteps, falling to 0, as times with the data at their end."""
    return np.append((timesteps + 1) / training_steps, 0.0).astype(np.float32)


def _check_steps(steps: int, training_steps: int) -> None:
    if steps > training_steps:
        raise BadInput("steps", steps, f"at most {training_steps}, the steps that the process was trained with")


def _check_length(training_steps: int, experiment: Any) -> None:
    found = getattr(experiment.objective.process, "steps", None)
    if found != training_steps:
        needed = "the length of the objective's process, which has " + ("no steps" if found is None else f"{found}")
        raise BadInput("sampler.grid.training_steps", training_steps, needed)
