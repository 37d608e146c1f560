"""Picture i is picture i, however many are drawn and wherever."""

import pathlib

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxgen import experiment as experiments
from jaxgen.models import interface
from jaxgen.parallel import mesh as meshes
from jaxgen.samplers.generator import Generator

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


def draw(drawn, devices, at_once, order=range(64)):
    experiment, params, conditions = drawn
    generator = Generator(experiment, meshes.build(experiment.mesh, jax.devices()[:devices]), seed=0)
    order, images = np.asarray(order), []
    for start in range(0, len(order), at_once):
        part = order[start : start + at_once]
        for drawn_now, finite in generator.images(params, {name: values[part] for name, values in conditions.items()}, part):
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
    generator = Generator(experiment, meshes.build(experiment.mesh, jax.devices()[:1]), seed=0)
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), params)
    found = [finite for _, finite in generator.images(broken, conditions, np.arange(64))]
    assert not np.concatenate(found).any()
