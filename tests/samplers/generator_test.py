"""Picture i is picture i, however many are drawn and wherever."""

import functools
import pathlib

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxgen import experiment as experiments
from jaxgen.models import interface
from jaxgen.parallel import keys as streams
from jaxgen.parallel import mesh as meshes
from jaxgen.samplers.generator import Generator
from jaxgen.samplers.sampler import keys_for, noise_for, to_uint8

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")


@pytest.fixture(scope="module")
def drawn():
    """(experiment, params, conditions) of a network whose output is not zero."""
    experiment, _ = experiments.load(TINY, ["sampler.images_per_device=8", "sampler.steps=8"])
    rows = experiment.data.open("test", 0, shuffle=False).rows(range(64))
    conditions = {name: rows[name] for name in ("text", "text_mask")}
    tokens = interface.image_tokens(np.zeros((1, 8, 8, 1), np.float32), 2, np.float32)
    streams = interface.conditions({name: value[:1] for name, value in conditions.items()}, ("text",))
    params = nn.meta.unbox(jax.jit(experiment.model.init)(jax.random.key(0), tokens, np.zeros(1, np.float32), streams))["params"]
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.02 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return experiment, jax.device_get(jax.tree.unflatten(structure, noisy)), conditions


@functools.cache
def generator(experiment, devices):
    return Generator(experiment, meshes.build(experiment.mesh, jax.devices()[:devices]), seed=0)


def draw(drawn, devices, at_once, order=range(64)):
    experiment, params, conditions = drawn
    order, images = np.asarray(order), []
    for start in range(0, len(order), at_once):
        part = order[start : start + at_once]
        given = {name: values[part] for name, values in conditions.items()}
        for drawn_now, finite in generator(experiment, devices).images(params, given, part):
            assert finite.all() and len(finite) == len(drawn_now)
            images.append(drawn_now)
    return np.concatenate(images)


def test_the_same_on_any_number_of_devices_in_batches_of_any_size(drawn):
    expected = draw(drawn, 1, 64)
    assert expected.dtype == np.uint8 and expected.shape == (64, 8, 8, 1)
    assert np.mean((expected > 0) & (expected < 255)) > 0.5, "clipped pixels would hide differences"
    for devices in (1, 2, 8):
        for at_once in (8, 64):
            np.testing.assert_array_equal(draw(drawn, devices, at_once), expected, f"{devices} devices, {at_once} at once")


def test_the_number_decides_the_picture(drawn):
    expected, order = draw(drawn, 1, 64), np.random.default_rng(0).permutation(64)[:21]
    np.testing.assert_array_equal(draw(drawn, 2, 64, order), expected[order])
    assert len({image.tobytes() for image in expected}) == 64


def test_captions_matter(drawn):
    experiment, params, conditions = drawn
    other = {name: np.roll(values, 1, axis=0) for name, values in conditions.items()}
    assert not np.array_equal(draw(drawn, 1, 64), draw((experiment, params, other), 1, 64))


def test_what_is_not_finite_is_told_apart(drawn):
    experiment, params, conditions = drawn
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), params)
    found = [finite for _, finite in generator(experiment, 1).images(broken, conditions, np.arange(64))]
    assert not np.concatenate(found).any()


@pytest.mark.slow
def test_a_run_of_diffusion_is_drawn_by_its_own_process_and_guidance_without_being_told():
    options = [
        "model=jaxgen.models.dit:DiT",
        "model.depth=1",
        "model.learn_variance=true",
        "objective=jaxgen.objectives.gaussian_diffusion:GaussianDiffusion",
        "objective.process.learned_variance=true",
        "objective.process.prediction=v",
        "sampler.images_per_device=2",
        "sampler.steps=6",
        "sampler.stepper=ddpm",
        "sampler.grid=respaced",
        "sampler.guidance=3",
        "sampler.guidance_channels=1",
    ]
    experiment, _ = experiments.load(TINY, options)
    labels = {"label": np.arange(4, dtype=np.int32)}
    given = interface.conditions(labels, ("label",))
    tokens = interface.image_tokens(np.zeros((4, 8, 8, 1), np.float32), 2, np.float32)
    params = jax.jit(experiment.model.init)(jax.random.key(0), tokens, np.zeros(4, np.float32), given)
    leaves, structure = jax.tree.flatten(nn.meta.unbox(params)["params"])
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.05 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)]
    params = jax.device_get(jax.tree.unflatten(structure, noisy))
    images, shared = (draw((experiment, params, labels), devices, 4, range(4)) for devices in (1, 2))
    np.testing.assert_array_equal(images, shared)
    assert len({image.tobytes() for image in images}) == 4

    # By hand: DDPM's formulas in the process's own coordinates, the same draws.
    root = streams.root(0)
    own = keys_for(streams.stream(root, "sample on the way"), np.arange(4))
    kept = experiment.objective.process.alphas_cumprod()

    ask = jax.jit(lambda x, told, condition: interface.velocity(experiment.model, params, x, told, condition, np.float32))

    def step(x, number, k, k_next):
        told = np.full(4, (k - 1) / 1000, np.float32)
        with_label, without = ask(x, told, given), ask(x, told, interface.null(given))
        v = without[..., :1] + 3 * (with_label[..., :1] - without[..., :1])
        noise = np.sqrt(1 - kept[k]) * x + np.sqrt(kept[k]) * v
        share = (with_label[..., 1:] + 1) / 2
        beta = 1 - kept[k] / kept[k_next]
        mean = (x - beta / np.sqrt(1 - kept[k]) * noise) / np.sqrt(1 - beta)
        if k_next == 0:
            return mean
        small = beta * (1 - kept[k_next]) / (1 - kept[k])
        drawn = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), (8, 8, 1)))(own)
        return mean + np.exp((share * np.log(beta) + (1 - share) * np.log(small)) / 2) * drawn

    x = noise_for(streams.stream(root, "sample"), np.arange(4), (8, 8, 1))
    index = np.rint(experiment.sampler.grid(6) * 1000).astype(int)
    for number, (k, k_next) in enumerate(zip(index[:-1], index[1:])):
        x = step(x, number, k, k_next)
    difference = np.abs(np.asarray(to_uint8(x), int) - images)
    assert np.mean((images > 0) & (images < 255)) > 0.3, "clipped pixels would hide differences"
    assert difference.max() <= 1 and np.mean(difference > 0) < 0.02
