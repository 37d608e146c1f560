import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from jaxgen import mup
from jaxgen.nn.linear import Linear
from jaxgen.nn.stack import REMAT, scanned

SCALE = mup.Scaling(base_width=4).at(4)
DEPTH = 3
DRAWS = np.random.default_rng(0)


class Block(nn.Module):
    """A residual layer whose order matters, with the names that a policy saves."""

    @nn.compact
    def __call__(self, x, c, shift):
        hidden = Linear((("embed", 4),), (("mlp", 8),), SCALE, name="in")(x * c + shift)
        hidden = nn.silu(checkpoint_name(hidden, "mlp_hidden"))
        return x + nn.silu(Linear((("mlp", 8),), (("embed_out", 4),), SCALE, name="out")(hidden)), None


def draw(*shape):
    return jnp.asarray(DRAWS.normal(size=shape), jnp.float32)


X, C, SHIFT = draw(2, 5, 4), draw(2, 1, 4), draw(2, 1, 4)
PARAMS = {
    "in": {"kernel": draw(DEPTH, 4, 8), "bias": draw(DEPTH, 8)},
    "out": {"kernel": draw(DEPTH, 8, 4), "bias": draw(DEPTH, 4)},
}


def stacked(params, remat):
    return scanned(Block, DEPTH, remat, broadcast=2)().apply({"params": params}, X, C, SHIFT)[0]


def looped(params):
    x = X
    for i in range(DEPTH):
        x, _ = Block().apply({"params": jax.tree.map(lambda p, i=i: p[i], params)}, x, C, SHIFT)
    return x


def gradient(of):
    return jax.jit(jax.grad(lambda params: jnp.sum(of(params) ** 2)))(PARAMS)


@pytest.fixture(scope="module")
def loop_gradient():
    return gradient(looped)


@pytest.mark.parametrize("remat", REMAT)
def test_a_stack_equals_a_loop_over_its_layers_in_value_and_gradient(remat, loop_gradient):
    np.testing.assert_allclose(jax.jit(stacked, static_argnums=1)(PARAMS, remat), looped(PARAMS), rtol=1e-5, atol=1e-5)
    found = gradient(lambda params: stacked(params, remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, loop_gradient)


class Kept(nn.Module):
    """The layer above over a sum with what is its own of a per-layer input; keeps what it puts out."""

    @nn.compact
    def __call__(self, x, own, c, shift):
        x, _ = Block(name="block")(x + own, c, shift)
        return x, x


@pytest.mark.parametrize("remat", REMAT)
def test_each_layer_gets_its_part_of_what_is_per_layer_and_what_it_keeps_is_stacked(remat):
    own = draw(DEPTH, 2, 5, 4)
    last, kept = scanned(Kept, DEPTH, remat, broadcast=2, per_layer=1)().apply({"params": {"block": PARAMS}}, X, own, C, SHIFT)
    x = X
    for i in range(DEPTH):
        x, _ = Block().apply({"params": jax.tree.map(lambda p, i=i: p[i], PARAMS)}, x + own[i], C, SHIFT)
        np.testing.assert_allclose(kept[i], x, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(last, kept[-1])


def products(remat):
    """Matrix products in the gradient's program: a policy that saves less computes more of them again."""
    jaxpr = jax.make_jaxpr(jax.grad(lambda params: jnp.sum(stacked(params, remat) ** 2)))(PARAMS)
    return str(jaxpr).count("dot_general")


def test_policies_that_save_less_compute_more_again():
    assert products("none") == products("dots") < products("names") < products("full")


def test_every_layer_has_parameters_of_its_own_on_an_axis_of_layers():
    boxed = jax.eval_shape(scanned(Block, DEPTH, "full", broadcast=2)().init, jax.random.key(0), X, C, SHIFT)["params"]
    assert boxed["in"]["kernel"].names == ("layers", "embed", "mlp")
    assert boxed["in"]["kernel"].value.shape == (DEPTH, 4, 8)
