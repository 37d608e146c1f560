import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen import types
from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.experiment import Experiment
from jaxgen.models.dit import DiT
from jaxgen.models.mmdit import MMDiT
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.objectives.timesteps import LogitNormal, Uniform
from jaxgen.parallel.mesh import MeshShape
from jaxgen.samplers.sampler import Sampler
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training

KEY = jax.random.key(3, impl="threefry2x32")
COUNT = 8
DRAWS = np.random.default_rng(0)


@dataclasses.dataclass(frozen=True)
class Network:
    """Stands in for a Linen module: `call(params, tokens, t, streams)` gives the values of the tokens."""

    call: object
    patch: int = 1
    streams: tuple[str, ...] = ("label",)

    def apply(self, variables, tokens, t, streams):
        return self.call(variables["params"], tokens, t, streams)


def views(network, **options):
    return types.Views({}, {}, {}, modules={"model": network, "autoencoder": Identity()}, **options)


def prepared(**changes):
    """A batch as `prepare` leaves it: pictures of 2 × 2 × 1."""
    return {
        "latents": jnp.asarray(DRAWS.normal(size=(COUNT, 2, 2, 1)), jnp.float32),
        "noise": jnp.asarray(DRAWS.normal(size=(COUNT, 2, 2, 1)), jnp.float32),
        "t": jnp.linspace(0.0, 1.0, COUNT),
        "dropped": jnp.arange(COUNT) % 3 == 0,
        "label": jnp.arange(COUNT),
        "weight": jnp.asarray([1, 1, 0.5, 1, 0, 2, 1, 1], jnp.float32),
    } | changes


def loss(network, batch, params=(), objective=None, **options):
    objective = objective or FlowMatching()
    return objective.loss("model", params, views(network, **options), batch, KEY, jnp.int32(0), ())


def mixing(params, tokens, t, streams):
    """A network that uses all it is given."""
    label = streams["label"]
    shown = jnp.where(label.segments > 0, label.values, -5.0)
    return params["a"] * tokens.values + params["b"] * t[:, None, None] + params["c"] * shown[..., None]


PARAMS = {"a": jnp.float32(0.7), "b": jnp.float32(-0.4), "c": jnp.float32(0.1)}


def test_the_loss_is_the_weighted_mean_square_error_of_the_velocity():
    batch = prepared()
    x0, noise, t = (np.asarray(batch[name], np.float64) for name in ("latents", "noise", "t"))
    t = t[:, None, None, None]
    label = np.where(batch["dropped"], -5.0, batch["label"])[:, None, None, None]
    predicted = 0.7 * ((1 - t) * x0 + t * noise) - 0.4 * t + 0.1 * label
    errors = ((predicted - (noise - x0)) ** 2).mean(axis=(1, 2, 3))
    weight = np.asarray(batch["weight"], np.float64)
    assert float(loss(Network(mixing), batch, PARAMS)[0]) == pytest.approx((errors * weight).sum() / weight.sum(), rel=1e-5)


def test_a_network_that_knows_the_velocity_has_no_loss():
    batch = prepared()
    truth = (batch["noise"] - batch["latents"]).reshape(COUNT, 4, 1)
    assert float(loss(Network(lambda *_: truth), batch)[0]) == 0
    assert float(loss(Network(lambda *_: truth + 0.5), batch)[0]) == pytest.approx(0.25, rel=1e-5)


def test_a_network_is_given_tokens_in_the_compute_dtype_and_its_loss_is_float32():
    seen = []

    def call(params, tokens, t, streams):
        seen.append((tokens.values.dtype, t.dtype))
        return tokens.values

    value, metrics, _ = loss(Network(call), prepared(), compute=jnp.bfloat16)
    assert seen == [(jnp.bfloat16, jnp.float32)]
    assert value.dtype == jnp.float32
    assert all(mean.total.dtype == jnp.float32 for mean in metrics.values())


@pytest.mark.parametrize("buckets", [1, 4, 7])
def test_losses_by_time_recombine_to_the_loss_and_lie_in_their_intervals(buckets):
    batch = prepared(weight=jnp.ones(COUNT))
    value, metrics, _ = loss(Network(mixing), batch, PARAMS, FlowMatching(time_buckets=buckets))
    assert len(metrics) == buckets
    whole = functools.reduce(lambda a, b: a + b, metrics.values())
    assert float(whole.value()) == pytest.approx(float(value), rel=1e-6)
    counts = np.histogram(np.asarray(batch["t"]), bins=np.linspace(0, 1, buckets + 1))[0]
    np.testing.assert_array_equal([mean.weight for mean in metrics.values()], counts)


def value_and_gradient(batch):
    return jax.value_and_grad(lambda params: loss(Network(mixing), batch, params)[0])(PARAMS)


def test_rows_of_weight_zero_change_neither_loss_nor_gradient():
    batch = prepared()
    changed = batch | {name: batch[name].at[4].set(77) for name in ("latents", "noise", "label")}
    rest = {name: jnp.delete(value, 4, axis=0) for name, value in batch.items()}
    expected = value_and_gradient(batch)
    jax.tree.map(np.testing.assert_array_equal, value_and_gradient(changed), expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), value_and_gradient(rest), expected)


def test_a_batch_without_any_weight_has_zero_loss_and_gradient():
    value, gradient = value_and_gradient(prepared(weight=jnp.zeros(COUNT)))
    assert value == 0
    assert all(g == 0 for g in jax.tree.leaves(gradient))


