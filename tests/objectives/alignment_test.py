"""Representation alignment as a term of the loss: what it adds, whom it teaches, and that without weight it is not there."""

import dataclasses
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
from jaxgen.encoders.teacher import RandomTeacher
from jaxgen.experiment import Experiment
from jaxgen.models.dit import DiT
from jaxgen.nn.resampling import weights
from jaxgen.objectives import alignment
from jaxgen.objectives.alignment import Alignment
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.parallel import mesh as meshes
from jaxgen.samplers.sampler import Sampler
from jaxgen.training import step as steps
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training

SCALING = mup.Scaling(base_width=16)
TEACHER = RandomTeacher(module=DINOv2(width=16, depth=1, head_dim=8, mlp_ratio=1, scaling=SCALING))
MODEL = DiT(width=16, depth=3, head_dim=8, mlp_ratio=1, scaling=SCALING)
FINE = RandomTeacher(module=DINOv2(width=16, depth=1, head_dim=8, mlp_ratio=1, patch=1, grid=8, scaling=SCALING))


def experiment(term=Alignment(teacher=TEACHER, block=2), microbatches=1, mesh=meshes.MeshShape(data=1)):
    return Experiment(
        model=MODEL,
        autoencoder=Identity(),
        objective=FlowMatching(alignment=term, time_buckets=1),
        data=Data(source=Synthetic(), batch_size=8, resolution=8, text_length=40),
        optimizer=AdamW(learning_rate=1e-2),
        training=Training(steps=4, ema=(0.9,), microbatches=microbatches),
        sampler=Sampler(),
        mesh=mesh,
    )


class Built:
    """A built experiment with its start, every parameter random."""

    def __init__(self, tree, devices=1):
        tree.validate()
        self.tree, self.mesh = tree, meshes.build(tree.mesh, jax.devices()[:devices])
        rows = tree.data.open("train", 0, True).rows(range(8))
        with jax.set_mesh(self.mesh):
            self.step = steps.build(tree, self.mesh)
            state = self.step.initial(np.uint32(0))
            draws = np.random.default_rng(0)
            noisy = lambda leaf: jax.device_put(leaf + 0.1 * draws.normal(size=leaf.shape).astype(np.float32), leaf.sharding)
            self.state = state.replace(params=jax.tree.map(noisy, state.params))
            self.frozen = self.step.load_frozen(np.uint32(0))
            self.batch = {n: jax.device_put(rows[n], layout.sharding) for n, layout in self.step.batch.items()}

    def after(self, count=1):
        with jax.set_mesh(self.mesh):
            state = jax.tree.map(jnp.copy, self.state)
            for _ in range(count):
                state, report = self.step(state, self.frozen, self.batch)
        return jax.device_get(state), {name: float(mean.value()) for name, mean in jax.device_get(report.metrics).items()}


@functools.cache
def built():
    return Built(experiment())


@functools.cache
def prepared():
    one = built()
    views = types.Views(one.state.params, one.state.ema, one.frozen, modules=steps.modules(one.tree))
    batch = jax.jit(lambda views, batch: one.tree.objective.prepare(views, batch, jax.random.key(0)))(views, one.batch)
    return views, batch


@functools.cache
def gradients():
    """Of the alignment alone, by generator, projector and teacher."""
    views, batch = prepared()
    objective = built().tree.objective

    @jax.jit
    def run(params, frozen, batch):
        def cosine(params, frozen):
            seen = views.replace(params=params, frozen=frozen)
            _, metrics, _ = objective.loss("model", params["model"], seen, batch, jax.random.key(0), jnp.int32(0), ())
            return metrics["alignment"].value()

        return jax.grad(cosine, argnums=(0, 1))(params, frozen)

    return run(views.params, views.frozen, batch)


@pytest.mark.slow  # of the tap itself the families' tests say it
def test_blocks_behind_the_tap_and_the_teacher_are_taught_nothing():
    params, frozen = gradients()
    norms = sum(np.abs(np.asarray(leaf)).reshape(3, -1).sum(axis=1) for leaf in jax.tree.leaves(params["model"]["blocks"]))
    assert norms[2] == 0 and (norms[:2] > 0).all()
    for silent in (params["model"]["velocity"], frozen):
        assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(silent))
    assert all(np.abs(np.asarray(leaf)).max() > 0 for leaf in jax.tree.leaves(params["projector"]))


def test_the_loss_is_that_of_denoising_less_the_weighted_cosine():
    _, metrics = built().after()
    assert metrics["loss"] == pytest.approx(metrics["loss_denoising"] - 0.5 * metrics["alignment"], rel=1e-5)
    assert -1 <= metrics["alignment"] <= 1 and metrics["gradient_norm/projector"] > 0


