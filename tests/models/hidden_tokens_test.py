"""The tap: one way for all families to give away the tokens behind a block, which changes nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.ddt import DDT, ImprovedDiT
from jaxgen.models.dit import DiT
from jaxgen.models.mmdit import MMDiT
from jaxgen.models.pixart import PixArt
from jaxgen.models.uvit import UViT
from jaxgen.nn.modulation import Gates

DRAWS = np.random.default_rng(0)
X, T = jnp.asarray(DRAWS.normal(size=(2, 4, 4, 1)), jnp.float32), jnp.asarray([0.2, 0.9])
ONES = jnp.ones((2, 3), jnp.int32)
STREAMS = {
    "label": {"label": types.Condition(jnp.asarray([[3], [0]]), ONES[:, :1])},
    "ids": {"text": types.Condition(jnp.asarray(DRAWS.integers(0, 9, (2, 3))), ONES)},
    "features": {"text": types.Condition(jnp.asarray(DRAWS.normal(size=(2, 3, 6)), jnp.float32), ONES)},
}
SIZE = {"width": 16, "head_dim": 8, "mlp_ratio": 1, "scaling": mup.Scaling(base_width=16)}
TEXT = {"text_length": 3, "vocabulary": 9, "gates": Gates.RANDOM}
# Model, conditions, the block tapped, and by stack of blocks how many of its layers the tapped tokens have passed.
FAMILIES = {
    "dit": (DiT(depth=3, gates=Gates.RANDOM, **SIZE), "label", 2, {"blocks": 2}),
    "uvit, in front": (UViT(depth=4, grid=(2, 2), **SIZE), "label", 1, {"in_blocks": 1, "mid_block": 0, "out_blocks": 0}),
    "uvit, middle": (UViT(depth=4, grid=(2, 2), **SIZE), "label", 3, {"in_blocks": 2, "mid_block": 1, "out_blocks": 0}),
    "uvit, behind": (UViT(depth=4, grid=(2, 2), **SIZE), "label", 4, {"in_blocks": 2, "mid_block": 1, "out_blocks": 1}),
    "pixart": (PixArt(depth=3, text_features=6, text_length=3, gates=Gates.RANDOM, **SIZE), "features", 2, {"blocks": 2}),
    "mmdit": (MMDiT(depth=3, **TEXT, **SIZE), "ids", 2, {"blocks": 2}),
    "single stream": (MMDiT(depth=1, single_depth=2, **TEXT, **SIZE), "ids", 2, {"blocks": 1, "single_blocks": 1}),
    "improved dit": (ImprovedDiT(depth=3, **SIZE), "label", 2, {"trunk": 2}),
    "encoder": (DDT(depth=4, encoder_depth=2, **SIZE), "label", 1, {"encoder": 1, "decoder": 0}),
    "decoder": (DDT(depth=4, encoder_depth=2, **SIZE), "label", 3, {"encoder": 2, "decoder": 1}),
}
# Two stacks of which one is tapped, and a tap between two; the others are as these.
QUICK = ("decoder", "uvit, middle")
cases = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]


@functools.cache
def made(name):
    """Gradient of sum(hidden · seed) by the parameters, the tokens, and the output with the tap and without."""
    model, kind, block, _ = FAMILIES[name]
    streams = STREAMS[kind]
    tokens = interface.image_tokens(X, 2, jnp.float32)
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, T, streams)["params"])
    draw = lambda box: jnp.asarray(0.3 * DRAWS.normal(size=box.value.shape), jnp.float32)
    params = jax.tree.map(draw, boxed, is_leaf=mup.is_parameter)

    @jax.jit
    def run(params, seed):
        def aligned(params):
            out, hidden = interface.velocity_and_hidden(model, params, X, T, streams, jnp.float32, block)
            return jnp.sum(hidden * seed), (out, hidden)

        gradient, (out, hidden) = jax.grad(aligned, has_aux=True)(params)
        return gradient, hidden, out, interface.velocity(model, params, X, T, streams, jnp.float32)

    return run(params, jnp.asarray(DRAWS.normal(size=(2, 4, model.width)), jnp.float32))


@pytest.mark.parametrize("name", cases)
def test_the_tap_gives_the_image_tokens_and_leaves_the_output_alone(name):
    _, hidden, tapped, plain = made(name)
    assert hidden.shape == (2, 4, 16) and float(jnp.std(hidden)) > 0.1
    np.testing.assert_allclose(tapped, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", cases)
def test_tapped_tokens_depend_on_the_blocks_that_they_have_passed_and_on_no_other(name):
    gradient, passed = made(name)[0], FAMILIES[name][3]
    assert FAMILIES[name][2] <= FAMILIES[name][0].block_count
    for stack, count in passed.items():
        tree = gradient[stack].get("blocks", gradient[stack])
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
        leaves = [leaf[None] if stack == "mid_block" else leaf for leaf in leaves]
        whole = sum(np.abs(leaf).reshape(len(leaf), -1).sum(axis=1) for leaf in leaves)
        assert (whole[:count] > 0).all() and (whole[count:] == 0).all()
    for head in ("velocity", "head", "last_modulation"):
        assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient.get(head, {})))


@pytest.mark.parametrize(
    "model, count", [(DiT(depth=3), 3), (UViT(depth=4), 5), (MMDiT(depth=2, single_depth=3), 5), (DDT(depth=4), 4)]
)
def test_the_number_of_blocks(model, count):
    assert model.block_count == count


def test_a_block_beyond_the_last_gives_nothing():
    model = FAMILIES["dit"][0]
    params = jax.eval_shape(
        lambda: model.init(jax.random.key(0), interface.image_tokens(X, 2, jnp.float32), T, STREAMS["label"])["params"]
    )
    with pytest.raises(KeyError):
        jax.eval_shape(
            lambda params: interface.velocity_and_hidden(model, params, X, T, STREAMS["label"], jnp.float32, 4),
            jax.tree.map(lambda box: box.value, params, is_leaf=mup.is_parameter),
        )
