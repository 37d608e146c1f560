import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import mup
from jaxgen.nn.modulation import Gates
from jaxgen.nn.velocity_head import VelocityHead

DRAWS = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(DRAWS.normal(size=shape), jnp.float32)


X, C = draw(2, 3, 8), draw(2, 1, 8)


def head(base_width, output_multiplier=1.0):
    return VelocityHead(8, 4, Gates.RANDOM, mup.Scaling(base_width=base_width, output_multiplier=output_multiplier).at(8))


def test_the_head_starts_at_exactly_zero_whatever_its_gates():
    out, _ = head(4).init_with_output(jax.random.key(0), X, C)
    assert out.shape == (2, 3, 4)
    np.testing.assert_array_equal(out, 0)


def test_the_output_multiplier_is_applied_once():
    params = {
        "modulation": {"linear": {"kernel": draw(8, 2, 8), "bias": draw(2, 8)}},
        "out": {"kernel": draw(8, 4), "bias": jnp.zeros(4)},
    }
    base = np.asarray(head(8).apply({"params": params}, X, C))
    np.testing.assert_allclose(head(2).apply({"params": params}, X, C), base / 4, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(head(2, 3.0).apply({"params": params}, X, C), base * 3 / 4, rtol=1e-5, atol=1e-6)


def test_a_head_may_be_given_a_condition_whose_silu_is_taken():
    params = {
        "modulation": {"linear": {"kernel": draw(8, 2, 8), "bias": draw(2, 8)}},
        "out": {"kernel": draw(8, 4), "bias": draw(4)},
    }
    bare = dataclasses.replace(head(8), silu=False)
    found = bare.apply({"params": params}, X, jax.nn.silu(C))
    np.testing.assert_allclose(found, head(8).apply({"params": params}, X, C), rtol=1e-5, atol=1e-6)
