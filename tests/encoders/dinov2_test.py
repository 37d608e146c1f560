"""The vision transformer: hidden patches stay hidden, registers have no place, positions are resampled as named."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.encoders.dinov2 import VARIANTS, DINOv2
from jaxgen.encoders.self_supervised import MaskedEncoder
from jaxgen.nn import resampling

MODEL = DINOv2(width=16, depth=2, head_dim=8, mlp_ratio=1, grid=4, registers=2, scaling=mup.Scaling(base_width=16))
DRAWS = np.random.default_rng(0)
IMAGES = jnp.asarray(DRAWS.normal(size=(2, 8, 8, 1)), jnp.float32)
HIDDEN = np.arange(16) % 3 == 0


@functools.cache
def params():
    boxed = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), IMAGES)["params"])
    return jax.tree.map(
        lambda box: jnp.asarray(0.3 * DRAWS.normal(size=box.value.shape), jnp.float32), boxed, is_leaf=mup.is_parameter
    )


@functools.cache
def run():
    return jax.jit(lambda params, images, hidden: MODEL.apply({"params": params}, images, hidden))


def test_shapes_of_what_a_picture_becomes():
    found = run()(params(), IMAGES, None)
    assert [part.shape for part in found] == [(2, 16), (2, 2, 16), (2, 16, 16)]
    np.testing.assert_array_equal(jax.jit(lambda p: MODEL.apply({"params": p}, IMAGES, method="features"))(params()), found.patches)


def test_nothing_of_a_hidden_patch_is_seen():
    hidden = jnp.broadcast_to(HIDDEN, (2, 16))
    places = np.repeat(np.repeat(HIDDEN.reshape(4, 4), 2, 0), 2, 1)[None, :, :, None]
    other = jnp.where(places, 7.0, IMAGES)
    for found, expected in zip(run()(params(), other, hidden), run()(params(), IMAGES, hidden), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not np.allclose(run()(params(), IMAGES, hidden).patches, run()(params(), IMAGES, None).patches)


def test_positions_are_the_only_thing_that_tells_places_apart():
    flat = params() | {"positions": {"table": jnp.zeros_like(params()["positions"]["table"])}}
    turned = IMAGES[:, ::-1]  # whole patches and their rows of pixels
    turned = turned.reshape(2, 4, 2, 8, 1)[:, :, ::-1].reshape(2, 8, 8, 1)
    mirror = lambda x: x.reshape(2, 4, 4, 16)[:, ::-1].reshape(2, 16, 16)
    before, after = run()(flat, IMAGES, None), run()(flat, turned, None)
    np.testing.assert_allclose(after.patches, mirror(before.patches), atol=1e-5)
    np.testing.assert_allclose(after.class_token, before.class_token, atol=1e-5)
    assert not np.allclose(run()(params(), turned, None).class_token, run()(params(), IMAGES, None).class_token, atol=1e-3)


@pytest.mark.parametrize("method", ["bicubic", "bicubic_antialiased"])
def test_a_resampled_table_is_that_of_a_network_of_the_other_grid(method):
    wide = MODEL.clone(grid=6, resampling=method)
    table = jnp.asarray(DRAWS.normal(size=(37, 16)), jnp.float32)
    matrix = resampling.weights(6, 4, method)
    small = np.einsum("ih,hwc,jw->ijc", matrix, np.asarray(table)[1:].reshape(6, 6, 16), matrix).reshape(16, 16)
    here = params() | {"positions": {"table": jnp.concatenate([table[:1], small])}}
    there = params() | {"positions": {"table": table}}
    found = jax.jit(lambda p: wide.apply({"params": p}, IMAGES))(there).patches
    np.testing.assert_allclose(found, run()(here, IMAGES, None).patches, atol=1e-4)


@pytest.mark.parametrize("size, count", [("S/14", 22_056_576), ("B/14", 86_580_480), ("L/14", 304_368_640)])
def test_published_sizes_have_as_many_parameters_as_published(size, count):
    model = DINOv2(**VARIANTS[size])
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 3)))["params"])
    assert sum(box.value.size for box in jax.tree.leaves(boxed, is_leaf=mup.is_parameter)) == count


CLASSES = {"patches.kernel": "input", "positions.table": "input", "class_token.table": "input", "mask_token.table": "input"}
CLASSES |= {"registers.table": "input", "blocks.heads.qkv.kernel": "hidden", "blocks.layer_scale_1.gain": "vector"}


def test_parameters_have_their_mup_classes():
    boxed = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), IMAGES)["params"])
    for name, group in CLASSES.items():
        assert functools.reduce(lambda node, key: node[key], name.split("."), boxed).group == group, name
    head = jax.eval_shape(lambda: MaskedEncoder(tower=MODEL).init(jax.random.key(0), IMAGES)["params"])["pixels"]["kernel"]
    assert head.group == "output"


@pytest.mark.parametrize(
    "options, name",
    [({"width": 20}, "width"), ({"registers": -1}, "registers"), ({"resampling": "nearest"}, "resampling"), ({"grid": 0}, "grid")],
)
def test_options_that_are_refused(options, name):
    with pytest.raises(types.BadInput, match=f"^{name}: "):
        MODEL.clone(**options).validate()
