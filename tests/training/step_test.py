"""The train step: any number of players, on any mesh, in any number of parts, and never a broken state."""

import dataclasses
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import experiment as experiments
from jaxgen.data import loader
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sharding
from jaxgen.training import step as steps

sys.path.insert(0, str(pathlib.Path(__file__).parent))
GAME = str(pathlib.Path(__file__).parent / "game_config.py")
TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")

# Adam turns the rounding error of a gradient that is nearly zero into a whole step; with a larger ε gradients are compared.
CALM = ("optimizer.epsilon=0.01",)


def load(reference, *overrides):
    return experiments.load(reference, overrides)[0]


@functools.cache
def built(experiment, devices):
    """The mesh and the step, compiled once for all tests."""
    mesh = meshes.build(experiment.mesh, jax.devices()[:devices])
    with jax.set_mesh(mesh):
        return mesh, steps.build(experiment, mesh)


class Running:
    """An experiment on some devices, with its data."""

    def __init__(self, experiment, devices=1):
        self.experiment = experiment
        self.mesh, self.step = built(experiment, devices)
        with jax.set_mesh(self.mesh):
            self.state = self.step.initial(np.uint32(experiment.seed))
            self.frozen = self.step.load_frozen(np.uint32(experiment.seed))
        self.examples = experiment.data.open("train", experiment.seed, shuffle=True)

    def batch(self, number):
        data, layout = self.experiment.data, sharding.batch_sharding(self.mesh)
        with loader.batches(self.examples, data.features(), data.batch_size, layout, number, 1) as batches:
            return next(batches)[1]

    def run(self, count, start=0):
        """Metrics of `count` steps, as floats."""
        rows = []
        with jax.set_mesh(self.mesh):
            for number in range(start, start + count):
                self.state, report = self.step(self.state, self.frozen, self.batch(number))
                with np.errstate(invalid="ignore"):
                    rows.append({name: float(mean.value()) for name, mean in jax.device_get(report.metrics).items()})
        return rows


def relative(a, b):
    """Largest relative L2 difference of any leaf."""
    pairs = zip(jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b)), strict=True)
    return max(float(np.linalg.norm(x - y) / max(np.linalg.norm(x), 1e-12)) for x, y in pairs)


def losses(rows):
    return np.asarray([row["loss"] for row in rows])


WIDE = ("model.width=64", "model.scaling.base_width=64")


@pytest.fixture(scope="module")
def alone():
    """Twenty steps on one device: losses, parameters and averages."""
    one = Running(load(TINY, *WIDE))
    return losses(one.run(20)), jax.device_get((one.state.params, one.state.ema))


@pytest.mark.parametrize(
    "mesh, share",
    [
        pytest.param(("mesh=data",), 1, id="data", marks=pytest.mark.slow),
        pytest.param(("mesh=fsdp",), 0.2, id="fsdp", marks=pytest.mark.slow),
        pytest.param(("mesh=fsdp", "mesh.fsdp=4", "mesh.tensor=2"), 0.2, id="fsdp × tensor"),
        pytest.param(("mesh=hsdp",), 0.3, id="slice × fsdp", marks=pytest.mark.slow),
        pytest.param(("mesh=context",), 0.3, id="context"),
    ],
)
def test_any_mesh_equals_one_device(alone, mesh, share):
    eight = Running(load(TINY, *WIDE, *mesh), devices=8)
    held, whole = sharding.bytes_per_device(eight.step.state.items())
    assert held <= share * whole
    np.testing.assert_allclose(losses(eight.run(20)), alone[0], rtol=1e-6)
    assert relative(alone[1], (eight.state.params, eight.state.ema)) < 1e-5


def test_two_players_on_eight_devices_equal_one():
    one, eight = Running(load(GAME)), Running(load(GAME, "mesh.data=2", "mesh.fsdp=4"), devices=8)
    np.testing.assert_allclose(losses(eight.run(12)), losses(one.run(12)), rtol=1e-6)
    assert relative(one.state.items(), eight.state.items()) < 1e-5


def test_a_player_moves_only_in_its_steps():
    game = Running(load(GAME))
    before = jax.device_get(game.state.params)
    moved = []
    for number in range(7):
        rows = game.run(1, start=number)
        after = jax.device_get(game.state.params)
        changed = {name: relative(before[name], after[name]) > 0 for name in after}
        assert changed["generator"]
        assert np.isnan(rows[0]["critic/loss"]) == (not changed["critic"])
        moved.append(changed["critic"])
        before = after
    assert moved == [True, False, False, False, False, True, False]


def test_a_later_player_sees_the_earlier_ones_new_parameters():
    game = Running(load(GAME))
    with jax.set_mesh(game.mesh):
        batch = game.batch(0)
        prepared = game.step.prepare(game.state, game.frozen, batch)
        critic = jax.device_get(game.state.params["critic"])
        net = game.experiment.model
        game.state, report = game.step(game.state, game.frozen, batch)
        new = jax.device_get(game.state.params["generator"])
        module = game.experiment.objective.players(game.experiment)[1].module
        errors = (module.apply({"params": critic}, prepared["x"]) - net.apply({"params": new}, prepared["x"])) ** 2
    np.testing.assert_allclose(float(jax.device_get(report.metrics["critic/loss"]).value()), float(jnp.mean(errors)), rtol=1e-5)


