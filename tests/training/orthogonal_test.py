import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib._muon import orthogonalize_via_newton_schulz

from jaxgen.training.orthogonal import COEFFICIENTS, STEPS, orthogonalized


def matrix(shape, condition, seed=0):
    """A random matrix whose singular values fall geometrically from 1 to 1 / condition."""
    left, _, right = np.linalg.svd(np.random.default_rng(seed).standard_normal(shape), full_matrices=False)
    return jnp.asarray((left * np.geomspace(1, 1 / condition, min(shape))) @ right, jnp.float32)


@pytest.mark.parametrize("shape", [(864, 96), (96, 384), (128, 96), (48, 48)])
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
def test_both_ways_of_iterating_agree_with_optax(shape, condition):
    x = matrix(shape, condition)
    theirs = orthogonalize_via_newton_schulz(x, jnp.asarray(COEFFICIENTS), STEPS, "frobenius", 1e-8, None)
    # The Gram matrix squares the condition number; its rounding reaches the result at 1e-7 times the gain of five steps.
    np.testing.assert_allclose(orthogonalized(x), theirs, atol=1e-3 * np.abs(theirs).max())


@pytest.mark.parametrize("shape", [(60, 20), (20, 60), (24, 20)])
def test_singular_vectors_stay_and_values_come_near_to_one(shape):
    x = matrix(shape, 30.0)
    left, _, right = np.linalg.svd(x, full_matrices=False)
    found = left.T @ np.asarray(orthogonalized(x)) @ right.T
    np.testing.assert_allclose(found, np.diag(np.diag(found)), atol=1e-3)
    assert 0.65 < np.diag(found).min() and np.diag(found).max() < 1.25


def test_the_size_of_a_matrix_does_not_matter_unless_it_is_noise():
    x = matrix((40, 10), 10.0)
    same = orthogonalized(jnp.stack([x, 1e-4 * x, 1e4 * x]))
    np.testing.assert_allclose(same[1:], jnp.stack([same[0]] * 2), atol=1e-3)
    assert not orthogonalized(jnp.zeros((40, 10))).any()
    assert jnp.abs(orthogonalized(1e-16 * x)).max() < 1e-4


def test_an_oblong_matrix_is_multiplied_once():
    """What makes it cheap: the long side appears in two products, its Gram matrix and the last, whatever the number of steps."""
    jaxpr = jax.make_jaxpr(orthogonalized)(jnp.zeros((640, 64)))
    products = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "dot_general"]
    assert sum(640 in e.invars[0].aval.shape for e in products) == 2
