"""Gaussian diffusion on images: the network predicts ε or v of a chain of noising steps, and perhaps its reverse steps' variance.

Ho et al. 2020 (arXiv 2006.11239) for the mean; Nichol and Dhariwal 2021 (arXiv 2102.09672) for the variance, as DiT was trained.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxgen import types
from jaxgen.objectives.denoising import Denoising
from jaxgen.objectives.timesteps import Uniform
from jaxgen.samplers.gaussian import Diffusion, Posterior
from jaxgen.samplers.process import over


@dataclasses.dataclass(frozen=True)
class GaussianDiffusion(Denoising):
    """Mean squared error of the prediction; with a learned variance, plus the variational bound, of which only the variance learns.

    Steps of the chain are drawn uniformly.

    Attributes:
      process: the chain, and what the network predicts.
      bound_weight: λ of L_simple + λ L_vlb (arXiv 2102.09672, equation 16), where L_vlb, in bits a value, sums over the steps of
        the chain; read where the variance is learned. At 1000 steps 0.001 adds the term of the step that was drawn as it is.
    """

    process: Diffusion = Diffusion()
    bound_weight: float = 0.001

    def validate(self) -> None:
        super().validate()
        if not (math.isfinite(self.bound_weight) and self.bound_weight > 0):
            raise types.BadInput("bound_weight", self.bound_weight, "a finite number above 0")

    def times(self, key: jax.Array, count: int, pixels: int) -> jax.Array:
        return jnp.ceil(Uniform()(key, count) * self.process.steps) / self.process.steps

    def errors(
        self, output: jax.Array, x_t: jax.Array, latents: jax.Array, noise: jax.Array, t: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        channels = latents.shape[-1]
        predicted, place = output[..., :channels], output[..., channels:]
        simple = jnp.mean((predicted - self.process.target(latents, noise, t)) ** 2, axis=(1, 2, 3))
        if not self.process.learned_variance:
            return simple, {}
        bound = bound_term(self.process, jax.lax.stop_gradient(predicted), place, x_t, latents, t)
        loss = simple + self.bound_weight * self.process.steps * bound
        return loss, {"loss_simple": simple, "loss_bound": bound}


def bound_term(
    process: Diffusion, predicted: jax.Array, place: jax.Array, x_t: jax.Array, latents: jax.Array, t: jax.Array
) -> jax.Array:
    """The variational bound's term of the step from x_t towards the data, in bits a value: [B] float32.

    KL(q(x' | x_t, x_0) ‖ p(x' | x_t)); for the last step, whose result is data, -log p(x_0 | x_t) of data in 256 levels from -1 to
    1, which the published code takes latents for, too.

    Args:
      predicted: [B, H, W, C], the network's prediction.
      place: [B, H, W, C], where the log-variance lies between its bounds: -1 is the lower, 1 the upper.
      x_t, latents: [B, H, W, C], the state and x_0.
      t: [B] in (0, 1].
    """
    posterior = Posterior.of(process.alphas_cumprod())
    step = jnp.round(t * process.steps).astype(jnp.int32) - 1
    at = lambda table: over(jnp.take(jnp.asarray(table, jnp.float32), step), x_t)
    # Bounds of most steps are so near to each other that the difference of their float32 logarithms would be lost.
    above = (place + 1) / 2 * at(posterior.log_beta - posterior.log_variance)
    log_variance = at(posterior.log_variance) + above
    # Means of q and p share their term in x_t, and the last step's mean is x̂_0 itself.
    gap = at(posterior.data) * (latents - process.data_and_noise(x_t, predicted, t)[0])
    divergence = (above + jnp.expm1(-above) + gap**2 * jnp.exp(-log_variance)) / 2
    terms = jnp.where(over(step, x_t) == 0, -_log_level(latents, gap, log_variance), divergence)
    return jnp.mean(terms, axis=(1, 2, 3)) / math.log(2)


def _log_level(data: jax.Array, gap: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Log of the mass that a Gaussian, whose mean lies `gap` below data in [-1, 1], gives to the data's level of 256."""
    scale = jnp.exp(-log_variance / 2)
    above, below = _cumulative(scale * (gap + 1 / 255)), _cumulative(scale * (gap - 1 / 255))
    # The outermost levels reach to infinity.
    mass = jnp.where(data < -0.999, above, jnp.where(data > 0.999, 1 - below, above - below))
    return jnp.log(jnp.maximum(mass, 1e-12))


def _cumulative(z: jax.Array) -> jax.Array:
    """The standard normal's distribution function to 3e-4, by a tanh as in the published code."""
    return (1 + jnp.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2
