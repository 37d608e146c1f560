"""The loop from noise to data, its configuration, and the two edges: noise per image and pictures as bytes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.models import interface
from jaxgen.parallel import keys as streams_of
from jaxgen.samplers import guidance
from jaxgen.samplers.process import Flow, Process
from jaxgen.samplers.steppers import Euler, Stepper
from jaxgen.samplers.time_grids import TimeGrid, Uniform
from jaxgen.types import BadInput, Condition, PyTree, Velocity


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How noise becomes data.

    Attributes:
      steps: number of steps from noise to data.
      stepper: the integrator.
      grid: the times between which it steps.
      guidance: scale of classifier-free guidance; 1 is none and needs no unconditional rows.
      guidance_interval: lowest and highest time of the flow, σ/(α + σ), at which guidance acts.
      guidance_channels: guidance acts on the first so many channels of latents, as DiT and SiT were published with 3 of 4; None is
        all of them.
      ema: decay of the parameter average to sample from; None is the first that the run keeps, 0.0 the parameters as
        trained, without averaging. Read by the command that loads the checkpoint.
      images_per_device: images that a device computes at once. Fixed, so that a picture depends neither on how many are
        asked for nor on the number of devices (another batch size may compile to another order of summation).
    """

    steps: int = 25
    stepper: Stepper = dataclasses.field(
        default=Euler(),
        metadata={
            "choices": {
                "adams_bashforth": "jaxgen.samplers.steppers:AdamsBashforth",
                "ancestral": "jaxgen.samplers.steppers:Ancestral",
                "ddpm": "jaxgen.samplers.stochastic:DDPM",
                "euler": "jaxgen.samplers.steppers:Euler",
                "euler_maruyama": "jaxgen.samplers.stochastic:EulerMaruyama",
                "heun": "jaxgen.samplers.steppers:Heun",
                "heun_sde": "jaxgen.samplers.stochastic:HeunSDE",
                "dpm_solver_pp_2m": "jaxgen.samplers.steppers:DPMSolverPP2M",
            }
        },
    )
    grid: TimeGrid = dataclasses.field(
        default=Uniform(),
        metadata={
            "choices": {
                "respaced": "jaxgen.samplers.gaussian:Respaced",
                "strided": "jaxgen.samplers.gaussian:Strided",
                "uniform": "jaxgen.samplers.time_grids:Uniform",
            }
        },
    )
    guidance: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_channels: int | None = None
    ema: float | None = None
    images_per_device: int = 64

    def validate(self) -> None:
        """Raises BadInput, with option names relative to this dataclass, for values that cannot be sampled with."""
        if self.steps < 1:
            raise BadInput("steps", self.steps, "at least 1")
        check_drawing(self)
        if len(self.guidance_interval) != 2 or not 0 <= self.guidance_interval[0] <= self.guidance_interval[1] <= 1:
            raise BadInput("guidance_interval", self.guidance_interval, "(low, high) with 0 <= low <= high <= 1")
        if self.guidance_channels is not None and self.guidance_channels < 1:
            raise BadInput("guidance_channels", self.guidance_channels, "None, or at least 1")
        times = self.grid(self.steps)
        # Float32 runs out where a large shift crowds many steps together; a step of length 0 would divide by it.
        if not (times[0] <= 1 and times[-1] == 0 and np.all(np.diff(times) < 0)):
            raise BadInput("grid", self.grid, f"{self.steps + 1} times that fall strictly, from at most 1 to 0, in float32")

    def check(self, experiment: Any) -> None:
        """The grid must suit the process that the network is trained on, and guidance the channels of its latents."""
        if not hasattr(experiment.objective, "process"):
            kind = type(experiment.objective).__name__
            needed = (
                f"none, or for codes jaxgen.samplers.autoregressive:Autoregressive: {kind} trains no network to draw from noise"
            )
            raise BadInput("sampler", type(self).__name__, needed)
        experiment.objective.process.check_times(self.grid(self.steps))
        if self.guidance_channels is not None and self.guidance_channels > experiment.model.channels:
            needed = f"at most {experiment.model.channels}, the channels of latents (model.channels)"
            raise BadInput("sampler.guidance_channels", self.guidance_channels, needed)

    def nfe(self, experiment: Any) -> int:
        """See `types.Sampler`; it does not depend on the experiment."""
        del experiment
        return self.stepper.calls(self.steps)

    def latents(
        self, experiment: Any, params: PyTree, streams: dict[str, Condition], indices: jax.Array, root: jax.Array
    ) -> jax.Array:
        """See `types.Sampler`."""
        model, process = experiment.model, experiment.objective.process
        side = experiment.data.resolution // experiment.autoencoder.factor
        compute = jnp.dtype(experiment.precision.compute)
        noise = noise_for(streams_of.stream(root, "sample"), indices, (side, side, model.channels))
        own = keys_for(streams_of.stream(root, "sample on the way"), indices)
        if guidance.needs_null(self.guidance):
            streams = jax.tree.map(guidance.interleaved, streams, interface.null(streams))

        def network(x: jax.Array, t: jax.Array, carry: PyTree) -> tuple[jax.Array, PyTree]:
            return interface.velocity(model, params, x, t, streams, compute), carry

        latents, _ = self(self.guided(process.as_flow(network)), noise, (), own, process)
        return latents

    def guided(self, velocity: Velocity) -> Velocity:
        """`velocity` under this guidance: it takes 2B rows, conditional and unconditional in turn, or B where the scale is 1."""
        if not guidance.needs_null(self.guidance):
            return velocity
        return guidance.classifier_free(velocity, self.guidance, self.guidance_interval, self.guidance_channels)

    def __call__(
        self, velocity: Velocity, noise: jax.Array, carry: PyTree, keys: jax.Array | None = None, process: Process = Flow()
    ) -> tuple[jax.Array, PyTree]:
        """Data [B, ...] from noise [B, ...], and the last carry.

        Args:
          velocity: the flow's (`Process.as_flow`), on B rows, guidance included (`guided`). The structure, shapes and dtypes of its
            carry stay the same from call to call.
          noise: x at the first time of the grid. The state is float32, or the dtype of the noise if that is wider.
          carry: what the first call of `velocity` gets.
          keys: [B] (`keys_for`), for a stepper that draws noise on the way.
          process: what the network was trained on.
        """
        x, carry, _ = self._run(velocity, noise, carry, keys, process, keep=False)
        return x, carry

    def trajectory(
        self, velocity: Velocity, noise: jax.Array, carry: PyTree, keys: jax.Array | None = None, process: Process = Flow()
    ) -> tuple[jax.Array, PyTree]:
        """Like `__call__`, but x_t of the process at every time of the grid, [steps + 1, B, ...] from noise to data."""
        _, carry, path = self._run(velocity, noise, carry, keys, process, keep=True)
        return jnp.concatenate([noise[None].astype(path.dtype), path]), carry

    def _run(
        self, velocity: Velocity, noise: jax.Array, carry: PyTree, keys: jax.Array | None, process: Process, keep: bool
    ) -> tuple[jax.Array, PyTree, jax.Array | None]:
        x = noise.astype(jnp.promote_types(noise.dtype, jnp.float32))
        times, lengths = (jnp.asarray(values, x.dtype) for values in process.in_flow(self.grid(self.steps)))
        x = x / lengths[0]

        def body(loop: PyTree, span: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[PyTree, jax.Array | None]:
            x, state, carry = loop
            t, t_next, length = span
            x, state, carry = self.stepper.step(velocity, x, t, t_next, state, carry)
            return (x, state, carry), x * length if keep else None

        (x, _, carry), path = jax.lax.scan(body, (x, self.stepper.init(x, keys), carry), (times[:-1], times[1:], lengths[1:]))
        return x, carry, path


def check_drawing(sampler: Any) -> None:
    """Refuses what no sampler can draw with.

    Raises:
      BadInput: `guidance`, `ema` or `images_per_device` of the sampler.
    """
    if not (math.isfinite(sampler.guidance) and sampler.guidance >= 0):
        raise BadInput("guidance", sampler.guidance, "a finite number, 0 or above (1 is no guidance)")
    if sampler.ema is not None and not 0 <= sampler.ema < 1:
        raise BadInput("ema", sampler.ema, "None, or a decay in [0, 1)")
    if sampler.images_per_device < 1:
        raise BadInput("images_per_device", sampler.images_per_device, "at least 1")


def keys_for(key: jax.Array, indices: jax.Array) -> jax.Array:
    """Keys [B], of which key r depends on `key` and indices[r] alone.

    Args:
      key: a typed threefry key. Raises ValueError for another kind: under `rbg` a vmapped draw depends on the batch.
      indices: [B] integers, the numbers of the images.
    """
    if str(jax.random.key_impl(key)) != "threefry2x32":
        raise ValueError(f"key: found a key of {jax.random.key_impl(key)!s}, needed threefry2x32")
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)


def noise_for(key: jax.Array, indices: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Standard normal noise [B, *shape] float32, each row from its key (`keys_for`); `shape` is that of one image's latents."""
    return jax.vmap(lambda key: jax.random.normal(key, tuple(shape), jnp.float32))(keys_for(key, indices))


def to_uint8(x: jax.Array) -> jax.Array:
    """Pictures in [-1, 1] as uint8 of the same shape: round(127.5 x + 127.5), clipped to [0, 255]."""
    return jnp.round(jnp.clip(127.5 * x + 127.5, 0, 255)).astype(jnp.uint8)


def from_uint8(pictures: jax.Array) -> jax.Array:
    """The other way, without rounding: uint8 to float32 in [-1, 1]."""
    return pictures.astype(jnp.float32) / 127.5 - 1.0
