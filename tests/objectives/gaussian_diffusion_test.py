import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import types
from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.experiment import Experiment
from jaxgen.models.dit import DiT
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.objectives.gaussian_diffusion import GaussianDiffusion, bound_term
from jaxgen.parallel.mesh import MeshShape
from jaxgen.samplers.gaussian import Diffusion, Posterior
from jaxgen.samplers.sampler import Sampler
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training

KEY = jax.random.key(3, impl="threefry2x32")
COUNT = 8
DRAWS = np.random.default_rng(0)
STEPS = np.array([1, 2, 57, 301, 302, 640, 999, 1000])
LEARNED = GaussianDiffusion(process=Diffusion(learned_variance=True))
each_prediction = pytest.mark.parametrize("prediction", ["noise", "v"])


@dataclasses.dataclass(frozen=True)
class Network:
    """Stands in for a Linen module: `call(params, tokens, t)` gives the values of tokens of one pixel."""

    call: object
    patch: int = 1
    streams: tuple[str, ...] = ()

    def apply(self, variables, tokens, t, streams):
        return self.call(variables["params"], tokens, t)


def prepared(**changes):
    """A batch as `prepare` leaves it: pictures of 2 × 2 × 3."""
    return {
        "latents": jnp.asarray(DRAWS.uniform(-1, 1, size=(COUNT, 2, 2, 3)), jnp.float32),
        "noise": jnp.asarray(DRAWS.normal(size=(COUNT, 2, 2, 3)), jnp.float32),
        "t": jnp.asarray(STEPS / 1000, jnp.float32),
        "dropped": jnp.zeros(COUNT, bool),
        "weight": jnp.asarray([1, 1, 0.5, 1, 0, 2, 1, 1], jnp.float32),
    } | changes


def loss(call, batch, params=(), objective=LEARNED):
    views = types.Views({}, {}, {}, modules={"model": Network(call), "autoencoder": Identity()})
    return objective.loss("model", params, views, batch, KEY, jnp.int32(0), ())[:2]


def mixing(params, tokens, t):
    """Predictions and places of the variance."""
    predicted = params["a"] * tokens.values + params["b"] * t[:, None, None]
    return jnp.concatenate([predicted, jnp.tanh(params["c"] * tokens.values)], axis=-1)


PARAMS = {"a": jnp.float32(0.7), "b": jnp.float32(-0.4), "c": jnp.float32(0.3)}


def states(batch):
    """α, σ [B, 1, 1, 1] and x_t by their definitions, float64."""
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[STEPS - 1][:, None, None, None]
    x0, noise = (np.asarray(batch[name], np.float64) for name in ("latents", "noise"))
    return np.sqrt(kept), np.sqrt(1 - kept), np.sqrt(kept) * x0 + np.sqrt(1 - kept) * noise


@each_prediction
def test_without_a_variance_the_loss_is_the_weighted_mean_square_error_of_the_prediction(prediction):
    batch = prepared()
    alpha, sigma, x_t = states(batch)
    x0, noise = (np.asarray(batch[name], np.float64) for name in ("latents", "noise"))
    target = noise if prediction == "noise" else alpha * noise - sigma * x0
    predicted = 0.7 * x_t - 0.4 * ((STEPS - 1) / 1000)[:, None, None, None]
    errors = ((predicted - target) ** 2).mean(axis=(1, 2, 3))
    weight = np.asarray(batch["weight"], np.float64)
    objective = GaussianDiffusion(process=Diffusion(prediction=prediction))
    found, metrics = loss(lambda p, tokens, t: mixing(p, tokens, t)[..., :3], batch, PARAMS, objective)
    assert float(found) == pytest.approx((errors * weight).sum() / weight.sum(), rel=1e-5)
    assert set(metrics) == {f"loss_by_time/{low:.2f}-{low + 0.25:.2f}" for low in (0, 0.25, 0.5, 0.75)}


def test_the_last_step_of_the_chain_counts_in_the_last_interval_of_time():
    _, metrics = loss(mixing, prepared(weight=jnp.ones(COUNT)), PARAMS)
    assert [float(metrics[name].weight) for name in sorted(metrics) if "time" in name] == [3, 2, 1, 2]


