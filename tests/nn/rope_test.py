import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.rope import rotate

DRAWS = np.random.default_rng(0)
Q, K = (jnp.asarray(DRAWS.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))


def at(x, *position):
    return np.asarray(rotate(x, jnp.asarray(position, jnp.float32).reshape(1, 1, -1)), np.float64)[0, 0, 0]


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("shift", [0.5, 3.0, -7.0])
def test_products_depend_on_differences_of_position_only(axes, shift):
    here, there = np.arange(1, axes + 1) * 1.5, -np.arange(axes) * 2.0
    expected = at(Q, *here) @ at(K, *there)
    assert at(Q, *(here + shift)) @ at(K, *(there + shift)) == pytest.approx(expected, abs=1e-5)
    assert abs(at(Q, *(here + shift)) @ at(K, *there) - expected) > 1e-3


def test_axes_shift_independently():
    expected = at(Q, 1.0, 2.0) @ at(K, 3.0, -1.0)
    assert at(Q, 6.0, 0.0) @ at(K, 8.0, -3.0) == pytest.approx(expected, abs=1e-5)


def test_each_axis_turns_its_own_half_of_the_channels():
    still, row, column = at(Q, 0.0, 0.0), at(Q, 1.0, 0.0), at(Q, 0.0, 1.0)
    assert np.all(row[:4] != still[:4]) and np.all(row[4:] == still[4:])
    assert np.all(column[4:] != still[4:]) and np.all(column[:4] == still[:4])


def test_the_norm_is_preserved():
    assert np.linalg.norm(at(Q, 3.0, -5.0)) == pytest.approx(float(jnp.linalg.norm(Q)), rel=1e-6)


def test_the_origin_turns_nothing():
    np.testing.assert_array_equal(at(Q, 0.0, 0.0), Q[0, 0, 0])


@pytest.mark.parametrize("position", [(2.5,), (2.5, -4.0)], ids=["one_axis", "two_axes"])
def test_channel_pairs_turn_at_the_published_frequencies(position):
    # As complex numbers: of the share S of an axis, channels m and m + S/2 turn by its position · 10000^(-2m/S).
    share = 8 // len(position)
    expected = []
    for axis, x in enumerate(np.split(np.asarray(Q[0, 0, 0], np.float64), len(position))):
        angles = position[axis] * 10_000.0 ** (-2 * np.arange(share // 2) / share)
        turned = (x[: share // 2] + 1j * x[share // 2 :]) * np.exp(1j * angles)
        expected += [turned.real, turned.imag]
    np.testing.assert_allclose(at(Q, *position), np.concatenate(expected), atol=1e-6)


def test_every_token_and_head_turns_by_its_own_position():
    x = jnp.asarray(DRAWS.normal(size=(2, 3, 2, 8)), jnp.float32)
    positions = jnp.asarray(DRAWS.normal(size=(2, 3, 2)), jnp.float32)
    whole = rotate(x, positions)
    for b, i, n in np.ndindex(2, 3, 2):
        np.testing.assert_allclose(whole[b, i, n], at(x[b, i, n].reshape(1, 1, 1, 8), *positions[b, i]), atol=1e-6)


def test_bfloat16_is_turned_by_float32_angles():
    x = Q.astype(jnp.bfloat16)
    turned = rotate(x, jnp.full((1, 1, 1), 1001.0))
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_allclose(turned.astype(jnp.float32)[0, 0, 0], at(x.astype(jnp.float32), 1001.0), atol=0.02)
