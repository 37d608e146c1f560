"""Processes and samplers against recorded runs of the authors' code, the same draws injected: DiT's diffusion, SiT's flow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest

from jaxgen import mup, types
from jaxgen.autoencoders.identity import Identity
from jaxgen.interop import dit as interop
from jaxgen.models import interface
from jaxgen.models.dit import DiT
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.objectives.gaussian_diffusion import GaussianDiffusion
from jaxgen.samplers import guidance, steppers
from jaxgen.samplers.gaussian import Diffusion, Posterior, Respaced, Strided
from jaxgen.samplers.process import Flow, over
from jaxgen.samplers.sampler import Sampler, keys_for
from jaxgen.samplers.steppers import Ancestral, Euler, Heun
from jaxgen.samplers.stochastic import DDPM, EulerMaruyama, HeunSDE
from jaxgen.samplers.time_grids import Uniform

# Ten steps of networks of random weights, whose states grow to 200: rounding errors of 2e-6 an output add up along the way.
TRAJECTORIES = 1e-5

RUNS = {"dit": published.load("dit"), "sit": published.load("sit")}
SMALL = DiT(width=64, depth=3, channels=4, scaling=mup.Scaling(base_width=64))
NETWORKS = {"dit": interop.dit(SMALL.clone(learn_variance=True), 4), "sit": interop.sit(SMALL, 4)}
DIFFUSION = Diffusion(learned_variance=True)
PROCESSES = {"dit": DIFFUSION, "sit": Flow()}
KEYS = keys_for(jax.random.key(0, impl="threefry2x32"), jnp.arange(2))
each_size = pytest.mark.parametrize("doubled", [False, True], ids=["recorded", "doubled"])


def parameters(family, doubled):
    return NETWORKS[family][1].read(published.weights(RUNS[family], doubled, ["pos_embed"]))


@functools.cache
def compiled(family, sampler):
    """(params, noise) -> states; what is injected when it is first called stays in it, and belongs to the sampler."""
    model, process, runs = NETWORKS[family][0], PROCESSES[family], RUNS[family]
    streams = published.labels(runs["input/sampler_labels"], 10)
    if guidance.needs_null(sampler.guidance):
        streams = jax.tree.map(guidance.interleaved, streams, interface.null(streams))

    @jax.jit
    def run(params, noise):
        def network(x, t, carry):
            return interface.velocity(model, params, x, t, streams, jnp.float32), carry

        return sampler.trajectory(sampler.guided(process.as_flow(network)), noise, (), KEYS, process)[0]

    return run


def trajectory(family, sampler, doubled):
    """[steps + 1, B, C, H, W], as public code has it."""
    path = compiled(family, sampler)(parameters(family, doubled), published.here(RUNS[family]["input/sampler_noise"]))
    return np.stack([published.there(x) for x in path])


@pytest.fixture
def injected(monkeypatch):
    """Makes steppers draw recorded noise [steps, B, C, H, W]."""

    def inject(noise):
        noise = jnp.stack([published.here(x[:2]) for x in noise])
        monkeypatch.setattr(
            steppers, "draw", lambda state, x: (noise[jnp.minimum(state[1], len(noise) - 1)], (state[0], state[1] + 1))
        )

    return inject


def close_by_step(found, expected):
    for i, (x, y) in enumerate(zip(found, expected, strict=True)):
        assert published.error(x, y) < TRAJECTORIES, i


@pytest.mark.parametrize(
    "grid, steps, name",
    [(Respaced(), 10, "ddpm_timestep_map"), (Respaced(), 250, "timestep_map_250"), (Strided(), 25, "timestep_map_ddim25")],
)
def test_the_steps_visited_are_those_of_public_respacing(grid, steps, name):
    found = np.rint(grid(steps)[:-1] * 1000).astype(int) - 1
    np.testing.assert_array_equal(found[::-1], RUNS["dit"][f"output/{name}"])


def test_the_tables_of_the_respaced_chain_are_the_authors():
    runs = RUNS["dit"]
    visited = np.concatenate([[0], runs["output/ddpm_timestep_map"] + 1])
    products = DIFFUSION.alphas_cumprod()[visited]
    posterior = Posterior.of(products)
    np.testing.assert_allclose(products[1:], runs["output/ddpm_alphas_cumprod"], rtol=1e-12)
    np.testing.assert_allclose(np.exp(posterior.log_beta), runs["output/ddpm_betas"], rtol=1e-12)
    np.testing.assert_allclose(posterior.log_variance, runs["output/ddpm_posterior_log_variance_clipped"], rtol=1e-12)


@each_size
@pytest.mark.parametrize("guided", [False, True], ids=["cfg_off", "cfg_on"])
def test_dit_s_ancestral_sampling_is_the_authors(guided, doubled, injected):
    name = "cfg_on" if guided else "cfg_off"
    injected(RUNS["dit"][f"input/ddpm_noise_{name}"])
    options = {"guidance": 4.0, "guidance_channels": 3} if guided else {}
    found = trajectory("dit", Sampler(steps=10, stepper=DDPM(), grid=Respaced(), **options), doubled)
    close_by_step(found, published.recorded(RUNS["dit"], "output", doubled)[f"ddpm_x_{name}"][:, :2])


@each_size
@pytest.mark.parametrize("stepper", [Euler(), Ancestral(eta=0.0)], ids=["euler", "without_eta"])
def test_dit_s_ddim_is_the_authors(stepper, doubled):
    found = trajectory("dit", Sampler(steps=10, stepper=stepper, grid=Respaced()), doubled)
    close_by_step(found, published.recorded(RUNS["dit"], "output", doubled)["ddim_x_cfg_off"])


@each_size
@pytest.mark.parametrize("stepper, name", [(EulerMaruyama(), "sde_euler_sigma_mean_x"), (HeunSDE(), "sde_heun_sigma_mean_x")])
def test_sit_s_stochastic_sampling_is_the_authors(stepper, name, doubled, injected):
    injected(RUNS["sit"]["input/sde_noise"])
    found = trajectory("sit", Sampler(steps=10, stepper=stepper, grid=Uniform(last_step=0.04)), doubled)
    close_by_step(found, published.recorded(RUNS["sit"], "output", doubled)[name])


@each_size
def test_sit_s_euler_sampling_is_the_authors_with_and_without_guidance(doubled):
    expected = published.recorded(RUNS["sit"], "output", doubled)
    close_by_step(trajectory("sit", Sampler(steps=10), doubled), expected["ode_euler_x"])
    guided = Sampler(steps=10, guidance=4.0, guidance_channels=3)
    close_by_step(trajectory("sit", guided, doubled), expected["ode_euler_cfg4_x"][:, :2])


@each_size
def test_the_score_that_a_velocity_implies_is_the_authors(doubled):
    runs, t = RUNS["sit"], jnp.asarray(1 - RUNS["sit"]["input/t"])
    x, expected = published.here(runs["input/x"]), published.recorded(runs, "output", doubled)
    noise = Flow().noise(x, -published.here(expected["out"]), t)
    published.close(published.there(-noise / over(t, x)), expected["score_from_velocity"], 1e-6)


@each_size
def test_sit_s_heun_sampling_is_the_authors_up_to_the_last_step(doubled):
    # There the authors' solver asks for the velocity of data without noise, and the one here does not.
    found = trajectory("sit", Sampler(steps=10, stepper=Heun()), doubled)
    close_by_step(found[:-1], published.recorded(RUNS["sit"], "output", doubled)["ode_heun2_x"][:-1])


def losses(family, objective, latents, t, doubled):
    """(loss, metrics) of each recorded example alone."""
    model, runs = NETWORKS[family][0], RUNS[family]
    views = types.Views({}, {}, {}, modules={"model": model, "autoencoder": Identity()})
    batch = {
        "latents": published.here(runs[f"input/{latents}"]),
        "noise": published.here(runs["input/loss_noise"]),
        "t": jnp.asarray(t, jnp.float32),
        "label": jnp.asarray(runs["input/loss_y"], jnp.int32),
        "dropped": jnp.asarray(runs["input/loss_y"] == 10),
        "weight": jnp.ones(3),
    }
    params = parameters(family, doubled)
    rows = ({name: value[i : i + 1] for name, value in batch.items()} for i in range(3))
    key = jax.random.key(0)
    one = jax.jit(lambda params, row: objective.loss("model", params, views, row, key, jnp.int32(0), ())[:2])
    return [one(params, row) for row in rows]


@each_size
def test_dit_s_training_loss_is_the_authors(doubled):
    expected = published.recorded(RUNS["dit"], "output", doubled)
    t = (RUNS["dit"]["input/loss_t"] + 1) / 1000
    found = losses("dit", GaussianDiffusion(process=DIFFUSION), "loss_x0", t, doubled)
    for i, (loss, metrics) in enumerate(found):
        np.testing.assert_allclose(loss, expected["train_loss"][i], rtol=1e-5)
        np.testing.assert_allclose(metrics["loss_simple"].value(), expected["train_mse"][i], rtol=1e-5)
        np.testing.assert_allclose(metrics["loss_bound"].value(), expected["train_vb"][i], rtol=1e-5)


def test_the_noised_data_of_both_processes_are_the_authors():
    for family, latents, t in (
        ("dit", "loss_x0", (RUNS["dit"]["input/loss_t"] + 1) / 1000),
        ("sit", "loss_data", 1 - RUNS["sit"]["input/loss_t"]),
    ):
        runs = RUNS[family]
        x0, noise = published.here(runs[f"input/{latents}"]), published.here(runs["input/loss_noise"])
        found = PROCESSES[family].interpolate(x0, noise, jnp.asarray(t, jnp.float32))
        published.close(published.there(found), runs["output/train_x_t"], 1e-6)


@each_size
def test_sit_s_training_loss_is_the_authors(doubled):
    expected = published.recorded(RUNS["sit"], "output", doubled)
    found = losses("sit", FlowMatching(), "loss_data", 1 - RUNS["sit"]["input/loss_t"], doubled)
    np.testing.assert_allclose([float(loss) for loss, _ in found], expected["train_loss"], rtol=1e-5)
