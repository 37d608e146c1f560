"""The convolutional autoencoder and what trains it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.autoencoders.convolutional import ConvolutionalAutoencoder
from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.data.synthetic import Synthetic
from jaxgen.experiment import Experiment
from jaxgen.objectives.reconstruction import Reconstruction
from jaxgen.parallel import mesh as meshes
from jaxgen.training import step as steps
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training

MODEL = ConvolutionalAutoencoder(1, 4, width=8, blocks=1, scaling=mup.Scaling(base_width=8))
OBJECTIVE = Reconstruction(noise=0.2)


def experiment(**options):
    values = {
        "model": MODEL,
        "autoencoder": Identity(),
        "objective": OBJECTIVE,
        "data": Data(source=Synthetic(), batch_size=8, text_length=40),
        "optimizer": AdamW(learning_rate=1e-2),
        "training": Training(steps=30, ema=()),
        "sampler": None,
        "mesh": meshes.MeshShape(data=1),
    }
    return Experiment(**values | options)


@functools.cache
def params(zero=False):
    found = jax.jit(lambda: MODEL.init(jax.random.key(0), *MODEL.example())["params"])()
    found = jax.tree.map(lambda box: box.value, found, is_leaf=mup.is_parameter)
    if not zero:
        # The last layer starts at zero.
        kernel = found["decoder"]["pixels"]["kernel"]
        found["decoder"]["pixels"]["kernel"] = jax.random.normal(jax.random.key(1), kernel.shape) / 4
    return found


def views():
    return types.Views({"model": params()}, {}, {}, modules={"model": MODEL})


def apply(method, values):
    return MODEL.apply({"params": params()}, values, method=method)


def prepared(key=0):
    rows = experiment().data.open("train", 0, True).rows(range(8))
    return OBJECTIVE.prepare(views(), {n: jnp.asarray(v) for n, v in rows.items()}, jax.random.key(key))


def test_latents_have_mean_0_and_size_1_in_every_token_whatever_the_picture():
    images = jnp.stack([jax.random.normal(jax.random.key(i), (16, 24, 1)) * 10.0 ** (i - 2) for i in range(4)])
    latents = apply("encode", images)
    assert latents.shape == (4, 4, 6, 4) and MODEL.factor == 4
    np.testing.assert_allclose(latents.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(latents.std(axis=-1), 1, atol=1e-3)
    assert apply("decode", latents).shape == images.shape


@pytest.mark.parametrize("multipliers, factor", [((1,), 2), ((1, 2, 2), 8)])
def test_each_level_halves_the_sides(multipliers, factor):
    module = MODEL.clone(multipliers=multipliers)
    images = jnp.zeros((2, 16, 32, 1))
    latents = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), images, method="encode")[0])
    assert latents.shape == (2, 16 // factor, 32 // factor, 4) and module.factor == factor
    pictures = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x, method="decode")[0], latents)
    assert pictures.shape == images.shape


def test_a_token_sees_its_neighbourhood_and_the_pixels_of_a_token_lie_where_it_lies():
    images = jax.random.normal(jax.random.key(0), (1, 64, 64, 1))
    moved = jnp.abs(apply("encode", images.at[0, 0, 0].add(1.0)) - apply("encode", images)).max(axis=-1)[0]
    assert moved[0, 0] > 1e-3 and moved[8:, 8:].max() == 0
    latents = apply("encode", images)
    changed = jnp.abs(apply("decode", latents.at[0, 10, 3].add(1.0)) - apply("decode", latents))[0, ..., 0]
    row, column = np.unravel_index(np.argmax(np.asarray(changed)), (64, 64))
    assert abs(row - 42) < 8 and abs(column - 14) < 8 and changed[:12].max() == 0


def test_the_loss_is_the_error_of_what_noisy_latents_decode_to_and_rows_of_weight_zero_do_not_count():
    batch = prepared()
    assert float(jnp.std(batch["noise"])) == pytest.approx(0.2, rel=0.1)
    assert not np.array_equal(batch["noise"], prepared(1)["noise"])
    loss = lambda batch: OBJECTIVE.loss("model", params(), views(), batch, jax.random.key(0), jnp.int32(0), ())[0]
    found = apply("decode", apply("encode", batch["images"]) + batch["noise"])
    errors = jnp.mean((found - batch["images"]) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(loss(batch), errors.mean(), rtol=1e-5)
    weight = jnp.asarray([1, 0, 0, 2, 0, 0, 0, 0], jnp.float32)
    np.testing.assert_allclose(loss(batch | {"weight": weight}), (errors[0] + 2 * errors[3]) / 3, rtol=1e-5)


def test_it_learns():
    tree = experiment()
    tree.validate()
    mesh = meshes.build(tree.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
        step = steps.build(tree, mesh)
        state, losses = step.initial(np.uint32(0)), []
        examples = tree.data.open("train", 0, True)
        for i in range(30):
            rows = {name: jnp.asarray(value) for name, value in examples.rows(range(8 * i, 8 * i + 8)).items()}
            state, report = step(state, {}, {name: rows[name] for name in step.batch})
            losses.append(float(report.metrics["loss"].value()))
    assert np.mean(losses[-5:]) < 0.7 * losses[0]


@pytest.mark.parametrize(
    "options, option",
    [
        ({"model": MODEL.clone(channels=3)}, "model.channels"),
        ({"model": MODEL.clone(multipliers=(1, 2, 2, 2, 2))}, "data.resolution"),
        ({"model": MODEL.clone(latent_channels=1)}, "model.latent_channels"),
        ({"model": MODEL.clone(multipliers=())}, "model.multipliers"),
        ({"model": MODEL.clone(width=0)}, "model.width"),
        ({"objective": Reconstruction(noise=-1.0)}, "objective.noise"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(options, option):
    with pytest.raises(types.BadInput) as error:
        experiment(**options).validate()
    assert error.value.option == option
