import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.rope import rotate, stretched

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


def grid_of(rows, columns):
    row, column = np.indices((rows, columns), np.float32).reshape(2, 1, -1, 1)
    return jnp.asarray(np.concatenate([row - rows / 2, column - columns / 2], axis=-1)), jnp.ones((1, rows * columns), jnp.int32)


@pytest.mark.parametrize("grid", [True, False], ids=["told", "measured"])
@pytest.mark.parametrize("rows, columns", [(4, 4), (3, 9), (16, 16)])
def test_stretched_pictures_span_sixteen_on_each_axis_whatever_their_size(rows, columns, grid):
    places = np.asarray(stretched(*grid_of(rows, columns), (rows, columns) if grid else None)).reshape(rows, columns, 2)
    np.testing.assert_allclose(np.diff(places[:, :, 0], axis=0), 16 / (rows - 1), rtol=1e-5)
    np.testing.assert_allclose(np.diff(places[:, :, 1], axis=1), 16 / (columns - 1), rtol=1e-5)
    np.testing.assert_allclose(places[-1, -1] - places[0, 0], 16, rtol=1e-6)


def test_neighbours_of_a_stretched_picture_turn_by_their_part_of_the_span():
    places = stretched(*grid_of(5, 9), (5, 9))
    turned = np.asarray(rotate(jnp.ones((1, 45, 1, 8)), places), np.float64).reshape(5, 9, 2, 2, 2)
    phase = turned[..., 0, :] + 1j * turned[..., 1, :]  # [row, column, axis, frequency]
    frequencies = 10_000.0 ** (-4 * np.arange(2) / 8)
    np.testing.assert_allclose(phase[1:, :, 0] / phase[:-1, :, 0], np.exp(16j / 4 * frequencies) * np.ones((4, 9, 1)), atol=1e-5)
    np.testing.assert_allclose(phase[:, 1:, 1] / phase[:, :-1, 1], np.exp(16j / 8 * frequencies) * np.ones((5, 8, 1)), atol=1e-5)
    np.testing.assert_allclose(phase[1:, :, 1], phase[:-1, :, 1], atol=1e-6)


def test_packed_pictures_are_stretched_each_by_its_own_size():
    (first, ones), (second, twos) = grid_of(3, 5), grid_of(4, 2)
    positions, segments = jnp.concatenate([first, second], axis=1), jnp.concatenate([ones, 2 * twos], axis=1)
    alone = [stretched(first, ones, (3, 5)), stretched(second, twos, (4, 2))]
    np.testing.assert_allclose(stretched(positions, segments, None), jnp.concatenate(alone, axis=1), rtol=1e-6)


@pytest.mark.parametrize("grid", [(1, 6), None], ids=["told", "measured"])
def test_an_axis_of_one_token_turns_nothing(grid):
    places = stretched(*grid_of(1, 6), grid)
    np.testing.assert_array_equal(places[..., 0], 0)
    np.testing.assert_allclose(places[0, -1, 1] - places[0, 0, 1], 16, rtol=1e-6)
