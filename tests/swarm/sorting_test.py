"""The network sorts whatever it is given, for every number of arrays."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.swarm import sorting


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12])
def test_the_network_sorts_every_sequence_of_zeros_and_ones(n):
    # By the 0-1 principle (Knuth, volume 3, 5.3.4) it then sorts everything.
    rows = np.array(list(itertools.product([0, 1], repeat=n))).T
    for low, high in sorting.network(n):
        rows[low], rows[high] = np.minimum(rows[low], rows[high]), np.maximum(rows[low], rows[high])
    assert (np.diff(rows, axis=0) >= 0).all()


def test_it_has_fewer_comparators_than_pairs():
    assert len(sorting.network(16)) == 63
    assert len(sorting.network(20)) < 20 * 19 / 2 * 0.6


def test_many_arrays_are_sorted_by_the_library():
    values = np.random.default_rng(0).normal(size=(90, 5)).astype(np.float32)
    np.testing.assert_array_equal(np.stack(sorting.sort(list(values))), np.sort(values, axis=0))


def test_arrays_are_sorted_and_their_median_is_that_of_numpy():
    values = np.random.default_rng(0).normal(size=(7, 33)).astype(np.float32)
    values[2, 4] = np.inf
    for count in (6, 7):
        rows = jax.jit(sorting.sort)(list(jnp.asarray(values[:count])))
        np.testing.assert_array_equal(np.stack(rows), np.sort(values[:count], axis=0))
        np.testing.assert_allclose(sorting.median(rows), np.median(values[:count], axis=0), rtol=1e-6)
