"""How pictures enter a teacher, by name."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import types
from jaxgen.encoders.dinov2 import DINOv2
from jaxgen.encoders.teacher import RandomTeacher
from jaxgen.nn import resampling


class Mirror(DINOv2):
    """Shows what it is shown."""

    def features(self, images):
        return images


def entering(images, **options):
    teacher = RandomTeacher(module=Mirror(channels=3), **options)
    teacher.validate()
    return np.asarray(teacher.features({}, jnp.asarray(images, jnp.float32), jnp.float32))


IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3))


def test_centred_pictures_stay_as_they_are():
    np.testing.assert_allclose(entering(IMAGES), IMAGES, atol=1e-6)


def test_imagenet_normalisation_has_the_published_mean_and_deviation():
    black, white = (
        entering(-np.ones((1, 2, 2, 3)), normalization="imagenet"),
        entering(np.ones((1, 2, 2, 3)), normalization="imagenet"),
    )
    np.testing.assert_allclose(-black[0, 0, 0] / (white - black)[0, 0, 0], [0.485, 0.456, 0.406], atol=1e-6)
    np.testing.assert_allclose(1 / (white - black)[0, 0, 0], [0.229, 0.224, 0.225], atol=1e-6)


def test_pictures_are_resized_without_antialiasing():
    matrix = resampling.weights(8, 6, "bicubic")
    np.testing.assert_allclose(entering(IMAGES, resolution=6), np.einsum("ih,bhwc,jw->bijc", matrix, IMAGES, matrix), atol=1e-5)


@pytest.mark.parametrize(
    "options, resolution, channels, said",
    [
        ({}, 9, 1, "resolution: found 9, needed a multiple of module.patch=2"),
        ({"resolution": 15}, 8, 1, "resolution: found 15, needed a multiple of module.patch=2"),
        ({}, 8, 3, "module.channels: found 1, needed 3"),
    ],
)
def test_pictures_that_it_cannot_take_are_refused(options, resolution, channels, said):
    with pytest.raises(types.BadInput, match=said):
        RandomTeacher(module=DINOv2(), **options).grid(resolution, channels)


def test_its_grid_is_that_of_the_resized_picture():
    assert RandomTeacher(module=DINOv2(patch=14, channels=3), resolution=224).grid(256, 3) == (16, 16)
    assert RandomTeacher(module=DINOv2()).grid(8, 1) == (4, 4)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"normalization": "none"}, "normalization: found 'none', needed one of centred, imagenet"),
        ({"normalization": "imagenet"}, "normalization: found 'imagenet', needed one of pictures with module.channels=1"),
        ({"resolution": -1}, "resolution: found -1"),
        ({"module": object()}, "module: found 'object'"),
    ],
)
def test_options_that_are_refused(options, said):
    with pytest.raises(types.BadInput, match=said):
        RandomTeacher(**{"module": DINOv2()} | options).validate()
