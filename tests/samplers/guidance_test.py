import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.samplers import guidance
from jaxgen.samplers.sampler import Sampler


@pytest.fixture(autouse=True)
def strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def conditional(x, t):
    return jnp.sin(x) + t[:, None]


def unconditional(x, t):
    return 0.5 * x - t[:, None]


class Network:
    """Conditional velocity for even rows, unconditional for odd ones; counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, t, carry):
        self.calls += 1
        v = jnp.zeros_like(x)
        v = v.at[0::2].set(conditional(x[0::2], t[0::2])).at[1::2].set(unconditional(x[1::2], t[1::2]))
        return v, carry + 1


X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
T = jnp.array([0.0, 0.3, 0.6, 1.0])


def guided(scale, interval=(0.0, 1.0)):
    return guidance.classifier_free(Network(), scale, interval)(X, T, 0)[0]


def test_scale_one_is_the_conditional_velocity():
    np.testing.assert_array_equal(guided(1.0), conditional(X, T))


def test_scale_zero_is_the_unconditional_velocity():
    np.testing.assert_allclose(guided(0.0), unconditional(X, T), atol=1e-6)


def test_velocity_is_linear_in_the_scale():
    np.testing.assert_allclose(guided(5.0) - guided(3.0), 2 * (guided(1.0) - guided(0.0)), atol=1e-5)


def test_scale_above_one_moves_away_from_the_unconditional_velocity():
    gap = jnp.abs(guided(1.0) - unconditional(X, T))
    assert jnp.all(jnp.abs(guided(4.0) - unconditional(X, T)) > gap)


def test_outside_the_interval_the_velocity_is_conditional():
    inside = (T >= 0.3) & (T <= 0.6)
    part = guided(4.0, (0.3, 0.6))
    np.testing.assert_array_equal(part[~inside], conditional(X, T)[~inside])
    np.testing.assert_array_equal(part[inside], guided(4.0)[inside])


def test_one_call_per_evaluation_and_its_carry_returned():
    network = Network()
    v, carry = guidance.classifier_free(network, 3.0, (0.0, 1.0))(X, T, 5)
    assert network.calls == 1 and carry == 6 and v.shape == X.shape


def test_bfloat16_velocities_are_combined_in_float32():
    def network(x, t, carry):
        return jnp.tile(jnp.array([[1.0], [0.9921875]]), (4, 3)).astype(jnp.bfloat16), carry

    v, _ = guidance.classifier_free(network, 3.0, (0.0, 1.0))(X, T, ())
    assert v.dtype == jnp.float32
    np.testing.assert_allclose(v, 1.015625, rtol=1e-7)  # not a bfloat16 multiple of 2^-7


def test_only_a_scale_of_one_needs_no_null():
    assert [guidance.needs_null(scale) for scale in (0.0, 0.99, 1.0, 4.0)] == [True, True, False, True]


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_sampler_guides_with_its_own_options(scale):
    sampler = Sampler(steps=3, guidance=scale, guidance_interval=(0.3, 0.6))
    if scale == 1.0:
        single = lambda x, t, carry: (conditional(x, t), carry)  # noqa: E731
        assert sampler.guided(single) is single
    else:
        v, _ = sampler.guided(Network())(X, T, 0)
        np.testing.assert_array_equal(v, guided(scale, (0.3, 0.6)))


def with_variance(x, t, carry):
    """Twice as many channels as x, the second half of which tell conditional and unconditional rows apart."""
    v, carry = Network()(x, t, carry)
    return jnp.concatenate([v, v + 10], axis=-1), carry


@pytest.mark.parametrize("channels", [1, 2, 3, None])
def test_only_the_first_channels_are_guided(channels):
    v, _ = guidance.classifier_free(Network(), 4.0, (0.0, 1.0), channels)(X, T, 0)
    np.testing.assert_array_equal(v[:, :channels], guided(4.0)[:, :channels])
    if channels is not None:
        np.testing.assert_array_equal(v[:, channels:], conditional(X, T)[:, channels:])


@pytest.mark.parametrize("channels", [2, None])
def test_what_a_network_says_of_the_variance_stays_conditional(channels):
    v, _ = guidance.classifier_free(with_variance, 4.0, (0.0, 1.0), channels)(X, T, 0)
    assert v.shape == (4, 6)
    np.testing.assert_array_equal(v[:, 3:], conditional(X, T) + 10)
    np.testing.assert_array_equal(v[:, :channels][:, :3], guided(4.0)[:, :channels])
