"""The grid of finite scalar quantization and its numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import types
from jaxgen.autoencoders.finite_scalar import FiniteScalar

GRIDS = pytest.mark.parametrize("levels", [(5, 5, 5), (8, 5), (2, 3, 4), (7,)], ids=str)


@GRIDS
def test_codes_are_numbers_of_points_and_points_are_kept(levels):
    grid = FiniteScalar(levels)
    codes = jnp.arange(grid.size)
    latents = grid.latents(codes)
    assert latents.shape == (np.prod(levels), len(levels)) and len(np.unique(latents, axis=0)) == grid.size
    np.testing.assert_array_equal(grid.codes(latents), codes)
    for channel, count in enumerate(levels):
        np.testing.assert_allclose(np.unique(latents[:, channel]), np.linspace(-1, 1, count), atol=1e-6)
    assert grid.codes(latents[1])[()] == 1 and float(latents[1, 0]) > float(latents[0, 0]), "the first channel counts ones"


@GRIDS
def test_any_number_goes_to_a_point_and_every_point_is_reached(levels):
    grid = FiniteScalar(levels)
    x = jnp.stack([jnp.linspace(-9, 9, 4001)] * len(levels), axis=-1)
    found = grid(x)
    np.testing.assert_allclose(grid.latents(grid.codes(found)), found, atol=1e-6)
    for channel, count in enumerate(levels):
        assert len(np.unique(np.asarray(found[:, channel]).round(5))) == count
        assert np.all(np.diff(found[:, channel]) >= -1e-6), "order is kept"


@GRIDS
def test_values_around_zero_share_the_grid_evenly(levels):
    found = FiniteScalar(levels)(jax.random.normal(jax.random.key(0), (20_000, len(levels))))
    assert float(jnp.abs(found.mean(axis=0)).max()) < 0.03
    for channel, count in enumerate(levels):
        _, numbers = np.unique(np.asarray(found[:, channel]).round(5), return_counts=True)
        assert numbers.min() > 20_000 / count / 12


@GRIDS
def test_the_gradient_passes_the_rounding(levels):
    grid = FiniteScalar(levels)
    x = jax.random.normal(jax.random.key(0), (64, len(levels)))
    slopes = jax.vmap(jax.grad(lambda x: grid(x).sum()))(x)
    np.testing.assert_allclose(slopes, 1 - np.tanh(x) ** 2, atol=1e-6)


@pytest.mark.parametrize("levels", [(), (5, 1)], ids=str)
def test_what_is_no_grid_is_refused(levels):
    with pytest.raises(types.BadInput, match="levels"):
        FiniteScalar(levels).validate()
