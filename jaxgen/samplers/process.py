"""How data become noise. One object serves the training objective and the samplers.

A process is x_t = α(t) x_0 + σ(t) ε with t = 0 data, t = 1 noise and ε ~ N(0, I). Samplers integrate `Flow`; another process
(`jaxgen.samplers.gaussian`) is brought into its coordinates where network and sampler meet.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.types import BadInput, Velocity


class Process(Protocol):
    """What a network was trained on, as samplers see it; objectives hold it under `process`.

    Attributes:
      learned_variance: whether the network puts out channels for the variance of a reverse step behind its prediction.
    """

    learned_variance: bool

    def in_flow(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The flow's times for those of a grid [N + 1], and by what factors x_t is longer than the flow's state there."""

    def check_times(self, times: np.ndarray) -> None:
        """Raises BadInput, options named from the experiment's root, where noise cannot become data by these times [N + 1]."""

    def as_flow(self, network: Velocity) -> Velocity:
        """The flow's velocity from what the network puts out."""


def over(t: jax.Array, x: jax.Array) -> jax.Array:
    """`t` with trailing axes of size 1 up to the rank of `x`: a scalar, [B] or [B, L] lines up with x [B, L, ...]."""
    return jnp.reshape(t, jnp.shape(t) + (1,) * (jnp.ndim(x) - jnp.ndim(t)))


@dataclasses.dataclass(frozen=True)
class Flow:
    """Rectified flow: α(t) = 1 - t, σ(t) = t, v = ε - x_0 (Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2022).

    In all methods x_0, noise, x_t and v share one shape [B, ...], and `t` is a scalar, [B], or [B, L] where the tokens
    of an example have times of their own; `alpha`, `sigma` and `log_snr` keep the shape of `t`.
    """

    learned_variance = False

    def alpha(self, t: jax.Array) -> jax.Array:
        """The factor of the data in x_t."""
        return 1 - t

    def sigma(self, t: jax.Array) -> jax.Array:
        """The factor of the noise in x_t."""
        return t

    def log_snr(self, t: jax.Array) -> jax.Array:
        """2 log(α/σ): -inf at t = 1, +inf at t = 0. The λ of DPM-Solver is half of it."""
        return 2 * (jnp.log1p(-t) - jnp.log(t))

    def interpolate(self, x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
        """x_t."""
        t = over(t, x0)
        return self.alpha(t) * x0 + self.sigma(t) * noise

    def velocity(self, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """dx_t/dt, what the network is trained to predict; the same at all times, as paths are straight."""
        return noise - x0

    def data(self, x_t: jax.Array, v: jax.Array, t: jax.Array) -> jax.Array:
        """The estimate of x_0 that velocity `v` at x_t implies: x_t - t v."""
        return x_t - over(t, x_t) * v

    def noise(self, x_t: jax.Array, v: jax.Array, t: jax.Array) -> jax.Array:
        """The estimate of ε that velocity `v` at x_t implies: x_t + (1 - t) v."""
        return x_t + (1 - over(t, x_t)) * v

    def network_time(self, t: jax.Array) -> jax.Array:
        """What the network is told at time t: t itself."""
        return t

    def in_flow(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Process.in_flow`: the times themselves, and factors of 1."""
        return times, np.ones_like(times)

    def check_times(self, times: np.ndarray) -> None:
        """See `Process.check_times`: they must begin at 1, the only time at which a flow is pure noise."""
        if times[0] != 1:
            raise BadInput("sampler.grid", f"times from {times[0]:g} on", "a grid that begins at 1, where a flow is pure noise")

    def as_flow(self, network: Velocity) -> Velocity:
        """See `Process.as_flow`: the network predicts the velocity."""
        return network
