"""A sweep trains each run once, goes on where it stopped, and follows the loss to where it is lowest."""

import math
import pathlib

import jax
import numpy as np
import pytest
import upath

from jaxgen import experiment as experiments
from jaxgen.data import loader
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sharding
from jaxgen.training import coordinate_check, rate_sweep

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")
SMALL = (
    "model=jaxgen.models.dit:DiT",
    "model.depth=1",
    "model.width=16",
    "data.batch_size=8",
    "training.steps=3",
    "optimizer.clip_norm=none",
)


def load(*overrides):
    return experiments.load(TINY, [*SMALL, *overrides])[0]


class Place:
    """A sweep of the tiny experiment that keeps its runs in a folder, and the times that it trained."""

    def __init__(self, folder, monkeypatch):
        self.experiment = load()
        self.mesh = meshes.build(self.experiment.mesh, jax.devices()[:1])
        self.folder, self.trained = folder, 0
        data = self.experiment.data
        self.examples = data.open("train", 0, shuffle=True)
        real = coordinate_check.final_loss

        def counted(*arguments):
            self.trained += 1
            return real(*arguments)

        monkeypatch.setattr(coordinate_check, "final_loss", counted)

    def open(self):
        data = self.experiment.data
        return loader.batches(self.examples, data.features(), 8, sharding.batch_sharding(self.mesh), 0, 1)

    def sweep(self):
        cells = rate_sweep.Cells(upath.UPath(self.folder) / "runs.json")
        return rate_sweep.Sweep(self.experiment, self.mesh, self.open, cells)


@pytest.fixture
def place(tmp_path, monkeypatch):
    place = Place(tmp_path, monkeypatch)
    with jax.set_mesh(place.mesh):
        yield place


def test_a_run_is_that_of_the_ordinary_step_at_its_rate(place):
    found = place.sweep().losses([0.002, 0.05], [0, 1])
    assert found.shape == (2, 2) and len(np.unique(found)) == 4
    tree = load("optimizer.learning_rate=0.05")
    np.testing.assert_array_equal(coordinate_check.losses(tree, place.mesh, place.open, [0, 1], lambda: None), found[1])


def test_finished_runs_are_kept_and_the_rest_is_trained(place):
    rates = [0.002, 1e30]
    before = place.sweep().losses(rates, [0])
    # What was not finite is kept as such.
    assert place.trained == 2 and before[1, 0] == math.inf
    again = place.sweep()
    np.testing.assert_array_equal(again.losses(rates, [0]), before)
    # Nor does it need a compile.
    assert place.trained == 2 and again._built is None
    np.testing.assert_array_equal(again.losses([*rates, 0.1], [0])[:2], before)
    assert place.trained == 3


def test_a_run_is_named_by_what_its_loss_depends_on():
    name = rate_sweep.key(load(), 0.01, 0)
    same = ("optimizer.learning_rate=0.5", "mesh.data=8", "training.log_every=7", "sampler.steps=1", "data.prefetch=1")
    assert {rate_sweep.key(load(text), 0.01, 0) for text in same} == {name}
    other = ("model.width=32", "data.batch_size=16", "optimizer.b2=0.98", "training.steps=4", "seed=1")
    names = {rate_sweep.key(load(text), 0.01, 0) for text in other}
    assert len(names | {name, rate_sweep.key(load(), 0.02, 0), rate_sweep.key(load(), 0.01, 1)}) == len(other) + 3


@pytest.mark.parametrize("best, last", [(-3, range(-8, -1)), (-11, range(-12, -5)), (-7, range(-8, -5))])
def test_rates_are_added_until_the_best_lies_inside(best, last):
    sweep = rate_sweep.Sweep.__new__(rate_sweep.Sweep)
    sweep.loss = lambda rate, seed: 1 + (math.log2(rate) - best) ** 2
    found = sweep.around(range(-8, -5), [0], extend=6)
    assert found.exponents.tolist() == list(last)
    assert found.optimum == pytest.approx(best, abs=0.2)


def test_no_more_rates_are_added_than_allowed():
    sweep = rate_sweep.Sweep.__new__(rate_sweep.Sweep)
    sweep.loss = lambda rate, seed: rate
    assert sweep.around(range(-8, -5), [0], extend=2).exponents.tolist() == list(range(-10, -5))
