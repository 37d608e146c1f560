import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.samplers import steppers
from jaxgen.samplers.gaussian import Diffusion, Posterior, Respaced, Strided
from jaxgen.samplers.process import Flow, over
from jaxgen.samplers.sampler import Sampler, keys_for
from jaxgen.samplers.steppers import Ancestral, DPMSolverPP2M, Euler, Heun
from jaxgen.samplers.stochastic import DDPM, EulerMaruyama, HeunSDE
from jaxgen.samplers.time_grids import Uniform
from jaxgen.types import BadInput

MEAN, SPREAD = np.array([1.5, -0.7]), np.array([1.6, 0.25])  # of data that are independent normal channels
KEY = jax.random.key(5, impl="threefry2x32")
PREDICTIONS = ["noise", "v"]


@pytest.fixture(autouse=True)
def strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def gaussian_network(process):
    """What a perfect network predicts for data N(MEAN, SPREAD²); it is told (k - 1)/T."""

    def network(x, t, carry):
        t = t + 1 / process.steps
        alpha, sigma = over(process.alpha(t), x), over(process.sigma(t), x)
        centred = (x - alpha * MEAN[None]) / (alpha**2 * SPREAD[None] ** 2 + sigma**2)
        data, noise = MEAN[None] + alpha * SPREAD[None] ** 2 * centred, sigma * centred
        return noise if process.prediction == "noise" else alpha * noise - sigma * data, carry

    return network


def drawn(process, sampler, noise, network=None):
    velocity = process.as_flow(network or gaussian_network(process))
    keys = keys_for(KEY, jnp.arange(len(noise)))
    return jax.jit(lambda noise: sampler(velocity, noise, (), keys, process)[0])(noise)


def test_states_lose_the_data_step_by_step():
    products = Diffusion().alphas_cumprod()
    assert products.shape == (1001,) and products[0] == 1 and np.all(np.diff(products) < 0)
    # The variance that a step adds, by its definition: x_k = √(1 - β) x_{k-1} + √β ε.
    np.testing.assert_allclose(1 - products[1:], (1 - Diffusion().betas()) * (1 - products[:-1]) + Diffusion().betas(), rtol=1e-12)
    assert 4.0e-5 < products[-1] < 4.1e-5


@pytest.mark.parametrize("steps", [200, 4000])
def test_chains_of_another_length_end_as_noisy(steps):
    np.testing.assert_allclose(np.log(Diffusion(steps).alphas_cumprod()[-1]), np.log(Diffusion().alphas_cumprod()[-1]), rtol=0.06)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("t", [jnp.float32(0.3), jnp.array([0.001, 0.3, 1.0])], ids=["scalar", "per_example"])
def test_the_true_prediction_gives_back_data_and_noise(prediction, t):
    process = Diffusion(prediction=prediction)
    x0, noise = jax.random.normal(KEY, (3, 4, 4, 2)) + 2, jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
    found = process.data_and_noise(process.interpolate(x0, noise, t), process.target(x0, noise, t), t)
    np.testing.assert_allclose(found[0], x0, atol=2e-4)  # roundings over √ᾱ_1000 = 0.006
    np.testing.assert_allclose(found[1], noise, atol=2e-6)


def test_v_is_how_fast_the_state_turns_from_data_to_noise():
    # With α = cos φ and σ = sin φ, x = cos φ x_0 + sin φ ε and v = dx/dφ (Salimans and Ho, appendix D).
    process, t = Diffusion(prediction="v"), jnp.array([0.2, 0.6])
    x0, noise = jax.random.normal(KEY, (2, 3)), jax.random.normal(jax.random.key(1), (2, 3))
    angle = jnp.arctan2(process.sigma(t), process.alpha(t))
    turned = lambda angle: over(jnp.cos(angle), x0) * x0 + over(jnp.sin(angle), x0) * noise
    state, slope = jax.jvp(turned, (angle,), (jnp.ones(2),))
    np.testing.assert_allclose(state, process.interpolate(x0, noise, t), atol=1e-6)
    np.testing.assert_allclose(slope, process.target(x0, noise, t), atol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [100, 1000])
