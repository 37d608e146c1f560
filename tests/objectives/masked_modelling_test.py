"""An encoder that fills in hidden patches: which ones count, and that it learns from pictures alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.data.synthetic import Synthetic
from jaxgen.encoders.dinov2 import DINOv2
from jaxgen.encoders.self_supervised import MaskedEncoder
from jaxgen.experiment import Experiment
from jaxgen.objectives.masked_modelling import MaskedModelling
from jaxgen.parallel import mesh as meshes
from jaxgen.training import step as steps
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training

MODEL = MaskedEncoder(tower=DINOv2(width=16, depth=1, head_dim=8, mlp_ratio=1, scaling=mup.Scaling(base_width=16)))
OBJECTIVE = MaskedModelling(hidden_share=0.6)


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
def views():
    params = jax.jit(lambda: MODEL.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"])()
    params = jax.tree.map(lambda box: box.value, params, is_leaf=mup.is_parameter)
    return types.Views({"model": params}, {}, {}, modules={"model": MODEL})


@functools.cache
def run():
    loss = lambda params, batch: OBJECTIVE.loss("model", params, views(), batch, jax.random.key(0), jnp.int32(0), ())[0]
    return jax.jit(jax.value_and_grad(lambda images, params, batch: loss(params, batch | {"images": images})))


def prepared(key=0):
    rows = experiment().data.open("train", 0, True).rows(range(8))
    return OBJECTIVE.prepare(views(), {n: jnp.asarray(v) for n, v in rows.items()}, jax.random.key(key))


def test_as_many_patches_are_hidden_in_every_picture_and_others_at_every_step():
    batch = prepared()
    assert set(batch) == {"weight", "images", "hidden"}, "labels and captions are not read"
    np.testing.assert_array_equal(batch["hidden"].sum(axis=1), round(0.6 * 16))
    assert not np.array_equal(batch["hidden"], prepared(1)["hidden"])
    assert len({tuple(row) for row in np.asarray(batch["hidden"]).tolist()}) > 1


def test_hidden_patches_alone_count():
    batch = prepared()
    params = views().params["model"]
    # With a map to pixels of zero the gradient by the picture is that of the targets alone.
    flat = params | {"pixels": jax.tree.map(jnp.zeros_like, params["pixels"])}
    loss, gradient = run()(batch["images"], flat, batch)
    seen = np.abs(np.asarray(gradient)).reshape(8, 4, 2, 4, 2).sum(axis=(2, 4)).reshape(8, 16) > 0
    np.testing.assert_array_equal(seen, batch["hidden"] & seen)
    hidden = np.repeat(np.repeat(np.asarray(batch["hidden"]).reshape(8, 4, 4), 2, 1), 2, 2)
    assert loss == pytest.approx(float(np.mean(np.asarray(batch["images"])[hidden, 0] ** 2)), rel=1e-5)


def test_rows_without_weight_do_not_count():
    batch = prepared()
    other = batch | {"weight": batch["weight"].at[3].set(0)}
    params, images = views().params["model"], batch["images"]
    spoilt = images.at[3].set(5.0)
    assert run()(images, params, other)[0] == pytest.approx(float(run()(spoilt, params, other)[0]), rel=1e-6)
    assert float(run()(spoilt, params, batch)[0]) > 1.5 * float(run()(images, params, batch)[0])


def test_it_learns_by_the_ordinary_step():
    tree = experiment()
    tree.validate()
    mesh = meshes.build(tree.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
        step = steps.build(tree, mesh)
        state, losses = step.initial(np.uint32(0)), []
        rows = tree.data.open("train", 0, True).rows(range(8))
        batch = {name: jax.device_put(rows[name], field.sharding) for name, field in step.batch.items()}
        for _ in range(30):
            state, report = step(state, {}, batch)
            losses.append(float(report.metrics["loss"].value()))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.parametrize(
    "options, said",
    [
        ({"objective": MaskedModelling(hidden_share=1.0)}, "objective.hidden_share: found 1.0"),
        ({"objective": MaskedModelling(hidden_share=0.01)}, "objective.hidden_share: found 0.01, needed a share that hides"),
        ({"model": MaskedEncoder(tower=DINOv2(channels=3))}, "model.tower.channels: found 3, needed 1"),
        ({"model": MaskedEncoder(tower=DINOv2(patch=3))}, "data.resolution: found 8, needed a multiple of model.tower.patch=3"),
        ({"model": MaskedEncoder(tower=DINOv2(width=40))}, "model.tower.width: found 40"),
    ],
)
def test_options_that_are_refused(options, said):
    with pytest.raises(types.BadInput, match=said):
        experiment(**options).validate()
