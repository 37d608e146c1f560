"""Gradients merged over slices: the mean as before where no one lies, a training that goes on where one slice is broken."""

import ast
import dataclasses
import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import experiment as experiments
from jaxgen import types
from jaxgen.data import loader
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sharding
from jaxgen.training import player_updates, slice_gradients
from jaxgen.training import step as steps

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")
QUICK = (
    "model=jaxgen.models.dit:DiT",
    "model.width=16",
    "model.depth=1",
    "model.scaling.base_width=16",
    "objective.time_buckets=1",
    "optimizer.epsilon=0.01",
    "mesh.slice=4",
    "mesh.data=1",
    "mesh.fsdp=2",
)
ROBUST = ("training.merge=robust", "training.merge.rules=arc,nnm,cwtm", "training.merge.f=1")


class Running:
    """A tiny training on eight devices; `spoil` changes a batch before each step."""

    def __init__(self, *overrides, spoil=lambda batch: batch):
        self.experiment = experiments.load(TINY, (*QUICK, *overrides))[0]
        self.mesh = meshes.build(self.experiment.mesh, jax.devices()[:8])
        with jax.set_mesh(self.mesh):
            self.step = steps.build(self.experiment, self.mesh)
            self.state = self.step.initial(np.uint32(0))
        self.spoil = spoil

    def run(self, count):
        """Metrics of each step."""
        data, layout = self.experiment.data, sharding.batch_sharding(self.mesh)
        examples = data.open("train", 0, shuffle=True)
        rows = []
        with jax.set_mesh(self.mesh), loader.batches(examples, data.features(), data.batch_size, layout, 0, 1) as batches:
            for _ in range(count):
                batch = self.spoil(next(batches)[1])
                self.state, report = self.step(self.state, {}, batch)
                rows.append({name: float(mean.value()) for name, mean in jax.device_get(report.metrics).items()})
        return rows


def spoiled(value):
    """Makes the second of four slices weigh its rows with `value`."""

    def change(batch):
        weight = np.asarray(batch["weight"]).copy()
        weight[4:8] = value
        return batch | {"weight": jax.device_put(weight, batch["weight"].sharding)}

    return change


@pytest.fixture(scope="module")
def plain():
    running = Running()
    return running, running.run(3)


@pytest.mark.slow
def test_the_mean_of_slices_is_the_mean_over_the_batch(plain):
    merged = Running("training.merge=robust", "training.merge.rules=mean")
    rows = merged.run(3)
    for found, expected in zip(rows, plain[1], strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)
    for one, other in zip(jax.tree.leaves(merged.state.params), jax.tree.leaves(plain[0].state.params), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)


@pytest.mark.slow
def test_a_slice_that_is_not_finite_stops_a_plain_training_and_not_a_robust_one():
    rows = Running(*ROBUST, spoil=spoiled(np.nan)).run(3)
    assert all(np.isfinite(row["loss"]) and np.isfinite(row["gradient_norm"]) for row in rows)
    assert np.isnan(rows[0]["slice_distance/1"]) and np.isfinite(rows[0]["slice_distance/0"])
    undefended = Running(spoil=spoiled(np.nan))
    undefended.run(1)
    assert bool(undefended.state.halted)


@pytest.mark.slow
def test_more_broken_slices_than_the_rule_stands_stop_the_training():
    def both(batch):
        return spoiled(np.nan)(batch | {"weight": spoiled_first(batch["weight"])})

    def spoiled_first(weight):
        changed = np.asarray(weight).copy()
        changed[:4] = np.nan
        return jax.device_put(changed, weight.sharding)

    running = Running(*ROBUST, spoil=both)
    running.run(1)
    assert bool(running.state.halted)


