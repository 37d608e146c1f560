import importlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.samplers.gaussian import Diffusion, Respaced, Strided
from jaxgen.samplers.process import Flow
from jaxgen.samplers.sampler import Sampler, noise_for, to_uint8
from jaxgen.samplers.stochastic import DDPM
from jaxgen.samplers.time_grids import Uniform
from jaxgen.types import BadInput

KEY = jax.random.key(7, impl="threefry2x32")


@pytest.fixture(autouse=True)
def strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps", 0),
        ("guidance", -1.0),
        ("guidance", float("inf")),
        ("guidance_interval", (0.6, 0.3)),
        ("guidance_interval", (-0.1, 0.3)),
        ("guidance_interval", (0.0, 1.1)),
        ("guidance_channels", 0),
        ("ema", 1.0),
        ("ema", -0.5),
        ("images_per_device", 0),
    ],
)
def test_bad_options_are_refused_by_name(option, value):
    with pytest.raises(BadInput) as caught:
        Sampler(**{option: value}).validate()
    assert caught.value.option == option and caught.value.found == value


def test_a_grid_whose_times_collide_in_float32_is_refused():
    with pytest.raises(BadInput, match="grid"):
        Sampler(steps=100, grid=Uniform(1e7)).validate()


def test_defaults_are_valid():
    Sampler().validate()


@pytest.mark.parametrize("field", ["stepper", "grid"])
def test_short_names_lead_to_classes(field):
    choices = Sampler.__dataclass_fields__[field].metadata["choices"]
    for target in choices.values():
        module, name = target.split(":")
        Sampler(**{field: getattr(importlib.import_module(module), name)()}).validate()


def test_the_trajectory_runs_from_the_noise_to_the_result():
    def velocity(x, t, carry):
        return x * t[:, None], carry

    sampler, noise = Sampler(steps=5), jnp.ones((2, 3))
    path, _ = sampler.trajectory(velocity, noise, ())
    x, _ = sampler(velocity, noise, ())
    assert path.shape == (6, 2, 3)
    np.testing.assert_array_equal(path[0], noise)
    np.testing.assert_array_equal(path[-1], x)


def test_the_network_is_asked_at_the_times_of_the_grid():
    def velocity(x, t, carry):
        seen, i = carry
        return x, (seen.at[i].set(t[0]), i + 1)

    sampler = Sampler(steps=4, grid=Uniform(3.0))
    _, (seen, _) = sampler(velocity, jnp.ones((2, 3)), (jnp.zeros(4), 0))
    np.testing.assert_array_equal(seen, sampler.grid(4)[:-1])


def test_an_image_has_the_same_noise_in_any_batch():
    whole = noise_for(KEY, jnp.arange(10), (4, 4, 2))
    np.testing.assert_array_equal(noise_for(KEY, jnp.array([7, 2]), (4, 4, 2)), whole[jnp.array([7, 2])])


def test_an_image_has_the_same_noise_on_any_number_of_devices():
    devices = np.array(jax.devices())
    spread = NamedSharding(jax.sharding.Mesh(devices, ("data",)), P("data"))
    indices = jnp.arange(2 * len(devices))
    draw = jax.jit(lambda key, indices: noise_for(key, indices, (4, 4, 2)), out_shardings=spread)
    np.testing.assert_array_equal(draw(KEY, jax.device_put(indices, spread)), noise_for(KEY, indices, (4, 4, 2)))


def test_noise_is_standard_normal_and_differs_between_images():
    noise = noise_for(KEY, jnp.arange(64), (16, 16, 1))
    assert noise.dtype == jnp.float32 and noise.shape == (64, 16, 16, 1)
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03  # 16384 draws: four standard errors
    correlation = np.corrcoef(np.asarray(noise).reshape(64, -1)) - np.eye(64)
    assert np.abs(correlation).max() < 0.35  # 256 draws each: five standard errors


def test_keys_whose_draws_depend_on_the_batch_are_refused():
    with pytest.raises(ValueError, match="threefry2x32"):
        noise_for(jax.random.key(0, impl="rbg"), jnp.arange(2), (4,))


def test_bytes_round_to_nearest_and_clip():
    levels = jnp.arange(256)
    for offset in (-0.4, 0.0, 0.4):
        np.testing.assert_array_equal(to_uint8((levels + offset) / 127.5 - 1), levels)
    np.testing.assert_array_equal(to_uint8(jnp.array([-3.0, 1.5, 1e9])), np.array([0, 255, 255]))
    assert to_uint8(jnp.array([0.0])).dtype == jnp.uint8


def experiment(process, sampler):
    """What a sampler looks at."""
    named = types.SimpleNamespace
    return named(objective=named(process=process), model=named(channels=4), sampler=sampler)


MISFITS = {
    "more_steps_than_the_chain": (Diffusion(), Sampler(steps=1001), "sampler.steps", 1001),
    "times_that_fall_together": (Diffusion(), Sampler(steps=500, grid=Uniform(50.0)), "sampler.grid", None),
    "a_flow_that_begins_with_data": (Flow(), Sampler(grid=Strided()), "sampler.grid", None),
    "channels": (Flow(), Sampler(guidance_channels=5), "sampler.guidance_channels", 5),
}


@pytest.mark.parametrize("process, sampler, option, found", MISFITS.values(), ids=MISFITS)
def test_a_sampler_that_does_not_suit_what_was_trained_is_refused_by_name(process, sampler, option, found):
    sampler.validate()
    with pytest.raises(BadInput) as caught:
        sampler.check(experiment(process, sampler))
    assert caught.value.option == option and found in (None, caught.value.found)


NODES = {
    "steps_of_a_grid": (Diffusion(500), Respaced(), "sampler.grid.training_steps"),
    "steps_of_a_strided_grid": (Diffusion(500), Strided(), "sampler.grid.training_steps"),
    "a_chain_s_grid_for_a_flow": (Flow(), Respaced(), "sampler.grid.training_steps"),
    "a_variance_that_is_not_learned": (Diffusion(), DDPM(), "sampler.stepper.variance"),
    "a_variance_that_a_flow_has_not": (Flow(), DDPM(), "sampler.stepper.variance"),
}


@pytest.mark.parametrize("process, node, option", NODES.values(), ids=NODES)
def test_a_part_of_a_sampler_that_does_not_suit_the_process_is_refused_by_name(process, node, option):
    with pytest.raises(BadInput) as caught:
        node.check(experiment(process, Sampler()))
    assert caught.value.option == option


def test_samplers_that_suit_the_process_are_taken():
    for process, sampler in (
        (Flow(), Sampler(stepper=DDPM("fixed_small"))),
        (Diffusion(learned_variance=True), Sampler(steps=250, stepper=DDPM(), grid=Respaced(), guidance_channels=3)),
        (Diffusion(500), Sampler(steps=500, grid=Respaced(500))),
    ):
        given = experiment(process, sampler)
        for node in (sampler, sampler.stepper, sampler.grid):
            if hasattr(node, "check"):
                node.check(given)