def raw(count, side=2):
    return {
        "image": jnp.asarray(DRAWS.integers(0, 256, (count, side, side, 1)), jnp.uint8),
        "label": jnp.arange(count) % 10,
        "weight": jnp.ones(count),
    }


def prepare(objective, batch, key=KEY):
    return objective.prepare(views(None), batch, key)


def test_pictures_become_numbers_from_minus_one_to_one():
    batch = raw(2) | {"image": jnp.asarray([0, 255, 51, 204], jnp.uint8).reshape(1, 2, 2, 1)}
    np.testing.assert_allclose(prepare(FlowMatching(), batch)["latents"].ravel(), [-1, 1, -0.6, 0.6], atol=1e-6)


def test_conditions_are_dropped_in_the_asked_share_independently_of_time():
    batch = prepare(FlowMatching(condition_dropout=0.2), raw(20_000))
    dropped, t = np.asarray(batch["dropped"]), np.asarray(batch["t"])
    assert dropped.mean() == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / 20_000))
    assert t[dropped].mean() == pytest.approx(t[~dropped].mean(), abs=0.02)
    assert not np.any(prepare(FlowMatching(condition_dropout=0.0), raw(100))["dropped"])


def test_a_key_gives_one_draw_and_another_key_another():
    first, again, other = (prepare(FlowMatching(), raw(8), jax.random.key(seed)) for seed in (0, 0, 1))
    for name in ("t", "noise"):
        np.testing.assert_array_equal(first[name], again[name])
        assert not np.any(first[name] == other[name])


def test_noise_is_standard_normal():
    noise = np.asarray(prepare(FlowMatching(), raw(2000))["noise"])
    assert noise.mean() == pytest.approx(0, abs=0.05) and noise.std() == pytest.approx(1, rel=0.03)


def test_draws_do_not_depend_on_the_mesh():
    batch = raw(16)

    def on(devices):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
        given = NamedSharding(mesh, PartitionSpec("data"))
        placed = {name: jax.device_put(value, given) for name, value in batch.items()}
        return jax.jit(functools.partial(prepare, FlowMatching(condition_dropout=0.5)), out_shardings=given)(placed)

    alone, shared = on(1), on(8)
    assert len(shared["noise"].addressable_shards) == 8
    for name in ("t", "noise", "dropped"):
        np.testing.assert_array_equal(alone[name], shared[name], err_msg=name)


@pytest.mark.parametrize("timesteps", [LogitNormal(), Uniform()], ids=["logit_normal", "uniform"])
def test_larger_pictures_have_their_times_shifted_in_the_logit_by_the_log_of_the_ratio_of_sides(timesteps):
    batch = raw(500, side=6)
    plain = prepare(FlowMatching(timesteps), batch)["t"]
    shifted = prepare(FlowMatching(timesteps, base_pixels=4), batch)["t"]
    logit = lambda t: np.log(np.asarray(t, np.float64) / (1 - np.asarray(t, np.float64)))
    inner = np.abs(plain - 0.5) < 0.49  # nearer to 1 the logit of a float32 is coarse
    np.testing.assert_allclose((logit(shifted) - logit(plain))[inner], np.log(6 / 2), atol=1e-4)
    np.testing.assert_allclose(prepare(FlowMatching(timesteps, base_pixels=36), batch)["t"], plain, rtol=1e-6)


def experiment(**changes):
    return dataclasses.replace(
        Experiment(
            model=DiT(depth=1),
            autoencoder=Identity(),
            objective=FlowMatching(),
            data=Data(),
            optimizer=AdamW(),
            training=Training(),
            sampler=Sampler(),
            mesh=MeshShape(),
        ),
        **changes,
    )


class Unlabelled:
    """A source whose examples have no condition."""

    def features(self, data):
        return {"image": jax.ShapeDtypeStruct((data.resolution, data.resolution, data.channels), jnp.uint8)}


MISFITS = {
    "channels": ({"model": DiT(channels=3)}, "model.channels", 3),
    "resolution": ({"data": Data(resolution=9)}, "data.resolution", 9),
    "stream": ({"data": Data(source=Unlabelled())}, "data.source", "Unlabelled"),
    "stream_of_text": ({"model": MMDiT(), "data": Data(source=Unlabelled())}, "data.source", "Unlabelled"),
}


@pytest.mark.parametrize("changes, option, found", MISFITS.values(), ids=MISFITS)
def test_a_model_that_does_not_fit_the_data_is_refused_by_the_options_full_name(changes, option, found):
    with pytest.raises(types.BadInput) as error:
        FlowMatching().check(experiment(**changes))
    assert (error.value.option, error.value.found) == (option, found)


def test_models_that_fit_the_data_are_taken():
    FlowMatching().check(experiment())
    FlowMatching().check(experiment(model=MMDiT(), data=Data(resolution=12)))


@pytest.mark.parametrize(
    "options", [{"condition_dropout": 1.0}, {"condition_dropout": -0.1}, {"time_buckets": 0}, {"base_pixels": 0}], ids=str
)
def test_an_option_out_of_range_is_refused_by_name(options):
    with pytest.raises(types.BadInput) as error:
        FlowMatching(**options).validate()
    assert error.value.option == next(iter(options))


def test_the_player_is_the_model_with_inputs_of_the_datas_shape():
    (player,) = FlowMatching().players(experiment(model=MMDiT(text_length=64), data=Data(resolution=6, text_length=50)))
    tokens, t, streams = player.inputs()
    assert (player.name, tokens.values.shape, t.shape) == ("model", (1, 9, 4), (1,))
    assert streams["text"].values.shape == (1, 50)
