"""The single-stream block: attention and feed-forward beside each other over one sequence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup
from jaxgen.models.single_stream import SingleStreamBlock
from jaxgen.nn.modulation import Gates

SCALE = mup.Scaling(base_width=8).at(16)
DRAWS = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(DRAWS.normal(size=shape), jnp.float32)


X, C, POSITIONS, SEGMENTS = draw(2, 6, 16), draw(2, 1, 16), draw(2, 6, 2), jnp.ones((2, 6), jnp.int32)


def block(gates=Gates.RANDOM):
    return SingleStreamBlock(16, 8, 2, "gelu", gates, SCALE)


@functools.cache
def parameters(gates=Gates.RANDOM):
    return block(gates).init(jax.random.key(0, impl="unsafe_rbg"), X, C, POSITIONS, SEGMENTS)["params"]


def run(x=X, positions=POSITIONS, segments=SEGMENTS, gates=Gates.RANDOM, params=None):
    params = parameters(gates) if params is None else params
    return np.asarray(block(gates).apply({"params": params}, x, C, positions, segments)[0])


def without(name, layer):
    """The parameters with one layer's map zero."""
    params = jax.tree.map(lambda leaf: leaf, parameters())
    params[name][layer] = jax.tree.map(jnp.zeros_like, params[name][layer])
    return params


def moved(changed, plain):
    """Which tokens differ, [B, L]."""
    return np.abs(changed - plain).max(axis=-1) > 1e-4


@pytest.mark.slow
def test_zero_gates_start_as_the_identity_and_random_ones_do_not():
    np.testing.assert_array_equal(run(gates=Gates.ZERO), X)
    assert moved(run(), X).all()


def test_attention_moves_information_between_tokens_and_the_feed_forward_layer_does_not():
    other = X.at[:, 0].add(draw(16))
    first = np.arange(6) == 0
    for params, others_see in ((without("from_heads", "out"), False), (without("mlp", "out"), True)):
        found = moved(run(other, params=params), run(params=params))
        np.testing.assert_array_equal(found, np.broadcast_to(first | others_see, (2, 6)))


def test_attention_and_feed_forward_add_up():
    parts = [run(params=without(*which)) - X for which in (("from_heads", "out"), ("mlp", "out"))]
    np.testing.assert_allclose(run() - X, sum(parts), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("segment", [0, 2], ids=["padding", "another_example"])
def test_tokens_of_another_segment_have_no_influence(segment):
    segments = SEGMENTS.at[:, 4:].set(segment)
    other = X.at[:, 4:].set(50.0 * draw(2, 2, 16))
    np.testing.assert_array_equal(run(other, segments=segments)[:, :4], run(segments=segments)[:, :4])
    assert moved(run(other), run())[:, :4].all()


def test_a_row_has_no_influence_on_another():
    found = moved(run(X.at[0].add(draw(6, 16))), run())
    np.testing.assert_array_equal(found.any(axis=1), [True, False])


def test_differences_of_positions_matter_alone():
    np.testing.assert_allclose(run(positions=POSITIONS + 3.0), run(), rtol=2e-5, atol=2e-5)
    assert moved(run(positions=POSITIONS * 2.0), run()).any()
