"""The best rate under μP holds for other batches and lengths of training, on real digits at the base width (arXiv 2505.15270)."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxgen import mup
from jaxgen.data import loader
from jaxgen.parallel import sharding
from jaxgen.reproduce import claim, small_runs
from jaxgen.training import rate_sweep

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return small_runs.SmallRuns(claim.Workplace(jax.devices()[:1], tmp_path_factory.mktemp("cells")), small_runs.digits)


@pytest.mark.parametrize("batch, count", [(8, 100), (32, 100), (16, 50), (16, 200)])
def test_the_best_rate_holds_for_other_batches_and_lengths(runs, batch, count):
    base = runs.experiment(64, mup.Parametrization.MUP)
    best = functools.partial(_best_exponent, runs)
    other = dataclasses.replace(
        base, data=dataclasses.replace(base.data, batch_size=batch), training=dataclasses.replace(base.training, steps=count)
    )
    found = best(base), best(other)
    print(batch, count, found)
    assert abs(found[0] - found[1]) <= 1


def _best_exponent(runs, tree):
    """Of the grid of powers of two, by the mean loss of three seeds."""

    def opened():
        layout = sharding.batch_sharding(runs.mesh)
        return loader.batches(runs._examples, tree.data.features(), tree.data.batch_size, layout, 0, 1)

    with jax.set_mesh(runs.mesh):
        sweep = rate_sweep.Sweep(tree, runs.mesh, opened, runs.cells)
        exponents = range(-10, -4)
        losses = sweep.losses([2.0**e for e in exponents], range(3))
    return exponents[int(np.argmin(losses.mean(axis=1)))]