def test_the_projector_learns_and_the_teacher_does_not():
    one = built()
    state, first = one.after()
    later = one.after(20)[1]
    assert later["alignment"] > first["alignment"] + 0.1
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params["projector"], jax.device_get(one.state.params["projector"]))
    assert min(jax.tree.leaves(moved)) > 0
    assert set(state.ema) == {"model", "projector"} and state.ema["projector"] == {}
    assert "params.projector" in state.items() and not any("ema" in n and "projector" in n for n in state.items())


def test_without_weight_there_is_no_trace_of_it():
    plain = FlowMatching(time_buckets=1)
    weightless = dataclasses.replace(plain, alignment=Alignment(teacher=TEACHER, block=2, weight=0.0))
    mesh = meshes.build(meshes.MeshShape(data=1), jax.devices()[:1])
    texts = []
    with jax.set_mesh(mesh):
        for objective in (plain, weightless):
            step = steps.build(dataclasses.replace(experiment(), objective=objective), mesh)
            assert set(step.state.params) == {"model"} and step.frozen == {}
            texts.append(step.update.lower(step.state, step.frozen, step.batch).as_text())
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_parts_of_a_batch_teach_what_the_whole_does():
    # Rows see the same noise either way, so all that may differ is the order of sums.
    whole, parts = built().after()[0], Built(experiment(microbatches=2)).after()[0]
    for a, b in zip(jax.tree.leaves(whole.optimizer), jax.tree.leaves(parts.optimizer), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-7)


def test_the_teacher_is_shared_out_over_the_mesh_as_others_are():
    tree = experiment(mesh=meshes.MeshShape(data=1, fsdp=8))
    mesh = meshes.build(tree.mesh, jax.devices())
    with jax.set_mesh(mesh):
        step = steps.build(tree, mesh)
        kernel = step.frozen["teacher"]["blocks"]["mlp"]["in"]["kernel"]
        assert kernel.sharding.shard_shape(kernel.shape) == (1, 2, 16)
        assert step.load_frozen(np.uint32(0))["teacher"]["blocks"]["mlp"]["in"]["kernel"].sharding == kernel.sharding


def test_what_the_teacher_sees_is_the_clean_picture():
    views, batch = prepared()
    images = built().batch["image"].astype(jnp.float32) / 127.5 - 1
    apply = jax.jit(lambda params, x: TEACHER.module.apply({"params": params}, x, method="features"))
    np.testing.assert_allclose(batch["teacher"], apply(views.frozen["teacher"], images), atol=1e-5)


def test_a_finer_grid_is_resampled_to_that_of_the_tokens():
    term = Alignment(teacher=FINE, block=2, resampling="bilinear")
    experiment(term).validate()
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 1)), jnp.float32)
    params = jax.jit(lambda: FINE.initial(jax.random.key(0)))()
    params = jax.tree.map(lambda box: box.value, params, is_leaf=mup.is_parameter)
    views = types.Views({}, {}, {"teacher": params}, modules={})
    fine = np.asarray(FINE.features(params, images, jnp.float32)).reshape(8, 8, 16)
    matrix = weights(8, 4, "bilinear")
    expected = np.einsum("ih,hwc,jw->ijc", matrix, fine, matrix).reshape(1, 16, 16)
    np.testing.assert_allclose(term.targets(views, images, (4, 4), 8), expected, atol=1e-5)


def test_the_cosine_is_one_for_any_positive_multiple_and_harmless_at_zero():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5)), jnp.float32)
    cosine = lambda a, b: jnp.sum(alignment._unit(a) * alignment._unit(b), axis=-1)
    np.testing.assert_allclose(cosine(3 * x, 0.1 * x), 1, atol=1e-5)
    np.testing.assert_allclose(cosine(x, -x), -1, atol=1e-5)
    assert np.isfinite(jax.grad(lambda a: jnp.sum(cosine(a, x)))(jnp.zeros_like(x))).all()


def test_the_projector_has_the_classes_of_its_axes():
    module = alignment.Projector(32, 64, 5, mup.Scaling(base_width=16).at(32))
    boxed = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 1, 32)))["params"])
    assert {name: layer["kernel"].group for name, layer in boxed.items()} == {"in": "hidden", "hidden": "hidden", "out": "output"}
    assert boxed["out"]["kernel"].value.shape == (64, 5) and boxed["in"]["kernel"].learning_rate == 1 / 2
