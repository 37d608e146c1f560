import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.samplers.sampler import Sampler, keys_for
from jaxgen.samplers.steppers import AdamsBashforth, Ancestral, DPMSolverPP2M, Euler, Heun, adams_weights
from jaxgen.samplers.time_grids import Uniform
from jaxgen.types import BadInput

STEPPERS = {"euler": Euler(), "heun": Heun(), "dpm_solver_pp_2m": DPMSolverPP2M(), "adams_bashforth": AdamsBashforth(2)}
ORDERS = {"euler": 1, "heun": 2, "dpm_solver_pp_2m": 2, "adams_bashforth": 2}
MEAN = np.array([1.5, -0.7])
TURN = np.array([[0.8, -0.6], [0.6, 0.8]])
SPREAD = np.array([1.6, 0.25])  # standard deviations of the data along the columns of TURN

every_stepper = pytest.mark.parametrize("name", STEPPERS)
KEY = jax.random.key(5, impl="threefry2x32")


@pytest.fixture(autouse=True)
def strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def gaussian_velocity(x, t, carry):
    """E[ε - x_0 | x_t] for x_0 ~ N(MEAN, S), which is linear in x_t: both expectations regress on x_t."""
    t = t[:, None]
    centred = (x - (1 - t) * MEAN[None]) @ TURN
    variance = (1 - t) ** 2 * SPREAD[None] ** 2 + t**2
    data = MEAN[None] + ((1 - t) * SPREAD[None] ** 2 / variance * centred) @ TURN.T
    noise = (t / variance * centred) @ TURN.T
    return noise - data, carry


def gaussian_path(noise, t):
    """Where the exact flow of `gaussian_velocity` takes x_1: covariances commute, so x_t = (1-t) MEAN + Σ_t^(1/2) x_1."""
    deviation = np.sqrt((1 - t) ** 2 * SPREAD**2 + t**2)
    return (1 - t) * MEAN + noise @ TURN @ np.diag(deviation) @ TURN.T


@dataclasses.dataclass(frozen=True)
class Inner:
    """Equal steps in λ = log((1 - t)/t) between two inner times."""

    start: float = 0.9
    end: float = 0.1

    def __call__(self, steps):
        ends = [np.log((1 - t) / t) for t in (self.start, self.end)]
        return 1 / (1 + np.exp(np.linspace(*ends, steps + 1)))


def errors(stepper, counts, grid, start=1.0, end=0.0):
    noise = np.random.default_rng(0).normal(size=(64, 2))
    found = []
    for steps in counts:
        with jax.enable_x64(True):
            x = jnp.asarray(gaussian_path(noise, start))
            x, _ = Sampler(steps=steps, stepper=stepper, grid=grid)(gaussian_velocity, x, ())
            assert x.dtype == jnp.float64
            found.append(float(np.sqrt(np.mean((np.asarray(x) - gaussian_path(noise, end)) ** 2))))
    return np.array(found)


def order(counts, found):
    return -np.polyfit(np.log(counts), np.log(found), 1)[0]


@every_stepper
def test_error_between_inner_times_falls_with_the_order_of_the_method(name):
    counts = [32, 64, 128, 256]
    assert abs(order(counts, errors(STEPPERS[name], counts, Inner(), 0.9, 0.1)) - ORDERS[name]) < 0.1


@every_stepper
def test_error_from_noise_to_data_falls_with_the_order_of_the_method(name):
    # Many steps, because the multistep solver has log(steps)/steps² here: its slope is 1.6 at 50 steps, 1.8 at 1000.
    counts = [256, 512, 1024, 2048]
    assert abs(order(counts, errors(STEPPERS[name], counts, Uniform())) - ORDERS[name]) < 0.3


@pytest.mark.parametrize("better", [Heun(), DPMSolverPP2M()], ids=["heun", "dpm_solver_pp_2m"])
def test_second_order_beats_first_order_at_equal_calls(better):
    steps = 13 if isinstance(better, Heun) else 25
    assert better.calls(steps) == Euler().calls(25)
    assert errors(better, [steps], Uniform())[0] < errors(Euler(), [25], Uniform())[0] / 3


