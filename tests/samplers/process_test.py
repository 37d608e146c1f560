import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.samplers.process import Flow


@pytest.fixture(autouse=True)
def strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def pair(shape=(3, 4, 5, 2)):
    key_data, key_noise = jax.random.split(jax.random.key(0, impl="threefry2x32"))
    return jax.random.normal(key_data, shape) + 2, jax.random.normal(key_noise, shape)


TIMES = {
    "scalar": jnp.float32(0.3),
    "per_example": jnp.array([0.0, 0.3, 1.0]),
    "per_token": jnp.linspace(0.0, 1.0, 12).reshape(3, 4),
}


@pytest.mark.parametrize("t", TIMES.values(), ids=TIMES)
def test_the_true_velocity_gives_back_data_and_noise(t):
    x0, noise = pair()
    process = Flow()
    x_t, v = process.interpolate(x0, noise, t), process.velocity(x0, noise)
    np.testing.assert_allclose(process.data(x_t, v, t), x0, atol=1e-6)
    np.testing.assert_allclose(process.noise(x_t, v, t), noise, atol=1e-6)


def test_ends_are_data_and_noise():
    x0, noise = pair()
    np.testing.assert_array_equal(Flow().interpolate(x0, noise, jnp.zeros(3)), x0)
    np.testing.assert_array_equal(Flow().interpolate(x0, noise, jnp.ones(3)), noise)


def test_velocity_is_the_time_derivative_of_the_path():
    x0, noise = pair()
    t = jnp.full(3, 0.4)
    _, slope = jax.jvp(lambda t: Flow().interpolate(x0, noise, t), (t,), (jnp.ones(3),))
    np.testing.assert_allclose(slope, Flow().velocity(x0, noise), atol=1e-6)


def test_rows_have_their_own_times():
    x0, noise = pair()
    t = jnp.array([0.1, 0.5, 0.9])
    whole = Flow().interpolate(x0, noise, t)
    for row in range(3):
        np.testing.assert_array_equal(whole[row], Flow().interpolate(x0[row], noise[row], t[row]))


def test_log_snr_is_the_ratio_of_powers_and_infinite_at_the_ends():
    t = jnp.linspace(0.0, 1.0, 11)
    process = Flow()
    snr = process.log_snr(t)
    inner = slice(1, -1)
    power = process.alpha(t[inner]) ** 2 / process.sigma(t[inner]) ** 2
    np.testing.assert_allclose(snr[inner], jnp.log(power), rtol=1e-5, atol=1e-6)
    assert snr[0] == jnp.inf and snr[-1] == -jnp.inf