def integrated(process, k, x0, x_t, predicted, place):
    """KL(q ‖ p) of one reverse step for scalars, by quadrature, in nats; q from Bayes' rule on a grid, without its closed form."""
    kept = process.alphas_cumprod()
    beta = 1 - kept[k] / kept[k - 1]
    small = np.log((1 - kept[k - 1]) / (1 - kept[k]) * beta)
    variance = np.exp((place + 1) / 2 * np.log(beta) + (1 - place) / 2 * small)
    data = (x_t - np.sqrt(1 - kept[k]) * predicted) / np.sqrt(kept[k])
    mean = np.sqrt(kept[k - 1]) * beta / (1 - kept[k]) * data + np.sqrt(1 - beta) * (1 - kept[k - 1]) / (1 - kept[k]) * x_t
    peak = (1 - kept[k - 1]) / (1 - kept[k]) * beta
    y = np.linspace(-1, 1, 400_001) * 40 * np.sqrt(peak) + x_t
    log_q = -((y - np.sqrt(kept[k - 1]) * x0) ** 2) / (2 * (1 - kept[k - 1])) - (x_t - np.sqrt(1 - beta) * y) ** 2 / (2 * beta)
    log_q -= log_q.max()
    q = np.exp(log_q) / (np.exp(log_q).sum() * (y[1] - y[0]))
    log_p = -((y - mean) ** 2) / (2 * variance) - np.log(2 * np.pi * variance) / 2
    shown = q > 0
    return np.sum(q[shown] * (np.log(q[shown]) - log_p[shown])) * (y[1] - y[0])


@pytest.mark.parametrize("k", [2, 57, 640, 1000])
@pytest.mark.parametrize("place", [-1.0, 0.3, 1.0])
def test_the_bound_is_the_integrated_divergence_of_a_reverse_step(k, place):
    process = Diffusion(learned_variance=True)
    kept = process.alphas_cumprod()[k]
    x0, noise = 0.3, 1.1
    x_t = np.sqrt(kept) * x0 + np.sqrt(1 - kept) * noise
    whole = lambda value: jnp.full((1, 1, 1, 1), value, jnp.float32)
    for off in (0.0, 0.2, -0.7):
        arguments = (whole(noise + off), whole(place), whole(x_t), whole(x0), jnp.array([k / 1000], jnp.float32))
        found = float(bound_term(process, *arguments)[0]) * np.log(2)
        assert found == pytest.approx(integrated(process, k, x0, x_t, noise + off, place), rel=2e-3, abs=2e-6)


@pytest.mark.parametrize("x0", [-1.0, -0.2, 101 / 127.5 - 1, 1.0])
def test_the_step_to_the_data_counts_the_mass_of_the_data_s_level(x0):
    # Levels are 2/255 apart; the outermost reach to infinity.
    process, place, noise = Diffusion(learned_variance=True), 0.4, 0.6
    kept = process.alphas_cumprod()
    variance = np.exp(0.7 * np.log(1 - kept[1]) + 0.3 * np.log((1 - kept[1]) / (1 - kept[2]) * (1 - kept[2] / kept[1])))
    x_t = np.sqrt(kept[1]) * x0 + np.sqrt(1 - kept[1]) * noise
    whole = lambda value: jnp.full((1, 1, 1, 1), value, jnp.float32)
    for off in (0.0, 0.5, -1.5):
        mean = (x_t - np.sqrt(1 - kept[1]) * (noise + off)) / np.sqrt(kept[1])
        low = x0 - 1 / 255 if x0 > -1 else mean - 1
        high = x0 + 1 / 255 if x0 < 1 else mean + 1
        y = np.linspace(low, high, 200_001)
        mass = np.exp(-((y - mean) ** 2) / (2 * variance)).mean() * (high - low) / np.sqrt(2 * np.pi * variance)
        arguments = (whole(noise + off), whole(place), whole(x_t), whole(x0), jnp.array([1 / 1000], jnp.float32))
        # The distribution function of the published code is good to 3e-4.
        assert 2 ** -float(bound_term(process, *arguments)[0]) == pytest.approx(mass, abs=1e-3)


def test_a_network_that_knows_the_reverse_step_has_no_divergence_and_one_of_the_largest_variance_has():
    batch = prepared()
    x_t = jnp.asarray(states(batch)[2], jnp.float32)
    place = jnp.full_like(x_t, -1.0)
    found = bound_term(LEARNED.process, batch["noise"], place, x_t, batch["latents"], batch["t"])
    np.testing.assert_allclose(found[2:], 0, atol=1e-5)
    assert np.all(bound_term(LEARNED.process, batch["noise"], -place, x_t, batch["latents"], batch["t"])[2:] > 0)


