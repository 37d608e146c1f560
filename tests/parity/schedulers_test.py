"""Samplers against the schedulers of diffusers: ten steps from the same noise, with the same draws on the way."""

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest

from jaxgen.samplers import steppers
from jaxgen.samplers.gaussian import Diffusion, Strided
from jaxgen.samplers.process import Flow
from jaxgen.samplers.sampler import Sampler, keys_for
from jaxgen.samplers.steppers import Ancestral, DPMSolverPP2M, Euler
from jaxgen.samplers.stochastic import DDPM
from jaxgen.samplers.time_grids import Uniform

torch = pytest.importorskip("torch", reason="the schedulers to compare with run in torch; it comes with the extra `parity`")
diffusers = pytest.importorskip("diffusers", reason="the schedulers to compare with; they come with the extra `parity`")

STEPS = 10
# Relative. Tables and states of both are float32, and the first states divide rounding errors by √ᾱ_1000 = 0.006.
TOLERANCE = 5e-6
DRAWS = np.random.default_rng(0)
NOISE = DRAWS.normal(size=(2, 4, 6, 6)).astype(np.float32)
ON_THE_WAY = DRAWS.normal(size=(STEPS, 2, 4, 6, 6)).astype(np.float32)
KEYS = keys_for(jax.random.key(0, impl="threefry2x32"), jnp.arange(2))
GRIDS = {"trailing": Uniform(), "leading": Strided()}
each_spacing = pytest.mark.parametrize("spacing", GRIDS)


def output(x, t, variance):
    """What a network might say of x [B, C, ...] at time t in [0, 1]; NumPy or JAX arrays alike. With variances, 2 C channels."""
    predicted = 0.9 * x - 0.3 * jnp.tanh(x + 2 * t) + 0.1
    return jnp.concatenate([predicted, jnp.sin(3 * x + t)], axis=1) if variance else predicted


def theirs(scheduler, variance=False, times=None, **options):
    """[steps + 1, B, C, H, W]; the network is told `times`, or the timesteps over 1000."""
    times = [np.float32(t) / 1000 for t in scheduler.timesteps] if times is None else times
    x, path = torch.from_numpy(NOISE), [NOISE]
    for i, t in enumerate(scheduler.timesteps):
        said = torch.from_numpy(np.array(output(x.numpy(), times[i], variance)))
        own = {"variance_noise": torch.from_numpy(ON_THE_WAY[i])} if "eta" in options else {}
        x = scheduler.step(said, t, x, **options, **own).prev_sample
        path.append(x.numpy())
    return np.stack(path)


def ours(sampler, process):
    def network(x, t, carry):
        said = output(x.transpose(0, 3, 1, 2), t[:, None, None, None], process.learned_variance)
        return said.transpose(0, 2, 3, 1), carry

    path, _ = sampler.trajectory(sampler.guided(process.as_flow(network)), published.here(NOISE), (), KEYS, process)
    return np.stack([published.there(x) for x in path])


def compare(found, expected):
    for i, (x, y) in enumerate(zip(found, expected, strict=True)):
        assert published.error(x, y) < TOLERANCE, i
    # Every step moves, so that none is compared with itself.
    assert min(published.error(a, b) for a, b in zip(expected[1:], expected[:-1], strict=True)) > 1e-3


@pytest.fixture(autouse=True)
def injected(monkeypatch):
    noise = jnp.stack([published.here(x) for x in ON_THE_WAY])
    monkeypatch.setattr(steppers, "draw", lambda state, x: (noise[state[1]], (state[0], state[1] + 1)))
    drawn = iter(ON_THE_WAY)
    scheduling = diffusers.schedulers.scheduling_ddpm
    monkeypatch.setattr(scheduling, "randn_tensor", lambda *shape, **rest: torch.from_numpy(next(drawn)))


def prepared(kind, spacing, **options):
    scheduler = kind(beta_schedule="linear", timestep_spacing=spacing, **options)
    scheduler.set_timesteps(STEPS)
    return scheduler


@each_spacing
@pytest.mark.parametrize("variance", ["learned_range", "fixed_small", "fixed_large"])
def test_ddpm(variance, spacing):
    scheduler = prepared(diffusers.DDPMScheduler, spacing, variance_type=variance, clip_sample=False)
    learned = variance == "learned_range"
    sampler = Sampler(steps=STEPS, stepper=DDPM(variance), grid=GRIDS[spacing])
    # Theirs adds noise in the last step, too, unless its timestep is 0; the authors' samplers do not.
    same = slice(None) if spacing == "leading" else slice(-1)
    compare(ours(sampler, Diffusion(learned_variance=learned))[same], theirs(scheduler, learned)[same])


@each_spacing
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(eta, spacing):
    scheduler = prepared(diffusers.DDIMScheduler, spacing, clip_sample=False)
    compare(ours(Sampler(steps=STEPS, stepper=Ancestral(eta), grid=GRIDS[spacing]), Diffusion()), theirs(scheduler, eta=eta))


@each_spacing
@pytest.mark.parametrize("prediction, name", [("noise", "epsilon"), ("v", "v_prediction")])
def test_ddim_without_noise_is_euler_whatever_the_network_predicts(prediction, name, spacing):
    scheduler = prepared(diffusers.DDIMScheduler, spacing, clip_sample=False, prediction_type=name)
    compare(ours(Sampler(steps=STEPS, stepper=Euler(), grid=GRIDS[spacing]), Diffusion(prediction=prediction)), theirs(scheduler))


@each_spacing
@pytest.mark.parametrize("prediction, name", [("noise", "epsilon"), ("v", "v_prediction")])
def test_dpm_solver_pp_on_diffusion(prediction, name, spacing):
    # Their leading steps are eleventh parts.
    options = {"algorithm_type": "dpmsolver++", "solver_order": 2, "prediction_type": name}
    scheduler = prepared(diffusers.DPMSolverMultistepScheduler, spacing, **options)
    grid = Given(tuple((float(t) + 1) / 1000 for t in scheduler.timesteps))
    compare(ours(Sampler(steps=STEPS, stepper=DPMSolverPP2M(), grid=grid), Diffusion(prediction=prediction)), theirs(scheduler))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_on_flow(shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS))
    compare(ours(Sampler(steps=STEPS, grid=Uniform(shift)), Flow()), theirs(scheduler))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_dpm_solver_pp_on_flow(shift):
    options = {"use_flow_sigmas": True, "flow_shift": shift, "prediction_type": "flow_prediction"}
    scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", solver_order=2, **options)
    scheduler.set_timesteps(STEPS)
    # Their timesteps are whole numbers, near the times at which the solver believes itself to be.
    times = scheduler.sigmas[:-1].numpy()
    compare(ours(Sampler(steps=STEPS, stepper=DPMSolverPP2M(), grid=Given(times)), Flow()), theirs(scheduler, times=times))


class Given:
    """Times as given, and 0."""

    def __init__(self, times):
        self.times = times

    def __call__(self, steps):
        return np.array([*self.times, 0], np.float32)
