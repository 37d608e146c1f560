"""Rounding to slices that exist: what is owed never grows past half a step, and the price sees what was rented."""

import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import experiment as experiments
from jaxgen import types
from jaxgen.parallel import slices
from jaxgen.swarm import allocation as allocations
from jaxgen.swarm import costs
from jaxgen.swarm.slice_sizes import SliceSizes

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs" / "chip_budget.py")


def test_sizes_are_those_that_can_be_rented():
    assert SliceSizes("v5e").between(3, 70).tolist() == [4, 8, 16, 32, 64]
    assert SliceSizes("v5p", idle=True).between(0, 32).tolist() == [0, 4, 8, 16, 32]
    for size in SliceSizes("v5p").between(1, 512):
        assert slices.parse(SliceSizes("v5p").slice_of(size)).chips == size
    assert SliceSizes("v5e").slice_of(8) == "v5e:2x4" and SliceSizes("v5e").slice_of(0) == ""
    with pytest.raises(types.BadInput, match="slices: found 'no slice of v5e from 5 to 7 chips'"):
        SliceSizes("v5e").between(5, 7)


def test_what_is_owed_stays_within_half_a_step_at_every_round():
    random = np.random.default_rng(0)
    sizes = [SliceSizes("v5e").between(4, 64), SliceSizes("v5e").between(1, 16), SliceSizes("v5p").between(4, 128)]
    half = np.array([np.diff(found).max() / 2 for found in sizes])
    low, high = np.array([found[0] for found in sizes]), np.array([found[-1] for found in sizes])
    wanted = low + (high - low) * random.random((400, 3)) ** 2
    carried, sums = jnp.zeros(3), np.zeros(3)
    for row in wanted:
        taken, carried = SliceSizes().rounded(jnp.asarray(row, jnp.float32), carried, sizes)
        assert all(size in found for size, found in zip(np.asarray(taken).tolist(), sizes, strict=True))
        sums += np.asarray(taken) - row
        assert (np.abs(sums) <= half + 1e-3).all()
    assert np.abs(sums).max() > 0


@pytest.fixture(scope="module")
def played():
    allocation, _ = experiments.load(CONFIG, kind=allocations.Allocation)
    return allocation, allocations.run(allocation)


def test_sites_rent_legal_slices_and_on_the_whole_get_what_they_settled_on(played):
    allocation, found = played
    sizes = allocation.slices.between(4, 64)
    assert np.isin(found.theta, sizes).all()
    owed = np.cumsum(found.theta - found.wanted, axis=0)
    assert np.abs(owed).max() <= np.diff(sizes).max()
    honest = allocation.honest
    assert found.theta[:, honest].mean() == pytest.approx(found.demand.mean(), rel=0.05)


def test_the_price_sees_what_was_rented(played):
    allocation, found = played
    said = found.price[:-1] + allocation.dual_step * (
        (found.theta - found.demand[:, None]) / allocation.agents - allocation.leak * found.price[:-1]
    )
    honest = allocation.honest
    merged = found.price[1:, honest].mean(1) - found.error
    np.testing.assert_allclose(said[:, honest].mean(1), merged, rtol=1e-4, atol=1e-3)
    assert np.abs(found.theta - found.wanted).max() > 1


def test_without_slices_nothing_is_rounded():
    allocation, _ = experiments.load(f"{CONFIG}:tiny", kind=allocations.Allocation)
    found = allocations.run(dataclasses.replace(allocation, slices=None))
    np.testing.assert_array_equal(found.theta, found.wanted)
    assert (found.theta >= costs.box(allocation.costs)[0]).all()