def test_the_best_variance_covers_the_error_of_the_mean_too():
    # The divergence is least where the variance is β̃ + (c Δx_0)².
    k, off = 300, 0.02
    posterior = Posterior.of(LEARNED.process.alphas_cumprod())
    kept = LEARNED.process.alphas_cumprod()[k]
    gap = posterior.data[k - 1] * np.sqrt((1 - kept) / kept) * off
    low, high = posterior.log_variance[k - 1], posterior.log_beta[k - 1]
    best = 2 * (np.log(np.exp(low) + gap**2) - low) / (high - low) - 1
    whole = lambda value: jnp.broadcast_to(jnp.asarray(value, jnp.float32), (1, 1, 1, 1))
    x_t = np.sqrt(kept) * 0.3 + np.sqrt(1 - kept) * 1.1

    def term(place):
        return bound_term(LEARNED.process, whole(1.1 + off), whole(place), whole(x_t), whole(0.3), jnp.array([k / 1000]))[0]

    slope = jax.grad(term)
    assert float(slope(best - 0.5)) < 0 < float(slope(best + 0.5))
    assert abs(float(slope(best))) < 0.02 * abs(float(slope(best + 0.5)))


def test_the_loss_adds_the_bound_and_its_gradient_does_not_reach_the_mean():
    batch = prepared()

    def of(weight):
        objective = dataclasses.replace(LEARNED, bound_weight=weight)
        return jax.value_and_grad(lambda params: loss(mixing, batch, params, objective)[0])(PARAMS)

    (value, gradient), (half, lesser) = of(0.001), of(0.0005)
    _, metrics = loss(mixing, batch, PARAMS)
    simple, bound = (float(metrics[name].value()) for name in ("loss_simple", "loss_bound"))
    assert float(value) == pytest.approx(simple + bound, rel=1e-6) and float(half) == pytest.approx(simple + bound / 2, rel=1e-6)
    plain = jax.grad(lambda p: loss(lambda *a: mixing(*a)[..., :3], batch, p, GaussianDiffusion())[0])(PARAMS)
    for name in ("a", "b"):
        np.testing.assert_allclose(gradient[name], plain[name], rtol=1e-6)
    # The variance learns from the bound alone.
    assert abs(float(gradient["c"])) > 1e-4 and float(gradient["c"]) == pytest.approx(2 * float(lesser["c"]), rel=1e-5)


def test_gradients_are_finite_however_wrong_the_network_is():
    batch = prepared()
    for scale in (0.0, 10.0, 1e4):
        wild = lambda p, tokens, t, scale=scale: jnp.concatenate(
            [scale * p["a"] * tokens.values, 0.5 * p["c"] * tokens.values], axis=-1
        )
        gradient = jax.grad(lambda params, wild=wild: loss(wild, batch, params)[0])(PARAMS)
        assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(gradient))


def test_steps_of_the_chain_are_drawn_evenly_and_all_of_them():
    count = 50_000
    t = np.asarray(GaussianDiffusion(process=Diffusion(steps=100)).times(KEY, count, 64))
    steps = np.rint(t * 100).astype(int)
    np.testing.assert_allclose(t, steps / 100, rtol=1e-6)
    counts = np.bincount(steps, minlength=101)
    assert counts[0] == 0 and np.all(np.abs(counts[1:] - count / 100) <= 2)  # one draw in each 50 000th part


def experiment(**changes):
    return dataclasses.replace(
        Experiment(
            model=DiT(depth=1, learn_variance=True),
            autoencoder=Identity(),
            objective=LEARNED,
            data=Data(),
            optimizer=AdamW(),
            training=Training(),
            sampler=Sampler(),
            mesh=MeshShape(),
        ),
        **changes,
    )


MISFITS = {
    "model_alone": {"objective": GaussianDiffusion()},
    "objective_alone": {"model": DiT(depth=1)},
    "model_alone_with_flow": {"objective": FlowMatching()},
}


@pytest.mark.parametrize("changes", MISFITS.values(), ids=MISFITS)
def test_a_variance_that_only_one_of_model_and_objective_learns_is_refused(changes):
    given = experiment(**changes)
    with pytest.raises(types.BadInput) as error:
        given.objective.check(given)
    assert error.value.option == "model.learn_variance" and error.value.found == given.model.learn_variance


def test_both_or_neither_learning_a_variance_is_taken():
    for given in (experiment(), experiment(model=DiT(depth=1), objective=GaussianDiffusion())):
        given.objective.check(given)


@pytest.mark.parametrize("options", [{"bound_weight": 0.0}, {"bound_weight": float("nan")}, {"condition_dropout": 1.0}], ids=str)
def test_an_option_out_of_range_is_refused_by_name(options):
    with pytest.raises(types.BadInput) as error:
        GaussianDiffusion(**options).validate()
    assert error.value.option == next(iter(options))
