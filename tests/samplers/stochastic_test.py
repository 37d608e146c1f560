import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.samplers import steppers
from jaxgen.samplers.gaussian import Diffusion, Posterior, Respaced
from jaxgen.samplers.sampler import Sampler, keys_for
from jaxgen.samplers.steppers import Ancestral, Euler, Heun
from jaxgen.samplers.stochastic import DDPM, EulerMaruyama, HeunSDE
from jaxgen.types import BadInput

KEY = jax.random.key(5, impl="threefry2x32")
STEPPERS = {
    "ddpm": DDPM("fixed_large"),
    "ddpm_learned": DDPM("learned_range"),
    "euler_maruyama": EulerMaruyama(),
    "heun_sde": HeunSDE(),
}
every_stepper = pytest.mark.parametrize("name", STEPPERS)


@pytest.fixture(autouse=True)
def strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def keys(rows):
    return keys_for(KEY, jnp.arange(rows))


def perfect(x, t, carry):
    """A network that knows all data to be 0.5, and says of the variance that it is the upper bound."""
    return jnp.concatenate([(x - 0.5) / t[:, None], jnp.ones_like(x)], axis=-1), carry + 1


def zero(x, t, carry):
    return jnp.zeros_like(x), carry


@every_stepper
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_perfect_denoiser_is_followed_to_the_data_in_as_many_calls_as_said_without_a_nan(name, steps):
    sampler, noise = Sampler(steps=steps, stepper=STEPPERS[name]), jax.random.normal(KEY, (4, 3))
    with jax.debug_nans(True):
        path, calls = sampler.trajectory(perfect, noise, 0, keys(4))
    # The drift of an equation with noise points beyond the data by as much noise as is left.
    beyond = 0 if "ddpm" in name else (path[-2] - (1 - 1 / steps) * 0.5)
    np.testing.assert_allclose(path[-1], 0.5 - beyond, atol=5e-6)
    assert calls == sampler.nfe(None)


@every_stepper
def test_a_stepper_that_draws_needs_keys(name):
    with pytest.raises(ValueError, match="keys"):
        Sampler(stepper=STEPPERS[name])(zero, jnp.ones((2, 2)), ())


@every_stepper
def test_the_noise_of_a_row_is_its_own_and_the_last_step_draws_none(name):
    sampler, noise = Sampler(steps=4, stepper=STEPPERS[name]), jnp.ones((5, 2))
    smooth = lambda x, t, carry: (jnp.concatenate([jnp.sin(x), 0 * x], axis=-1), carry)
    path, _ = sampler.trajectory(smooth, noise, (), keys(5))
    some = jnp.array([3, 1])
    alone, _ = sampler.trajectory(smooth, noise[some], (), keys(5)[some])
    np.testing.assert_allclose(alone, path[:, some], atol=1e-6)
    assert np.abs(np.diff(path[1], axis=0)).min() > 1e-3
    # Rows that are alike before the last step stay alike.
    stepper, same = STEPPERS[name], jnp.full((2, 2), 0.3)
    end, _, _ = stepper.step(smooth, same, jnp.float32(0.2), jnp.float32(0.0), stepper.init(same, keys(2)), ())
    np.testing.assert_array_equal(end[0], end[1])


def deviations(stepper, times, place=None):
    """Of the noise in each step, measured by a draw of 1 beside one of 0, [steps]."""
    found = []
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        x = jnp.ones((2, 1), t.dtype)
        said = lambda x, t, carry: (jnp.concatenate([0 * x, *([] if place is None else [0 * x + place])], axis=-1), carry)
        end, _, _ = stepper.step(said, x, t, t_next, stepper.init(x, keys(2)), ())
        found.append(float(end[1, 0] - end[0, 0]))
    return np.array(found)


@pytest.fixture
def counted(monkeypatch):
    """Row r draws r."""
    monkeypatch.setattr(steppers, "draw", lambda state, x: (jnp.arange(x.shape[0], dtype=x.dtype)[:, None], state))


VARIANCES = {
    "fixed_small": (DDPM("fixed_small"), None, 0.0),
    "ancestral": (Ancestral(), None, 0.0),
    "fixed_large": (DDPM("fixed_large"), None, 1.0),
    "learned_small": (DDPM(), -1.0, 0.0),
    "learned_between": (DDPM(), 0.2, 0.6),
    "learned_large": (DDPM(), 1.0, 1.0),
    "learned_beyond": (DDPM(), 1.5, 1.25),
}


@pytest.mark.parametrize("steps", [10, 250, 1000])
@pytest.mark.parametrize("name", VARIANCES)
def test_variances_of_a_chain_of_diffusion_are_those_of_its_tables(name, steps, counted):
    (stepper, place, share), process = VARIANCES[name], Diffusion()
    grid = Respaced()(steps)
    posterior = Posterior.of(process.alphas_cumprod()[np.rint(grid * 1000).astype(int)[::-1]])
    expected = np.exp((share * posterior.log_beta + (1 - share) * posterior.log_variance) / 2)[::-1]
    tau, lengths = process.in_flow(grid)
    some = np.unique(np.linspace(0, steps - 2, 12).astype(int))
    tau_float32 = tau.astype(np.float32)
    found = [deviations(stepper, tau_float32[i : i + 2], place)[0] * lengths[i + 1] for i in some]
    # The noisiest states have 1 - τ = 0.006, rounded to 3e-8: the variance of a step of β = 0.02 is known to 1e-3.
    np.testing.assert_allclose(found, expected[some], rtol=1e-3)


@pytest.mark.parametrize("stepper, plain", [(EulerMaruyama(0.0), Euler()), (HeunSDE(0.0), Heun())])
def test_without_strength_the_equation_is_that_of_the_flow(stepper, plain):
    curved = lambda x, t, carry: (jnp.sin(3 * x) + t[:, None], carry)
    noise = jax.random.normal(KEY, (4, 2))
    found, _ = Sampler(steps=9, stepper=stepper)(curved, noise, (), keys(4))
    np.testing.assert_allclose(found, Sampler(steps=9, stepper=plain)(curved, noise, ())[0], atol=2e-6)


@pytest.mark.parametrize("kind", [EulerMaruyama, HeunSDE])
@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_a_short_step_spreads_by_twice_the_strength_times_the_time(kind, strength, counted):
    t, h = 0.6, 1e-3
    found = deviations(kind(strength), np.array([t, t - h], np.float64).astype(np.float32))
    # The drift pulls what was drawn back, by O(h).
    np.testing.assert_allclose(found, np.sqrt(2 * strength * t * h), rtol=6 * h)


@pytest.mark.parametrize("strength", [-0.1, float("inf")])
@pytest.mark.parametrize("kind", [EulerMaruyama, HeunSDE])
def test_a_strength_that_is_none_is_refused(kind, strength):
    with pytest.raises(BadInput, match="strength"):
        kind(strength).validate()
    kind(0.0).validate()