def test_a_slice_far_away_hardly_moves_the_merged_gradient():
    gradients = {"w": np.random.default_rng(0).normal(1, 0.1, (4, 16, 8)).astype(np.float32)}
    gradients["w"][2] = -1000
    mesh = meshes.build(meshes.MeshShape(slice=4, data=1, fsdp=2), jax.devices()[:8])
    rule = experiments.load(TINY, (*QUICK, *ROBUST))[0].training.merge
    specs = {"w": jax.sharding.PartitionSpec("slice", "fsdp")}
    found = jax.jit(lambda tree: rule.over_mesh(tree, mesh, specs, "slice"))(
        jax.device_put(gradients, {"w": jax.sharding.NamedSharding(mesh, specs["w"])})
    )
    np.testing.assert_allclose(found["w"], np.delete(gradients["w"], 2, axis=0).mean(0), atol=0.2)


class WithoutMerging(ast.NodeTransformer):
    """Takes the choice between a plain gradient and a merged one out of a program, and leaves the plain one."""

    def __init__(self):
        self.taken = 0

    def visit_If(self, node):
        if ast.unparse(node.test) != "merged is None":
            return self.generic_visit(node)
        self.taken += 1
        return node.body


def optimized(monkeypatch, act):
    """Text of the compiled step that updates players by `act`, without where in our files it came from."""
    monkeypatch.setattr(player_updates, "act", act)
    running = Running()
    with jax.set_mesh(running.mesh):
        lowered = running.step.update.lower(running.step.state, running.step.frozen, running.step.batch)
    text = re.sub(r", metadata=\{[^}]*\}", "", lowered.compile().as_text())
    tables = r"^(FileNames|FunctionNames|FileLocations|StackFrames)\n(\d+ .*\n)*"
    return re.sub(tables, "", text, flags=re.MULTILINE)


def test_the_option_is_free_when_it_is_off(monkeypatch):
    """The compiled program is, to the letter, that of a trainer that has no such option."""

    def never(*arguments, **options):
        raise AssertionError("traced though it is off")

    monkeypatch.setattr(slice_gradients, "Merged", never)
    monkeypatch.setattr(slice_gradients, "check", never)
    act = player_updates.act
    without = WithoutMerging()
    tree = ast.fix_missing_locations(without.visit(ast.parse("from __future__ import annotations\n" + inspect.getsource(act))))
    assert without.taken == 1 and "merged(" not in ast.unparse(tree)
    names = dict(vars(player_updates))
    exec(compile(tree, player_updates.__file__, "exec"), names)
    found = optimized(monkeypatch, act)
    assert len(found) > 100_000 and found == optimized(monkeypatch, names["act"])


@pytest.mark.parametrize(
    "overrides, said",
    [
        (("mesh.slice=2", "mesh.data=2"), "mesh.slice: found 2, needed at least 3 slices, for training.merge"),
        (("training.merge.f=2",), "training.merge.f: found 2, needed less than half of the 4 sites"),
        (("training.merge.rules=nnm",), "training.merge.rules: found 'nnm', needed pre-aggregations"),
        (("training.merge.rules=mean",), "training.merge.f: found 1, needed 0: the mean"),
    ],
)
def test_what_cannot_be_merged_is_refused(overrides, said):
    with pytest.raises(types.BadInput) as complaint:
        experiments.load(TINY, (*QUICK, *ROBUST, *overrides))
    assert str(complaint.value).startswith(said)


def test_slices_that_are_counted_only_on_the_devices_are_refused_when_the_step_is_built():
    experiment = experiments.load(TINY, (*QUICK, *ROBUST, "mesh.slice=-1", "mesh.fsdp=4"))[0]
    mesh = meshes.build(experiment.mesh, jax.devices()[:8])
    with jax.set_mesh(mesh), pytest.raises(types.BadInput, match="mesh.slice: found 2, needed at least 3"):
        steps.build(experiment, mesh)


def test_an_objective_with_a_memory_is_refused():
    rule = dataclasses.replace(experiments.load(TINY, (*QUICK, *ROBUST))[0].training.merge)
    mesh = meshes.build(meshes.MeshShape(slice=4, data=1, fsdp=2), jax.devices()[:8])
    with pytest.raises(types.BadInput, match="training.merge: found 'RobustMerge', needed none: the objective has a memory"):
        slice_gradients.check(rule, mesh, {"queue": jnp.zeros(3)})