@pytest.mark.slow
def test_microbatches_change_nothing():
    whole, parts = Running(load(TINY, *CALM)), Running(load(TINY, *CALM, "training.microbatches=4"))
    np.testing.assert_allclose(losses(parts.run(5)), losses(whole.run(5)), rtol=1e-5)
    assert relative(whole.state.params, parts.state.params) < 1e-5


def test_microbatches_are_weighted_by_valid_rows():
    whole, parts = Running(load(TINY, *CALM)), Running(load(TINY, *CALM, "training.microbatches=4"))
    weight = np.ones(16, np.float32)
    weight[[0, 4, 8, 12, 1, 5]] = 0  # one part has no valid row, one has half
    for running in (whole, parts):
        with jax.set_mesh(running.mesh):
            batch = running.batch(0)
            batch["weight"] = jax.device_put(weight, batch["weight"].sharding)
            running.state, _ = running.step(running.state, running.frozen, batch)
            running.state, running.report = running.step(running.state, running.frozen, batch)
    assert bool(whole.report.finite) and bool(parts.report.finite)
    assert relative(whole.state.params, parts.state.params) < 1e-5


def test_rows_of_weight_zero_do_not_count():
    first, second = Running(load(TINY)), Running(load(TINY))
    for running, value in ((first, 0), (second, 255)):
        with jax.set_mesh(running.mesh):
            batch = {name: np.array(array) for name, array in running.batch(0).items()}
            batch["weight"][3], batch["image"][3] = 0, value
            running.state, _ = running.step(running.state, running.frozen, batch)
    assert relative(first.state.params, second.state.params) == 0


def test_a_step_that_is_not_finite_changes_nothing_and_names_the_culprit():
    game = Running(load(GAME))
    game.run(3)
    before = jax.device_get(game.state)
    with jax.set_mesh(game.mesh):
        batch = game.batch(3)
        batch["weight"] = batch["weight"].at[0].set(jnp.nan)
        game.state, report = game.step(game.state, game.frozen, batch)
        assert not bool(report.finite)
        names = game.step.culprits(report)
        assert "generator: loss" in names and "generator: gradient of hidden.kernel" in names
        assert not any(name.startswith("critic") for name in names), "the critic does not play in this step"
        # A good batch after it changes nothing either: what is saved later is the last finite state.
        game.state, report = game.step(game.state, game.frozen, game.batch(4))
        assert not bool(report.finite) and not game.step.culprits(report)
    after = jax.device_get(game.state)
    assert bool(after.halted) and int(after.step) == 3
    jax.tree.map(np.testing.assert_array_equal, before.replace(halted=after.halted), after)


def test_averages_follow_the_parameters_at_their_decay():
    game = Running(load(GAME))
    trail = [jax.device_get(game.state.params["generator"])]
    for number in range(30):
        game.run(1, start=number)
        trail.append(jax.device_get(game.state.params["generator"]))
    trail = jax.tree.map(np.float64, trail)
    for decay in (0.9, 0.99):
        expected = trail[0]
        for done, params in enumerate(trail[1:]):
            keep = min(decay, (1 + done) / (10 + done))
            expected = jax.tree.map(lambda a, p, keep=keep: keep * a + (1 - keep) * p, expected, params)
        assert relative(expected, game.state.ema["generator"][str(decay)]) < 1e-6


def test_an_average_of_what_stands_still_stands_still():
    game = Running(dataclasses.replace(load(GAME), optimizer=dataclasses.replace(load(GAME).optimizer, learning_rate=1e-30)))
    before = jax.device_get(game.state.params["generator"])
    game.run(3)
    assert relative(before, game.state.ema["generator"]["0.99"]) == 0


def test_draws_do_not_depend_on_the_mesh():
    one, eight = Running(load(TINY)), Running(load(TINY, "mesh.data=4", "mesh.tensor=2"), devices=8)
    states = [jax.device_get(running.state.params) for running in (one, eight)]
    assert relative(*states) == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_the_seed_decides_everything(seed):
    first, second, third = Running(load(GAME, f"seed={seed}")), Running(load(GAME, f"seed={seed}")), Running(load(GAME, "seed=3"))
    a, b, c = first.run(2), second.run(2), third.run(2)
    assert losses(a).tolist() == losses(b).tolist() != losses(c).tolist()


def test_the_program_does_not_grow_with_depth():
    sizes = []
    for depth in (6, 24):
        experiment = load(TINY, f"model.depth={depth}")
        mesh = meshes.build(experiment.mesh, jax.devices()[:1])
        with jax.set_mesh(mesh):
            step = steps.build(experiment, mesh)
            sizes.append(len(step.update.lower(step.state, step.frozen, step.batch).as_text()))
    assert sizes[1] < 1.01 * sizes[0]
