"""Resampling is linear, keeps what it must keep, and each method is the kernel that it is named after."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn import resampling

SIZES = [(16, 14), (37, 16), (4, 8), (5, 3), (3, 1)]
each_method = pytest.mark.parametrize("method", resampling.METHODS)


@each_method
@pytest.mark.parametrize("before, after", SIZES)
def test_what_is_constant_stays_so(before, after, method):
    np.testing.assert_allclose(resampling.weights(before, after, method).sum(axis=1), 1, atol=1e-6)


@each_method
def test_the_same_size_is_the_same_picture_and_mirrored_pictures_stay_mirrored(method):
    np.testing.assert_allclose(resampling.weights(7, 7, method), np.eye(7), atol=1e-7)
    there = resampling.weights(16, 14, method)
    np.testing.assert_allclose(there, there[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize("method, exact", [("bilinear", True), ("bicubic", False), ("bicubic_antialiased", True)])
def test_which_kernels_keep_a_slope_away_from_the_edge(method, exact):
    # Of Keys' kernels only that with a = -1/2 does: at a quarter between pixels the other is off by (1 + 2 a) 3/32 of a pixel.
    found = resampling.weights(16, 32, method) @ np.arange(16)
    error = np.abs(found - ((np.arange(32) + 0.5) / 2 - 0.5))[8:24].max()
    assert error == pytest.approx(0 if exact else 3 / 64, abs=1e-5)


def test_only_the_antialiased_kernel_sees_all_pixels_of_a_picture_made_smaller():
    seen = {method: (np.abs(resampling.weights(32, 8, method)) > 1e-7).sum(axis=1).max() for method in resampling.METHODS}
    assert seen["bilinear"] == 2 and seen["bicubic"] == 4 and seen["bicubic_antialiased"] >= 14


def test_rows_and_columns_are_what_they_are_called():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    found = np.asarray(resampling.resample(jnp.asarray(x), (8, 3), "bicubic"))
    assert found.shape == (2, 8, 3, 3)
    # One axis after the other, by the plain matrices.
    down, across = resampling.weights(4, 8, "bicubic"), resampling.weights(6, 3, "bicubic")
    np.testing.assert_allclose(found[1, :, :, 2], down @ x[1, :, :, 2] @ across.T, atol=1e-5)
