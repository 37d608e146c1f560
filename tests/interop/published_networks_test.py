"""Networks under μP in and out of published forms: what is written computes the same where there is no μP."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.interop import dit, pixart, sd3, uvit
from jaxgen.models import interface
from jaxgen.models.dit import DiT
from jaxgen.models.mmdit import MMDiT
from jaxgen.models.pixart import PixArt
from jaxgen.models.uvit import UViT

DRAWS = np.random.default_rng(0)
X, T = jnp.asarray(DRAWS.normal(size=(2, 8, 8, 3)), jnp.float32), jnp.asarray([0.2, 0.9])
LABEL = {"label": types.Condition(jnp.asarray([[3], [0]]), jnp.asarray([[1], [0]]))}
TEXT = {"text": types.Condition(jnp.asarray(DRAWS.normal(size=(2, 5, 6)), jnp.float32), jnp.ones((2, 5), jnp.int32))}
TWO_TEXTS = TEXT | {"pooled": types.Condition(jnp.asarray(DRAWS.normal(size=(2, 1, 7)), jnp.float32), jnp.ones((2, 1), jnp.int32))}
# Four times the base width with heads that grew from 8 to 16, and an output factor: everything that a stock network lacks.
MUP = mup.Scaling(base_width=16, output_multiplier=3.0, base_head_dim=8)
STOCK = mup.Scaling(base_width=64, parametrization=mup.Parametrization.STANDARD)

SD3 = {"width": 64, "depth": 2, "channels": 3, "vocabulary": 0, "text_features": 6, "text_length": 5, "pooled_features": 7}
FAMILIES = {
    "dit": (DiT(width=64, depth=2, channels=3, learn_variance=True), lambda model: dit.dit(model, 4), LABEL),
    "sit": (DiT(width=64, depth=2, channels=3), lambda model: dit.sit(model, 4, learned_sigma=False), LABEL),
    "uvit": (UViT(width=64, depth=2, channels=3, time_network=True), lambda model: (model, uvit.uvit(model)), LABEL),
    "pixart": (PixArt(width=64, depth=2, channels=3, text_features=6, text_length=5), lambda model: pixart.pixart(model, 4), TEXT),
    "sd3": (MMDiT(**SD3, qk_norm=False), lambda model: sd3.sd3(model, 4, 6), TWO_TEXTS),
    "sd3_norm": (MMDiT(**SD3, qk_norm=True), lambda model: sd3.sd3(model, 4, 6), TWO_TEXTS),
}


@functools.cache
def made(name, scaling):
    model, of, streams = FAMILIES[name]
    model, table = of(model.clone(scaling=scaling))
    tokens = interface.image_tokens(X, 2, jnp.float32)
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, T, streams)["params"])
    draw = lambda box: (0.2 * DRAWS.normal(size=box.value.shape)).astype(np.float32)
    return model, table, jax.tree.map(draw, boxed, is_leaf=mup.is_parameter)


def run(model, params, streams):
    return jax.jit(lambda params: interface.velocity(model, params, X, T, streams, jnp.float32))(params)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_under_mup_is_written_as_a_stock_network_of_the_same_output(name):
    model, table, params = made(name, MUP)
    stock, stock_table, _ = made(name, STOCK)
    read = stock_table.read(table.write(params))
    if name == "pixart":
        read = pixart.with_null(read, params["null"]["table"])
    assert jax.tree.structure(read) == jax.tree.structure(params)
    expected, found = run(model, params, FAMILIES[name][2]), run(stock, read, FAMILIES[name][2])
    assert float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)) < 1e-5
    # The weights themselves are not the same: the factors are folded into them.
    unfolded = run(stock, params, FAMILIES[name][2])
    assert float(jnp.linalg.norm(unfolded - expected) / jnp.linalg.norm(expected)) > 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_written_reads_as_it_was(name):
    _, table, params = made(name, MUP)
    read = table.read(table.write(params))
    for path, value in jax.tree_util.tree_leaves_with_path(read):
        whole = functools.reduce(lambda node, key: node[key.key], path, params)
        np.testing.assert_allclose(value, whole, rtol=1e-6, atol=1e-7, err_msg=jax.tree_util.keystr(path))


COUNTS = {
    "dit": (lambda: dit.dit(DiT(**dit_size(), learn_variance=True), 16)[1], 292),
    "sit": (lambda: dit.sit(DiT(**dit_size()), 16)[1], 292),
    "uvit_l": (lambda: uvit.uvit(UViT(width=64, depth=20, channels=4, classes=1000)), 261),
    # 28 tensors a block, 22 in the last, 17 outside of them.
    "sd3_medium": (lambda: sd3.sd3(MMDiT(**SD3 | {"depth": 24}, qk_norm=False), 4, 6)[1], 683),
    "uvit_h": (lambda: uvit.uvit(UViT(width=64, depth=28, channels=4, classes=1000, convolution=False)), 355),
}


def dit_size():
    return {"width": 64, "depth": 28, "channels": 4, "classes": 1000}


@pytest.mark.parametrize("name", COUNTS)
def test_a_table_has_as_many_tensors_as_the_published_checkpoint(name):
    table, count = COUNTS[name]
    assert len(table()) == count
