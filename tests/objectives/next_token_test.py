"""Next-token prediction of the codes of pictures."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.autoencoders.convolutional import ConvolutionalAutoencoder
from jaxgen.autoencoders.finite_scalar import FiniteScalar
from jaxgen.autoencoders.frozen import RandomAutoencoder
from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.data.synthetic import Synthetic
from jaxgen.experiment import Experiment
from jaxgen.models import interface
from jaxgen.models.causal import CausalTransformer
from jaxgen.models.dit import DiT
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.objectives.next_token import NextToken
from jaxgen.parallel import mesh as meshes
from jaxgen.samplers.autoregressive import Autoregressive
from jaxgen.samplers.sampler import Sampler, from_uint8
from jaxgen.training import step as steps
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training

GRID = FiniteScalar((3, 2))
AUTOENCODER = ConvolutionalAutoencoder(1, 2, width=8, multipliers=(1,), blocks=1, quantizer=GRID)


def experiment(**options):
    values = {
        "model": CausalTransformer(width=16, depth=1, head_dim=8, codes=6, vocabulary=259, scaling=mup.Scaling(base_width=8)),
        "autoencoder": RandomAutoencoder(module=AUTOENCODER),
        "objective": NextToken(),
        "data": Data(source=Synthetic(), batch_size=8, text_length=40),
        "optimizer": AdamW(learning_rate=1e-2, warmup_steps=0),
        "training": Training(steps=30, ema=()),
        "sampler": Autoregressive(),
        "mesh": meshes.MeshShape(data=1),
    }
    return Experiment(**values | options)


PLANNING = {"model": experiment().model.clone(plan=11), "data": Data(source=Synthetic(plans=True), batch_size=8, text_length=40)}


@functools.cache
def given(plans=False):
    """Modules and parameters, as the step has them, and a batch."""
    tree = experiment(**PLANNING) if plans else experiment()
    tree.validate()
    built = steps.build(tree, meshes.build(tree.mesh, jax.devices()[:1]))
    state, frozen = built.initial(np.uint32(0)), built.load_frozen(np.uint32(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), state.params["model"])
    rows = tree.data.open("train", 0, True).rows(range(8))
    batch = {name: jnp.asarray(rows[name]) for name in built.batch}
    return types.Views({"model": params}, {}, frozen, modules=steps.modules(tree)), batch


def prepare(objective, views, batch):
    return jax.jit(lambda batch: objective.prepare(views, batch, jax.random.key(0)))(batch)


def loss_of(objective, views):
    """Of a prepared batch."""
    last = (jax.random.key(0), jnp.int32(0), ())
    return jax.jit(lambda batch: objective.loss("model", views.params["model"], views, batch, *last))


def test_the_codes_are_those_of_the_encoded_picture():
    views, batch = given()
    prepared = prepare(NextToken(), views, batch)
    encode = jax.jit(lambda params, image: AUTOENCODER.apply({"params": params}, from_uint8(image), method="encode"))
    latents = encode(views.frozen["autoencoder"], batch["image"])
    np.testing.assert_allclose(GRID.latents(prepared["codes"]), latents, atol=1e-5)
    assert prepared["codes"].shape == (8, 4, 4) and len(np.unique(prepared["codes"])) > 1


def test_the_loss_is_the_log_likelihood_of_a_picture_over_its_codes():
    views, batch = given()
    objective = NextToken(condition_dropout=0.5)
    prepared = prepare(objective, views, batch)
    dropped = np.asarray(prepared["dropped"])
    assert 0 < dropped.sum() < 8
    weight = jnp.asarray([1, 0, 0, 2, 0, 0, 1, 0], jnp.float32)
    found, metrics, _ = loss_of(objective, views)(prepared | {"weight": weight})
    read = jax.jit(lambda params, codes, streams: views.modules["model"].apply({"params": params}, codes, streams, jnp.float32))
    expected, right = [], []
    for i in range(8):
        streams = interface.conditions({n: batch[n][i : i + 1] for n in ("text", "text_mask")}, ("text",))
        streams = interface.null(streams) if dropped[i] else streams
        codes = prepared["codes"][i : i + 1]
        logits = read(views.params["model"], codes, streams)[0][0]
        shares = np.exp(np.float64(logits))
        shares /= shares.sum(axis=1, keepdims=True)
        expected.append(-np.log(shares[np.arange(16), codes.ravel()]).mean())
        right.append(np.mean(shares.argmax(axis=1) == codes.ravel()))
    np.testing.assert_allclose(found, np.average(expected, weights=weight), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"].value(), np.average(right, weights=weight), rtol=1e-5)


def test_plans_count_as_much_as_codes_id_for_id_unless_dropped():
    views, batch = given(plans=True)
    objective = NextToken(condition_dropout=0.5)
    prepared = prepare(objective, views, batch)
    dropped = prepared["dropped"]
    assert 0 < dropped.sum() < 8
    loss = lambda weight, batch=prepared, compiled=loss_of(objective, views): compiled(batch | {"weight": jnp.asarray(weight)})
    streams = interface.conditions(prepared, ("text", "plan"))
    streams = {name: stream.dropped(dropped) for name, stream in streams.items()}
    read = jax.jit(lambda *arguments: views.modules["model"].apply({"params": views.params["model"]}, *arguments, jnp.float32))
    codes, plans = read(prepared["codes"], streams)
    nats = lambda logits, ids: np.float64(-jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], -1)[..., 0])
    said, drawn = nats(plans, batch["plan"]), nats(codes, prepared["codes"].reshape(8, 16))
    for i in range(8):
        found, metrics, _ = loss(np.eye(8, dtype=np.float32)[i])
        total = drawn[i].sum() + (0 if dropped[i] else said[i].sum())
        assert found == pytest.approx(total / 16, rel=1e-4), i
        assert dropped[i] or metrics["plan_loss"].value() == pytest.approx(said[i].mean(), rel=1e-4)
    others = loss(dropped.astype(np.float32), prepared | {"plan": (batch["plan"] + 1) % 11})
    assert others[0] == loss(dropped.astype(np.float32))[0] and others[1]["plan_loss"].weight == 0


def test_it_begins_at_the_entropy_of_equal_shares_and_learns():
    tree = experiment()
    mesh = meshes.build(tree.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
        step = steps.build(tree, mesh)
        frozen = step.load_frozen(np.uint32(0))
        state, losses = step.initial(np.uint32(0)), []
        examples = tree.data.open("train", 0, True)
        for i in range(30):
            rows = {name: jnp.asarray(value) for name, value in examples.rows(range(8 * i, 8 * i + 8)).items()}
            state, report = step(state, frozen, {name: rows[name] for name in step.batch})
            losses.append(float(report.metrics["loss"].value()))
    assert losses[0] == pytest.approx(np.log(6), rel=1e-5)
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


CONTINUOUS = RandomAutoencoder(module=dataclasses.replace(AUTOENCODER, quantizer=None))
MODEL = experiment().model


@pytest.mark.parametrize(
    "options, option",
    [
        ({"autoencoder": CONTINUOUS}, "autoencoder"),
        ({"autoencoder": Identity()}, "autoencoder"),
        ({"model": MODEL.clone(codes=7)}, "model.codes"),
        ({"model": MODEL.clone(vocabulary=100)}, "model.vocabulary"),
        ({"model": MODEL.clone(plan=11)}, "data.source"),
        ({**PLANNING, "model": MODEL.clone(plan=10)}, "model.plan"),
        ({"sampler": Autoregressive(plan_temperature=-1.0)}, "sampler.plan_temperature"),
        ({"objective": NextToken(condition_dropout=1.0)}, "objective.condition_dropout"),
        ({"autoencoder": RandomAutoencoder(module=AUTOENCODER.clone(latent_channels=3))}, "autoencoder.module.latent_channels"),
        ({"autoencoder": RandomAutoencoder(module=AUTOENCODER.clone(multipliers=(1,) * 4))}, "data.resolution"),
        ({"sampler": Sampler()}, "sampler"),
        ({"sampler": Autoregressive(temperature=-1.0)}, "sampler.temperature"),
        ({"sampler": Autoregressive(guidance=-1.0)}, "sampler.guidance"),
        ({"sampler": Autoregressive(ema=1.0)}, "sampler.ema"),
        ({"model": DiT(channels=2, classes=10), "autoencoder": CONTINUOUS, "objective": FlowMatching()}, "sampler"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(options, option):
    with pytest.raises(types.BadInput) as error:
        experiment(**options).validate()
    assert error.value.option == option