@every_stepper
@pytest.mark.parametrize("steps", [1, 2, 3, 25])
def test_a_perfect_denoiser_lands_on_the_data(name, steps):
    data = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (4, 3, 3, 2)), jnp.float32)
    noise = jax.random.normal(jax.random.key(0, impl="threefry2x32"), data.shape)

    def velocity(x, t, carry):
        return (x - data) / t[:, None, None, None], carry

    x, _ = Sampler(steps=steps, stepper=STEPPERS[name])(velocity, noise, ())
    np.testing.assert_allclose(x, data, atol=2e-6)  # a few roundings of values below 4


@every_stepper
def test_no_step_makes_a_nan_on_the_way(name):
    with jax.debug_nans(True):
        Sampler(steps=4, stepper=STEPPERS[name])(lambda x, t, carry: ((x - 0.5) / t[:, None], carry), jnp.ones((2, 3)), ())


@pytest.mark.parametrize("start", [1.0, 0.95])
def test_the_first_step_of_the_multistep_solver_is_euler(start):
    noise = jnp.array([[0.3, -1.2]])
    ends = []
    for stepper in (Euler(), DPMSolverPP2M()):
        t, t_next = jnp.float32(start), jnp.float32(0.7)
        x, _, _ = stepper.step(gaussian_velocity, noise, t, t_next, stepper.init(noise), ())
        ends.append(x)
    np.testing.assert_allclose(*ends, atol=1e-6)


def test_the_multistep_solver_extrapolates_data_that_are_linear_in_lambda():
    # With x̂_0 = a + b λ known before and now, the paper's midpoint value is x̂_0 at λ + h/2.
    def velocity(x, t, carry):
        return (x - (0.2 + 0.1 * jnp.log((1 - t) / t))[:, None]) / t[:, None], carry

    with jax.enable_x64(True):
        solver, x = DPMSolverPP2M(), jnp.array([[0.7]])
        times = [jnp.asarray(t) for t in (0.8, 0.65, 0.4)]
        x1, state, _ = solver.step(velocity, x, times[0], times[1], solver.init(x), ())
        x2, _, _ = solver.step(velocity, x1, times[1], times[2], state, ())
    middle = (np.log(0.35 / 0.65) + np.log(0.6 / 0.4)) / 2
    expected = 0.4 / 0.65 * np.asarray(x1) + (1 - 0.4 / 0.65) * (0.2 + 0.1 * middle)
    np.testing.assert_allclose(np.asarray(x2), expected, rtol=1e-12)


@every_stepper
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_calls_of_the_network_are_counted_exactly(name, steps):
    calls = 0

    def velocity(x, t, carry):
        nonlocal calls
        calls += 1
        assert t.shape == x.shape[:1]
        return -x, carry

    sampler = Sampler(steps=steps, stepper=STEPPERS[name])
    with jax.disable_jit():
        sampler(velocity, jnp.ones((2, 3)), ())
    assert calls == sampler.nfe(None)


@every_stepper
def test_the_carry_passes_through_every_call(name):
    def velocity(x, t, carry):
        return -x, {"calls": carry["calls"] + 1, "kept": carry["kept"]}

    sampler = Sampler(steps=6, stepper=STEPPERS[name])
    start = {"calls": jnp.zeros((), jnp.int32), "kept": jnp.arange(3)}
    _, carry = jax.jit(lambda noise: sampler(velocity, noise, start))(jnp.ones((2, 3)))
    assert int(carry["calls"]) == sampler.nfe(None)
    np.testing.assert_array_equal(carry["kept"], jnp.arange(3))


@every_stepper
def test_scan_equals_a_python_loop(name):
    sampler = Sampler(steps=7, stepper=STEPPERS[name], grid=Uniform(2.0))
    noise = jax.random.normal(jax.random.key(3, impl="threefry2x32"), (5, 2))
    times = sampler.grid(7)
    x, state, points = noise, sampler.stepper.init(noise), [noise]
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        x, state, _ = sampler.stepper.step(gaussian_velocity, x, t, t_next, state, ())
        points.append(x)
    path, _ = jax.jit(lambda noise: sampler.trajectory(gaussian_velocity, noise, ()))(noise)
    np.testing.assert_allclose(path, jnp.stack(points), atol=2e-6)