def test_in_the_flow_s_coordinates_a_perfect_network_gives_noise_minus_data_at_every_step(prediction, steps):
    process = Diffusion(steps, prediction=prediction, learned_variance=True)
    x0, noise = jax.random.normal(KEY, (steps, 3)), jax.random.normal(jax.random.key(1), (steps, 3))
    times, lengths = process.in_flow(np.linspace(1, 0, steps + 1))
    tau = jnp.asarray(times[:-1], jnp.float32)
    told = np.arange(steps)[::-1]

    def network(x_t, t, carry):
        np.testing.assert_allclose(np.asarray(t) * steps, told, atol=1e-4 * steps / 1000)
        k = jnp.asarray((told + 1) / steps, jnp.float32)
        np.testing.assert_allclose(x_t, process.interpolate(x0, noise, k), atol=2e-6)
        return jnp.concatenate([process.target(x0, noise, k), 10 * x0], axis=-1), carry + 1

    v, carry = process.as_flow(network)(Flow().interpolate(x0, noise, tau), tau, 0)
    assert carry == 1
    np.testing.assert_allclose(v[:, :3], noise - x0, atol=5e-4)
    np.testing.assert_array_equal(v[:, 3:], 10 * x0)
    # Lengths turn states of the flow into states of the process.
    state = over(jnp.asarray(lengths[:-1], jnp.float32), x0) * Flow().interpolate(x0, noise, tau)
    np.testing.assert_allclose(state, process.interpolate(x0, noise, jnp.linspace(1, 1 / steps, steps)), atol=2e-6)
    assert times[-1] == 0 and lengths[-1] == 1


def errors(stepper, counts, prediction):
    """Of samples without noise on the way, against the exact solution for normal data."""
    found = []
    process = Diffusion(2**14, prediction=prediction)
    with jax.enable_x64(True):
        noise = np.random.default_rng(0).normal(size=(64, 2))
        last = process.alphas_cumprod()[-1]
        # Quantiles stay: the deviation of x_t at the end over that of the data.
        expected = MEAN + SPREAD * (noise - np.sqrt(last) * MEAN) / np.sqrt(last * SPREAD**2 + 1 - last)
        for steps in counts:
            x = drawn(process, Sampler(steps=steps, stepper=stepper), jnp.asarray(noise))
            found.append(float(jnp.sqrt(jnp.mean((x - expected) ** 2))))
    return found


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_without_noise_follows_the_exact_solution_with_an_error_of_first_order(prediction):
    counts = [64, 128, 256, 512]
    found = errors(Euler(), counts, prediction)
    assert found[-1] < 0.01
    assert -np.polyfit(np.log(counts), np.log(found), 1)[0] == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("stepper", [Heun(), DPMSolverPP2M()], ids=["heun", "dpm_solver_pp_2m"])
def test_steppers_of_second_order_come_nearer_in_as_many_steps(stepper):
    # At even timesteps the last step is the longest in τ, about 1/√steps, and of first order in all: that keeps the orders alike.
    assert errors(stepper, [128], "noise")[0] < errors(Euler(), [128], "noise")[0] / 5


def uncorrelated(rows, count):
    """Noise [count, rows, 2] of means 0, variances 1 and covariances 0 between draws, all exactly: samples of a linear chain have
    the moments of infinitely many.
    """
    drawn = np.random.default_rng(0).normal(size=(rows, count))
    columns, _ = np.linalg.qr(np.concatenate([np.ones((rows, 1)), drawn], axis=1))
    return np.repeat(np.sqrt(rows) * columns[:, 1:].T[..., None], 2, axis=2).astype(np.float32)


