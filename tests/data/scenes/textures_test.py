import numpy as np
import pytest

from jaxgen.data.scenes import render, scene, textures

CORNER = np.ones((32, 32), bool)
CORNER[8:27, 6:25] = False
"""As much as the largest object leaves, and less."""


def drawn(texture, seed):
    return np.rint(render.background(scene.Background(texture, (225, 230, 220), seed), 32).clip(0, 255))


@pytest.mark.parametrize("texture", scene.TEXTURES)
@pytest.mark.parametrize("noise", [0, 6])
def test_every_texture_is_named_from_a_part_of_it(texture, noise):
    rng = np.random.default_rng(0)
    named = [textures.name(drawn(texture, seed) + noise * rng.normal(size=(32, 32, 3)), CORNER) for seed in range(100)]
    assert set(named) == {texture}


def test_what_objects_cover_is_not_looked_at():
    for texture in scene.TEXTURES:
        picture = drawn(texture, 5)
        picture[~CORNER] = np.random.default_rng(0).uniform(0, 255, ((~CORNER).sum(), 3))
        assert textures.name(picture, CORNER) == texture


def test_stripes_along_a_diagonal_are_no_chequers():
    y, x = (np.arange(32) + 0.5)[:, None] / 32, (np.arange(32) + 0.5) / 32
    for period in (3.5, 4.0, 4.5):
        wave = 9 * np.sin(2 * np.pi * period * (x + y))
        assert textures.name(225 + wave[..., None] * np.ones(3), np.ones((32, 32), bool)) == "striped"


def test_a_background_that_is_hardly_seen_is_plain():
    assert textures.name(drawn("striped", 0), np.zeros((32, 32), bool)) == "plain"