@every_stepper
def test_a_bfloat16_network_is_integrated_in_float32(name):
    def velocity(dtype):
        return lambda x, t, carry: (gaussian_velocity(x, t, carry)[0].astype(jnp.bfloat16).astype(dtype), carry)

    sampler = dataclasses.replace(Sampler(), stepper=STEPPERS[name])
    noise = jnp.ones((2, 2), jnp.bfloat16)
    x, _ = sampler(velocity(jnp.bfloat16), noise, ())
    assert x.dtype == jnp.float32
    with jax.disable_jit():  # op by op, so that the compiler cannot round the two runs differently
        x, _ = sampler(velocity(jnp.bfloat16), noise, ())
        np.testing.assert_array_equal(x, sampler(velocity(jnp.float32), noise, ())[0])


def keys(rows):
    return keys_for(KEY, jnp.arange(rows))


@pytest.mark.parametrize("t, t_next", [(0.9, 0.6), (0.5, 0.45), (0.3, 0.05)])
def test_an_ancestral_step_draws_from_the_posterior_of_the_forward_process(t, t_next):
    # The forward chain goes x_s -> x_t with q(x_t|x_s) = N(a x_s, b²); given x_0 its reverse is a Gaussian by Bayes' rule.
    rows, data = 20_000, 0.4
    a = (1 - t) / (1 - t_next)
    b2 = t**2 - a**2 * t_next**2
    variance = 1 / (1 / t_next**2 + a**2 / b2)
    x = jnp.full((rows, 1), 0.7)
    mean = variance * ((1 - t_next) * data / t_next**2 + a * 0.7 / b2)
    stepper = Ancestral()
    state = stepper.init(x, keys(rows))
    perfect = lambda x, t, carry: ((x - data) / t[:, None], carry)
    found, _, _ = stepper.step(perfect, x, jnp.float32(t), jnp.float32(t_next), state, ())
    assert abs(found.mean() - mean) < 5 * np.sqrt(variance / rows)
    np.testing.assert_allclose(found.std(), np.sqrt(variance), rtol=5 / np.sqrt(2 * rows))


def test_ancestral_samples_have_the_data_s_mean_and_covariance():
    rows = 20_000
    noise = jax.random.normal(jax.random.key(1), (rows, 2))
    x, _ = jax.jit(lambda x: Sampler(steps=200, stepper=Ancestral())(gaussian_velocity, x, (), keys(rows)))(noise)
    np.testing.assert_allclose(x.mean(axis=0), MEAN, atol=0.06)
    np.testing.assert_allclose(np.cov(x.T), TURN @ np.diag(SPREAD**2) @ TURN.T, atol=0.08)


def test_without_eta_ancestral_is_euler():
    noise = jax.random.normal(KEY, (8, 2))
    found, _ = Sampler(steps=9, stepper=Ancestral(eta=0.0))(gaussian_velocity, noise, (), keys(8))
    np.testing.assert_allclose(found, Sampler(steps=9)(gaussian_velocity, noise, ())[0], atol=2e-6)


@pytest.mark.parametrize("steps", [1, 4])
def test_ancestral_lands_on_the_data_of_a_perfect_denoiser_without_a_nan(steps):
    noise = jax.random.normal(KEY, (4, 3))
    with jax.debug_nans(True):
        sampler = Sampler(steps=steps, stepper=Ancestral())
        x, calls = sampler(lambda x, t, carry: ((x - 0.5) / t[:, None], carry + 1), noise, 0, keys(4))
    np.testing.assert_allclose(x, 0.5, atol=2e-6)
    assert calls == sampler.nfe(None) == steps