def moments(monkeypatch, process, sampler, mean, spread, network=None):
    """Mean and deviation, by channel, of samples that begin where data of this mean and deviation are after T steps."""
    noise = uncorrelated(sampler.steps + 2, sampler.steps + 1)
    monkeypatch.setattr(steppers, "draw", lambda state, x: (jnp.asarray(noise)[1 + state[1]], (state[0], state[1] + 1)))
    last = process.alphas_cumprod()[-1]
    start = np.sqrt(last) * mean + np.sqrt(last * spread**2 + 1 - last) * noise[0]
    found = np.asarray(drawn(process, sampler, jnp.asarray(start, jnp.float32), network), np.float64)
    return found.mean(axis=0), found.std(axis=0)


@pytest.mark.parametrize("grid, steps", [(Respaced(), 5), (Strided(), 2)], ids=["from_the_end", "from_half_way"])
def test_noise_is_what_the_network_is_first_shown_and_data_what_comes_out(grid, steps):
    def network(x, t, carry):
        first, told, count = carry
        return 0 * x, (jnp.where(count == 0, x, first), told.at[count].set(t[0]), count + 1)

    noise = jax.random.normal(KEY, (4, 2))
    sampler, start = Sampler(steps=steps, grid=grid), (jnp.zeros((4, 2)), jnp.zeros(steps), 0)
    path, (first, told, _) = sampler.trajectory(Diffusion().as_flow(network), noise, start, process=Diffusion())
    np.testing.assert_allclose(first, noise, rtol=1e-6)
    np.testing.assert_allclose(told, grid(steps)[:-1] - 0.001, atol=1e-7)
    # Without any noise predicted, states are multiples of the data.
    k = np.rint(grid(steps) * 1000).astype(int)
    scales = np.sqrt(Diffusion().alphas_cumprod()[k] / Diffusion().alphas_cumprod()[k[0]])
    np.testing.assert_allclose(path, scales[:, None, None] * np.asarray(noise), rtol=2e-5)


