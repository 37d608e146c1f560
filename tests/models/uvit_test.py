import types as builtin_types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.uvit import VARIANTS, UViT

DRAWS = np.random.default_rng(0)
SMALL = UViT(width=16, depth=4, head_dim=8, channels=2, grid=(4, 4), classes=3, scaling=mup.Scaling(base_width=16))


def inputs(model, rows=None, columns=None):
    rows, columns = rows or model.grid[0], columns or model.grid[1]
    x = jnp.asarray(DRAWS.normal(size=(2, rows * model.patch, columns * model.patch, model.channels)), jnp.float32)
    label = types.Condition(jnp.zeros((2, 1), jnp.int32), jnp.ones((2, 1), jnp.int32))
    return interface.image_tokens(x, model.patch, jnp.float32), jnp.asarray([0.3, 0.8]), {"label": label}


def boxes(model):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs(model))["params"])


def params(model):
    """Every parameter random."""
    draw = lambda box: jnp.asarray(0.3 * DRAWS.normal(size=box.value.shape) + (box.kind == "gain"), jnp.float32)
    return jax.tree.map(draw, boxes(model), is_leaf=mup.is_parameter)


@pytest.mark.parametrize("name, count", [("L", 286_763_172), ("H", 500_832_016)])
def test_the_published_sizes_have_the_published_numbers_of_parameters(name, count):
    model = UViT(**VARIANTS[name], channels=4, grid=(16, 16), classes=1000)
    assert sum(box.size for box in jax.tree.leaves(boxes(model))) == count


def test_the_network_starts_at_zero():
    model = SMALL.clone(time_network=True)
    out = jax.jit(model.init_with_output)(jax.random.key(0), *inputs(model))[0]
    np.testing.assert_array_equal(out, np.zeros((2, 16, 8)))


def test_blocks_of_the_second_half_read_those_of_the_first_from_the_last_to_the_first():
    tokens, t, streams = inputs(SMALL)
    values = params(SMALL)

    @jax.jit
    def kept(values):
        found = SMALL.apply({"params": values}, tokens, t, streams, capture_intermediates=True, mutable=["intermediates"])
        return found[1]["intermediates"]

    found = kept(values)
    skips = found["in_blocks"]["__call__"][0][0]
    for i in range(2):
        before = found["mid_block"]["__call__"][0][0] if i == 0 else found["out_blocks"]["__call__"][0][0][0]
        both = np.concatenate([before, skips[1 - i]], axis=-1)
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], values["out_blocks"]["skip"])
        np.testing.assert_allclose(found["out_blocks"]["skip"]["__call__"][0][i], both @ layer["kernel"] + layer["bias"], atol=2e-5)


def used(rows, columns):
    """Which rows of the table of places get gradient from a picture of this many tokens, but for those of label and time."""
    tokens, t, streams = inputs(SMALL, rows, columns)
    loss = lambda values: jnp.sum(SMALL.apply({"params": values}, tokens, t, streams) ** 2)
    gradient = jax.jit(jax.grad(loss))(params(SMALL))["positions"]["table"]
    assert bool(jnp.all(jnp.any(gradient[:2] != 0, axis=-1)))
    return np.asarray(jnp.any(gradient[2:] != 0, axis=-1)).reshape(4, 4)


def test_a_smaller_picture_takes_the_middle_of_the_table():
    assert used(4, 4).all()
    middle = np.zeros((4, 4), bool)
    middle[1:3, 1:3] = True
    np.testing.assert_array_equal(used(2, 2), middle)


def test_a_place_outside_of_the_table_is_not_taken_for_another():
    tokens, t, streams = inputs(SMALL)
    run = jax.jit(lambda tokens: SMALL.apply({"params": params(SMALL)}, tokens, t, streams))
    outside = tokens.replace(positions=tokens.positions.at[0, 3, 1].add(1.0))
    found = np.isnan(run(outside)).any(axis=(1, 2))
    np.testing.assert_array_equal(found, [True, False])
    assert np.isfinite(run(outside.replace(segments=tokens.segments.at[0, 3].set(0)))).all()


def test_the_convolution_spreads_over_seams_of_patches_and_no_farther():
    model = SMALL.clone(depth=2)
    tokens, t, streams = inputs(model)
    values = params(model)
    # Without attention, feed-forward and skips' mixture a token moves itself alone, up to the convolution.
    for stack in ("in_blocks", "mid_block", "out_blocks"):
        values[stack]["from_heads"] = jax.tree.map(jnp.zeros_like, values[stack]["from_heads"])
    run = jax.jit(lambda tokens: interface.image(model.apply({"params": values}, tokens, t, streams), (2, 8, 8, 2), 2))
    moved = np.abs(run(tokens.replace(values=tokens.values.at[:, 5].add(1.0))) - run(tokens)).max(axis=(0, -1)) > 1e-6
    expected = np.zeros((8, 8), bool)
    expected[1:5, 1:5] = True
    np.testing.assert_array_equal(moved, expected)


def test_packed_tokens_are_refused_where_there_is_a_convolution():
    tokens, t, streams = inputs(SMALL)
    with pytest.raises(ValueError, match="packed"):
        SMALL.apply({"params": params(SMALL)}, tokens.replace(grid=None), t, streams)


@pytest.mark.parametrize(
    "option, value", [("depth", 3), ("grid", (0, 4)), ("grid", (4,)), ("width", 40), ("activation", "relu"), ("width", 0)]
)
def test_impossible_options_are_refused(option, value):
    with pytest.raises(types.BadInput) as error:
        UViT(**{option: value}).validate()
    assert error.value.option == option


def experiment(resolution, factor=1, classes=10):
    data = builtin_types.SimpleNamespace(resolution=resolution, id_counts=lambda: {"label": classes})
    return builtin_types.SimpleNamespace(data=data, autoencoder=builtin_types.SimpleNamespace(factor=factor))


def test_data_must_fit_the_tables():
    model = UViT(grid=(4, 4), patch=2, classes=10)
    for fits in (experiment(8), experiment(4), experiment(64, factor=8)):
        model.check(fits)
    for other, option in ((experiment(12), "grid"), (experiment(6), "grid"), (experiment(8, classes=11), "classes")):
        with pytest.raises(types.BadInput) as error:
            model.check(other)
        assert error.value.option == f"model.{option}"