def test_the_noise_of_an_ancestral_row_is_its_own_and_new_in_each_step():
    sampler, noise = Sampler(steps=6, stepper=Ancestral()), jnp.ones((5, 2))
    path, _ = sampler.trajectory(gaussian_velocity, noise, (), keys(5))
    some = jnp.array([3, 1])
    alone, _ = sampler.trajectory(gaussian_velocity, noise[some], (), keys(5)[some])
    np.testing.assert_allclose(alone, path[:, some], atol=1e-6)
    # All start at one point: only what was drawn on the way tells rows apart.
    assert np.abs(np.diff(path[1], axis=0)).min() > 1e-3
    stepper, x = Ancestral(), jnp.ones((4000, 1))
    state, drawn = stepper.init(x, keys(4000)), []
    for _ in range(2):
        end, state, _ = stepper.step(lambda x, t, carry: (x / t[:, None], carry), x, jnp.float32(0.8), jnp.float32(0.4), state, ())
        drawn.append(np.asarray(end)[:, 0])
    assert abs(np.corrcoef(drawn)[0, 1]) < 0.08


def test_ancestral_without_keys_or_with_a_senseless_eta_is_refused():
    with pytest.raises(ValueError, match="keys"):
        Sampler(stepper=Ancestral())(gaussian_velocity, jnp.ones((2, 2)), ())
    for eta in (-0.1, 1.5):
        with pytest.raises(BadInput, match="eta"):
            Ancestral(eta).validate()


def test_weights_of_equal_steps_are_those_of_adams_and_bashforth():
    known = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}
    for order, expected in known.items():
        np.testing.assert_allclose(adams_weights(-jnp.arange(order, dtype=jnp.float32)), expected, rtol=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_weights_of_unequal_steps_integrate_every_polynomial_of_their_order(order):
    places = jnp.asarray([0.0, -0.4, -1.7, -2.1][:order])
    weights = adams_weights(places)
    for power in range(order):
        np.testing.assert_allclose(jnp.sum(weights * places**power), 1 / (power + 1), rtol=1e-5)
    assert abs(weights.sum() - 1) < 1e-6
    if order == 2:  # 1 + h / (2 h₋) and -h / (2 h₋)
        np.testing.assert_allclose(weights, [1 + 1 / 0.8, -1 / 0.8], rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Uneven:
    """Steps that grow fourfold and more from the first to the last."""

    def __call__(self, steps):
        return np.linspace(1.0, 0.0, steps + 1) ** 2


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_multistep_error_on_uneven_steps_falls_with_its_order_as_far_as_the_first_step_lets_it(order):
    # Decay towards the data, dx/dt = x in a time that falls, so x is e^-1 of the noise at the end.
    counts, found = [16, 32, 64, 128], []
    for steps in counts:
        with jax.enable_x64(True):
            sampler = Sampler(steps=steps, stepper=AdamsBashforth(order), grid=Uneven())
            x, _ = sampler(lambda x, t, carry: (x, carry), jnp.ones((1, 1), jnp.float64), ())
            found.append(abs(float(x[0, 0]) - np.exp(-1)))
    slope = np.polyfit(np.log(counts), np.log(found), 1)[0]
    # The first step is Euler's, whose error of h² stays in the result whatever comes behind.
    assert abs(slope + min(order, 2)) < 0.15


@pytest.mark.parametrize("order", [2, 4])
def test_multistep_history_is_of_the_velocities_and_times_of_the_last_steps(order):
    # Velocities that are a polynomial in t alone are integrated exactly as soon as the history is long enough.
    stepper = AdamsBashforth(order)
    integral = lambda t: t**order / order
    times = np.array([1.0, 0.9, 0.65, 0.5, 0.45, 0.2, 0.0])
    with jax.enable_x64(True):
        x = jnp.zeros((1, 1), jnp.float64)
        state, changes = stepper.init(x), []
        for t, t_next in zip(times[:-1], times[1:], strict=True):
            end, state, _ = stepper.step(lambda x, t, carry: ((t ** (order - 1))[:, None] + 0 * x, carry), x, t, t_next, state, ())
            changes.append(float(end[0, 0] - x[0, 0]))
            x = end
    exact = integral(times[1:]) - integral(times[:-1])
    wrong = np.abs(np.array(changes) - exact)
    assert np.all(wrong[: order - 1] > 1e-4) and np.all(wrong[order - 1 :] < 1e-12)


@pytest.mark.parametrize("order", [0, 5])
def test_an_order_that_the_multistep_method_does_not_have_is_refused(order):
    with pytest.raises(BadInput, match="order"):
        AdamsBashforth(order).validate()