STOCHASTIC = {
    "ancestral": Ancestral(),
    "fixed_small": DDPM("fixed_small"),
    "fixed_large": DDPM("fixed_large"),
    "euler_maruyama": EulerMaruyama(),
    "heun_sde": HeunSDE(),
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_samples_have_the_data_s_mean_and_deviation_in_the_limit_of_many_steps(name, monkeypatch):
    errors = []
    for steps in (50, 200):
        found = moments(monkeypatch, Diffusion(200), Sampler(steps=steps, stepper=STOCHASTIC[name]), MEAN, SPREAD)
        errors.append(np.abs(np.array(found) - [MEAN, SPREAD]).max())
    assert errors[1] < 0.03 and errors[1] < 0.4 * errors[0]


def test_the_right_variance_makes_ten_steps_exact_and_no_fixed_one_does(monkeypatch):
    # For normal data the reverse step is normal too, of variance β̃ + c² Var(x_0 | x_t), between both bounds where 0 < spread < 1.
    process, steps, spread = Diffusion(learned_variance=True), 10, 0.5
    index = np.rint(Respaced()(steps) * 1000).astype(int)[::-1]
    products = process.alphas_cumprod()[index]
    posterior = Posterior.of(products)
    of_data = spread**2 * (1 - products[1:]) / (products[1:] * spread**2 + 1 - products[1:])
    wanted = np.log(np.exp(posterior.log_variance) + posterior.data**2 * of_data)
    place = 2 * (wanted - posterior.log_variance) / (posterior.log_beta - posterior.log_variance) - 1
    assert np.all(np.abs(place[1:]) < 1)

    def network(x, t, carry):
        k = jnp.round(t * 1000).astype(jnp.int32) + 1
        t = t + 1 / 1000
        alpha, sigma = over(process.alpha(t), x), over(process.sigma(t), x)
        predicted = sigma * (x - alpha) / (alpha**2 * spread**2 + sigma**2)
        said = jnp.asarray(np.interp(np.arange(1001), index[1:], place), x.dtype)[k]
        return jnp.concatenate([predicted, jnp.broadcast_to(said[:, None], x.shape)], axis=-1), carry

    found = {}
    for variance in ("learned_range", "fixed_small", "fixed_large"):
        sampler = Sampler(steps=steps, stepper=DDPM(variance), grid=Respaced())
        mean, found[variance] = moments(monkeypatch, process, sampler, 1.0, spread, network)
        np.testing.assert_allclose(mean, 1, atol=1e-4)
    # What is left is the noise of the step next to the data, which is not drawn.
    np.testing.assert_allclose(found["learned_range"], spread, rtol=1e-3)
    assert np.all(found["fixed_small"] < 0.9 * spread) and np.all(found["fixed_large"] > 1.02 * spread)


def test_float32_is_enough_for_a_thousand_steps(monkeypatch):
    noise = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
    on_the_way = np.random.default_rng(1).normal(size=(1000, 16, 2)).astype(np.float32)
    draw = lambda state, x: (jnp.asarray(on_the_way, x.dtype)[state[1]], (state[0], state[1] + 1))
    monkeypatch.setattr(steppers, "draw", draw)
    sampler = Sampler(steps=1000, stepper=DDPM("fixed_large"), grid=Respaced())
    single = drawn(Diffusion(), sampler, jnp.asarray(noise))
    with jax.enable_x64(True):
        double = drawn(Diffusion(), sampler, jnp.asarray(noise, jnp.float64))
    np.testing.assert_allclose(single, double, atol=2e-4)


@pytest.mark.parametrize("steps", [2, 10, 250, 999, 1000])
def test_respaced_steps_are_spread_evenly_from_end_to_end(steps):
    times = Respaced()(steps)
    assert times[0] == 1 and times[-2] == np.float32(0.001) and times[-1] == 0
    assert np.ptp(np.rint(np.diff(times[:-1]) * 1000)) <= 1


@pytest.mark.parametrize("steps, stride", [(25, 40), (30, 34), (50, 20), (1000, 1)])
def test_strided_steps_begin_next_to_the_data_and_lie_equally_far_apart(steps, stride):
    index = np.rint(Strided()(steps) * 1000).astype(int)
    assert len(index) == steps + 1 and index[-2] == 1 and index[-1] == 0
    assert set(np.diff(index[:-1])) == {-stride} and index[0] + stride > 1000


@pytest.mark.parametrize(
    "call, option, found",
    [
        (lambda: Respaced()(1001), "steps", 1001),
        (lambda: Strided()(1001), "steps", 1001),
        (lambda: Strided()(999), "steps", 999),
        (lambda: Diffusion().check_times(np.linspace(1, 0, 1002)), "sampler.steps", 1001),
        (lambda: Diffusion().check_times(Uniform(50.0)(500)), "sampler.grid", None),
        (lambda: Flow().check_times(Strided()(25)), "sampler.grid", None),
        (lambda: Diffusion(steps=1).validate(), "steps", 1),
        (lambda: Diffusion(beta_start=0.0).validate(), "beta_start", 0.0),
        (lambda: Diffusion(beta_start=0.03).validate(), "beta_end", 0.02),
        (lambda: Diffusion(steps=20, beta_end=0.02).validate(), "beta_end", 0.02),
    ],
)
def test_what_a_chain_cannot_do_is_refused_by_name(call, option, found):
    with pytest.raises(BadInput) as caught:
        call()
    assert caught.value.option == option and found in (None, caught.value.found)


def test_usual_chains_and_times_are_taken():
    for steps in (200, 1000, 4000):
        Diffusion(steps).validate()
        Diffusion(steps).check_times(Uniform()(50))
    for grid, steps in ((Respaced(), 1000), (Strided(), 25), (Uniform(3.0), 25)):
        Diffusion().check_times(grid(steps))
    Flow().check_times(Uniform()(25))
