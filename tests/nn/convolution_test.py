import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from jaxgen import mup
from jaxgen.nn.convolution import Convolution, ConvolutionBlock
from jaxgen.nn.modulation import Gates

SCALE = mup.Scaling(base_width=8).at(8)
GRID = (4, 7)
DRAWS = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(DRAWS.normal(size=shape), jnp.float32)


def test_a_convolution_is_the_correlation_of_each_pair_of_channels():
    x, kernel = draw(2, 28, 3), draw(9, 3, 3)
    found = Convolution(3, SCALE).apply({"params": {"kernel": kernel}}, x, GRID).reshape(2, *GRID, 3)
    for example, out in np.ndindex(2, 3):
        picture = np.asarray(x[example]).reshape(*GRID, 3)
        weights = np.asarray(kernel).reshape(3, 3, 3, 3)
        expected = sum(signal.correlate2d(picture[..., i], weights[..., i, out], mode="same") for i in range(3))
        np.testing.assert_allclose(found[example, ..., out], expected, atol=1e-5)


def test_a_bias_is_added_to_every_token():
    x, kernel, bias = draw(2, 28, 3), draw(9, 3, 3), draw(3)
    plain = Convolution(3, SCALE).apply({"params": {"kernel": kernel}}, x, GRID)
    shifted = Convolution(3, SCALE, ("features", "patch"), bias=True).apply({"params": {"kernel": kernel, "bias": bias}}, x, GRID)
    np.testing.assert_allclose(shifted, plain + bias, atol=1e-6)


def test_outputs_start_as_large_as_inputs_at_any_width():
    for width in (8, 64):
        x = draw(4, 28, width)
        y = Convolution(width, mup.Scaling(base_width=8).at(width)).init_with_output(jax.random.key(0), x, GRID)[0]
        inner = y.reshape(4, *GRID, width)[:, 1:-1, 1:-1]
        assert float(jnp.std(inner)) == pytest.approx(1.0, abs=0.2)


def block(gates, x, c):
    return ConvolutionBlock(4, 8, gates, SCALE).init_with_output(jax.random.key(1), x, c, GRID)[0]


def test_a_block_sees_two_tokens_far_and_no_farther():
    x, c = draw(1, 28, 4), draw(1, 1, 8)
    change = jnp.zeros((1, 28, 4)).at[0, 0].set(draw(4))
    moved = jnp.abs(block(Gates.RANDOM, x + change, c) - block(Gates.RANDOM, x, c)).max(axis=-1).reshape(GRID) > 1e-6
    expected = np.zeros(GRID, bool)
    expected[:3, :3] = True
    np.testing.assert_array_equal(moved, expected)


def test_a_block_with_zero_gates_starts_as_the_identity():
    x, c = draw(2, 28, 4), draw(2, 1, 8)
    np.testing.assert_array_equal(block(Gates.ZERO, x, c), x)
    assert float(jnp.abs(block(Gates.RANDOM, x, c) - x).max()) > 0.1


def test_the_conditioning_vector_acts_as_one_for_all_or_one_for_each_token():
    x, c = draw(2, 28, 4), draw(2, 1, 8)
    one, each = block(Gates.RANDOM, x, c), block(Gates.RANDOM, x, jnp.broadcast_to(c, (2, 28, 8)))
    np.testing.assert_allclose(each, one, atol=1e-6)
    assert float(jnp.abs(block(Gates.RANDOM, x, 2 * c) - one).max()) > 1e-2
