"""Pictures drawn code by code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.autoencoders.convolutional import ConvolutionalAutoencoder
from jaxgen.autoencoders.finite_scalar import FiniteScalar
from jaxgen.autoencoders.frozen import RandomAutoencoder
from jaxgen.data.pipeline import Data
from jaxgen.data.synthetic import Synthetic
from jaxgen.experiment import Experiment
from jaxgen.models import interface
from jaxgen.models.causal import CausalTransformer
from jaxgen.objectives.next_token import NextToken
from jaxgen.parallel import keys
from jaxgen.parallel import mesh as meshes
from jaxgen.samplers.autoregressive import Autoregressive
from jaxgen.samplers.generator import Generator
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training

GRID = FiniteScalar((3, 2))
MODEL = CausalTransformer(width=16, depth=2, head_dim=8, codes=6, vocabulary=259, scaling=mup.Scaling(base_width=8))
COUNT = 16


PLANNING = MODEL.clone(plan=11)


def experiment(model=MODEL, **options):
    return Experiment(
        model=model,
        autoencoder=RandomAutoencoder(module=ConvolutionalAutoencoder(1, 2, width=8, multipliers=(1,), blocks=1, quantizer=GRID)),
        objective=NextToken(),
        data=Data(source=Synthetic(plans=bool(model.plan)), batch_size=8, text_length=40),
        optimizer=AdamW(learning_rate=1e-2),
        training=Training(steps=1, ema=()),
        sampler=Autoregressive(**{"images_per_device": 8} | options),
        mesh=meshes.MeshShape(),
    )


@functools.cache
def params(model=MODEL):
    streams = conditions(1) | {"plan": types.Condition(jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), jnp.int32))}
    boxed = jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 4, 4), jnp.int32), streams, jnp.float32)["params"])()
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda box: box.value, boxed, is_leaf=mup.is_parameter))
    split = jax.random.split(jax.random.key(2), len(leaves))
    found = tree.unflatten([leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, split, strict=True)])
    for name in found.keys() & {"logits", "plan_logits"}:
        found[name]["bias"] *= 0
    return found


def rows(count=COUNT):
    found = experiment().data.open("test", 0, False).rows(range(count))
    return {name: found[name] for name in ("text", "text_mask")}


def conditions(count=COUNT):
    return interface.conditions({name: jnp.asarray(value) for name, value in rows(count).items()}, ("text",))


@functools.cache
def drawing(model, **options):
    tree = experiment(model, **options)
    return jax.jit(lambda params, *arguments: GRID.codes(tree.sampler.latents(tree, params, *arguments)))


def codes(streams=None, indices=None, seed=0, model=MODEL, **options):
    indices = jnp.arange(COUNT) if indices is None else indices
    streams = conditions() if streams is None else streams
    return np.asarray(drawing(model, **options)(params(model), streams, indices, keys.root(seed)))


@jax.jit
def logits(params, codes, streams):
    return MODEL.apply({"params": params}, codes, streams, jnp.float32)[0]


@pytest.mark.parametrize("scale", [1.0, 0.0, 2.5])
def test_without_temperature_each_code_is_the_likeliest_behind_those_before_it(scale):
    found = codes(temperature=0.0, guidance=scale)
    with_text, without = (logits(params(), found, streams) for streams in (conditions(), interface.null(conditions())))
    guided = np.asarray(without + scale * (with_text - without))
    np.testing.assert_array_equal(guided.argmax(axis=-1), found.reshape(COUNT, -1))
    assert (len(np.unique(found, axis=0)) == 1) == (scale == 0.0), "text counts, unless guidance takes it out"


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_plan_is_drawn_first_and_the_codes_behind_it(scale):
    @jax.jit
    def read(codes, plan, there):
        streams = jax.tree.map(lambda x: x * there, {"text": conditions()["text"], "plan": types.Condition(plan, 0 * plan + 1)})
        return PLANNING.apply({"params": params(PLANNING)}, codes, streams, jnp.float32)

    found = codes(model=PLANNING, temperature=0.0, plan_temperature=0.0, guidance=scale)
    plan = jnp.zeros((COUNT, 2), jnp.int32)
    for place in range(2):
        plan = plan.at[:, place].set(read(found, plan, 1)[1][:, place].argmax(axis=-1))
    with_text, without = (read(found, plan, there)[0] for there in (1, 0))
    np.testing.assert_array_equal((without + scale * (with_text - without)).argmax(axis=-1), found.reshape(COUNT, -1))
    drawn = [codes(model=PLANNING, temperature=0.0, plan_temperature=1.0, seed=seed) for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2]), "only plans are left to chance"


def test_a_code_is_drawn_as_often_as_the_network_says():
    count = 4000
    one = jax.tree.map(lambda x: jnp.repeat(x[:1], count, axis=0), conditions())
    for temperature in (1.0, 0.5):
        found = codes(one, jnp.arange(count), temperature=temperature).reshape(count, -1)
        expected = jax.nn.softmax(logits(params(), found.reshape(count, 4, 4), one) / temperature)
        for place in (0, 5, 15):
            shares = np.bincount(found[:, place], minlength=6) / count
            # What was drawn before differs from row to row, so the mean of what was expected is.
            np.testing.assert_allclose(shares, np.asarray(expected)[:, place].mean(axis=0), atol=4 * np.sqrt(0.25 / count))


def test_a_picture_depends_on_its_number_its_text_and_the_seed_alone():
    expected = codes()
    order = np.random.default_rng(0).permutation(COUNT)[:5]
    picked = jax.tree.map(lambda x: x[order], conditions())
    np.testing.assert_array_equal(codes(picked, jnp.asarray(order)), expected[order])
    assert not np.array_equal(codes(seed=1), expected)
    assert not np.array_equal(codes(jax.tree.map(lambda x: x[::-1], conditions())), expected)
    alike = jax.tree.map(lambda x: jnp.repeat(x[:1], COUNT, axis=0), conditions())
    assert len(np.unique(codes(alike), axis=0)) > COUNT // 2, "the same text, other numbers"


def test_pictures_are_the_same_on_any_number_of_devices():
    drawn = []
    for devices in (1, 2):
        tree = experiment(guidance=2.0)
        mesh = meshes.build(tree.mesh, jax.devices()[:devices])
        boxed = tree.autoencoder.initial(jax.random.key(0))
        decoder = jax.tree.map(lambda box: box.value, boxed, is_leaf=mup.is_parameter)
        # The last layer starts at zero.
        kernel = decoder["decoder"]["pixels"]["kernel"]
        decoder["decoder"]["pixels"]["kernel"] = jax.random.normal(jax.random.key(1), kernel.shape) / 8
        generator = Generator(tree, mesh, 0, decoder)
        parts = list(generator.images(params(), rows(), np.arange(COUNT)))
        assert all(finite.all() for _, finite in parts)
        drawn.append(np.concatenate([images for images, _ in parts]))
    assert drawn[0].shape == (COUNT, 8, 8, 1) and len(np.unique(drawn[0])) > 10
    np.testing.assert_array_equal(*drawn)


def test_the_network_is_called_once_for_each_code_and_each_id_of_a_plan():
    for model, calls in ((MODEL, 16), (PLANNING, 18)):
        assert experiment(model).sampler.nfe(experiment(model)) == calls
