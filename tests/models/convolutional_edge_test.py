import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.convolutional_edge import ConvolutionalEdge, ConvolutionalHead, ConvolutionalStem
from jaxgen.models.mmdit import MMDiT
from jaxgen.nn.modulation import Gates

SCALE = mup.Scaling(base_width=8).at(8)
TEXT = {"text": types.Condition(jnp.asarray([[1, 2], [3, 4]]), jnp.ones((2, 2), jnp.int32))}
DRAWS = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(DRAWS.normal(size=shape), jnp.float32)


def model(**options):
    given = {"width": 16, "depth": 1, "head_dim": 8, "patch": 4, "channels": 3, "vocabulary": 9, "text_length": 2}
    given |= {"edge": ConvolutionalEdge(2, 1, 1, 0), "gates": Gates.RANDOM, "scaling": mup.Scaling(base_width=8)}
    return MMDiT(**(given | options))


def parameters(module, tokens):
    """Random values for every parameter: the last layer starts at zero and would hide the rest."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), tokens, jnp.zeros(2), TEXT)["params"]
    leaves, tree = jax.tree.flatten(shapes, is_leaf=mup.is_parameter)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([0.3 * jax.random.normal(key, leaf.value.shape) for key, leaf in zip(keys, leaves, strict=True)])


@pytest.mark.slow
@pytest.mark.parametrize("side, patch, split", [((8, 16), 4, 2), ((12, 6), 3, 3), ((6, 4), 1, 1)])
def test_pictures_of_any_form_come_out_in_theirs_and_every_pixel_depends_on_its_own(side, patch, split):
    module = model(patch=patch, width=24, edge=ConvolutionalEdge(split, 1, 1, 0))
    x = draw(2, *side, 3)
    params = parameters(module, interface.image_tokens(x, patch, jnp.float32))

    def velocity(x):
        return interface.velocity(module, params, x, jnp.full(2, 0.5), TEXT, jnp.float32)

    assert velocity(x).shape == x.shape
    for place in ((0, 0, 0), (side[0] - 1, side[1] - 2, 1), (3, 2, 2)):
        own = jax.grad(lambda x, place=place: velocity(x)[0][place])(x)
        # The shortest way leads through the skip, so no other pixel weighs as much as those of the same fine patch.
        strongest = np.unravel_index(np.abs(np.asarray(own[0])).max(axis=-1).argmax(), side)
        assert np.hypot(strongest[0] - place[0], strongest[1] - place[1]) < 2.5 * patch / split
        assert not own[1].any(), "examples do not mix"


def test_without_blocks_and_transformer_a_fine_patch_is_mapped_by_itself():
    edge = ConvolutionalEdge(2, 0, 0, 0)
    ends = (edge, 8, 4, 3, Gates.RANDOM, SCALE)
    x, c = draw(1, 8, 8, 3), draw(1, 1, 8)
    tokens = interface.image_tokens(x, 4, jnp.float32)
    stem = ConvolutionalStem(*ends).init(jax.random.key(0), tokens, c)
    stem = jax.tree.map(lambda box: box.value, stem, is_leaf=mup.is_parameter)
    inner, skip = ConvolutionalStem(*ends).apply(stem, tokens, c)
    assert inner.shape == (1, 4, 8) and skip.shape == (1, 16, 4)
    head = ConvolutionalHead(*ends).init(jax.random.key(1), inner, skip, c, tokens)
    head = jax.tree.map(lambda box: draw(*box.value.shape), head, is_leaf=mup.is_parameter)

    def out(x):
        tokens = interface.image_tokens(x, 4, jnp.float32)
        _, skip = ConvolutionalStem(*ends).apply(stem, tokens, c)
        return interface.image(ConvolutionalHead(*ends).apply(head, jnp.zeros((1, 4, 8)), skip, c, tokens), x.shape, 4)

    moved = np.abs(out(x.at[0, 5, 2].add(1.0)) - out(x))[0].max(axis=-1) > 1e-7
    expected = np.zeros((8, 8), bool)
    expected[4:6, 2:4] = True
    np.testing.assert_array_equal(moved, expected)


GRID = (2, 3)
ENDS = (8, 4, 3, Gates.RANDOM, SCALE)


def random_parameters(boxed):
    return jax.tree.map(lambda box: draw(*box.value.shape), boxed, is_leaf=mup.is_parameter)


def stem(before, picture, c, inner=0):
    module = ConvolutionalStem(ConvolutionalEdge(2, before, 0, inner), *ENDS)
    tokens = [interface.image_tokens(x, 4, jnp.float32) for x in picture]
    params = random_parameters(module.init(jax.random.key(0), tokens[0], c[0]))
    return [module.apply(params, each, vector) for each, vector in zip(tokens, c, strict=True)]


def moved(pair, grid):
    return np.abs(pair[1] - pair[0])[0].max(axis=-1).reshape(grid) > 1e-5


def test_a_pixel_goes_into_the_token_that_it_lies_in():
    x, c = draw(1, 8, 12, 3), draw(1, 1, 8)
    (one, _), (other, _) = stem(0, [x, x.at[0, 5, 9].add(1.0)], [c, c])
    expected = np.zeros(GRID, bool)
    expected[1, 2] = True
    np.testing.assert_array_equal(moved((one, other), GRID), expected)


def test_a_token_comes_out_in_the_pixels_that_it_covers():
    module = ConvolutionalHead(ConvolutionalEdge(2, 0, 0, 0), *ENDS)
    x, skip, c = draw(1, 6, 8), draw(1, 24, 4), draw(1, 1, 8)
    tokens = interface.image_tokens(jnp.zeros((1, 8, 12, 3)), 4, jnp.float32)
    params = random_parameters(module.init(jax.random.key(0), x, skip, c, tokens))
    pair = [interface.image(module.apply(params, each, skip, c, tokens), (1, 8, 12, 3), 4) for each in (x, x.at[0, 1].add(draw(8)))]
    expected = np.zeros((8, 12), bool)
    expected[:4, 4:8] = True
    np.testing.assert_array_equal(moved(pair, (8, 12)), expected)


def test_the_vector_of_one_token_modulates_its_own_patches():
    x, c = draw(1, 8, 12, 3), draw(1, 6, 8)
    (_, one), (_, other) = stem(1, [x, x], [c, c.at[0, 4].add(draw(8))])
    expected = np.zeros((4, 6), bool)
    # Token 4 has rows 2 and 3, columns 2 and 3 of the finer patches; two convolutions reach two farther.
    expected[0:4, 0:6] = True
    np.testing.assert_array_equal(moved((one, other), (4, 6)), expected)
    # A token at the corner does not reach everything.
    (_, one), (_, other) = stem(1, [x, x], [c, c.at[0, 2].add(draw(8))])
    expected[:, :2] = False
    np.testing.assert_array_equal(moved((one, other), (4, 6)), expected)


def test_inner_blocks_convolve_tokens_on_both_sides_of_the_transformer():
    wide = (2, 8)
    x, c = draw(1, 8, 32, 3), draw(1, 1, 8)
    (one, skip), (other, _) = stem(0, [x, x.at[0, 5, 1].add(1.0)], [c, c], inner=1)
    expected = np.zeros(wide, bool)
    # From token (1, 0) two convolutions reach two tokens farther.
    expected[:, :3] = True
    np.testing.assert_array_equal(moved((one, other), wide), expected)

    module = ConvolutionalHead(ConvolutionalEdge(2, 0, 0, 1), *ENDS)
    tokens = interface.image_tokens(x, 4, jnp.float32)
    params = random_parameters(module.init(jax.random.key(0), one, skip, c, tokens))
    pair = [interface.image(module.apply(params, each, skip, c, tokens), x.shape, 4) for each in (one, one.at[0, 7].add(draw(8)))]
    expected = np.zeros((8, 32), bool)
    # Token (0, 7) and the two beside it, in all pixels that they cover.
    expected[:, 20:] = True
    np.testing.assert_array_equal(moved(pair, (8, 32)), expected)


@pytest.mark.slow
def test_a_time_for_each_token_acts_as_one_time_for_the_picture_where_all_are_equal():
    module = model()
    tokens = interface.image_tokens(draw(2, 8, 16, 3), 4, jnp.float32)
    params = parameters(module, tokens)
    one = module.apply({"params": params}, tokens, jnp.asarray([0.3, 0.7]), TEXT)
    each = module.apply({"params": params}, tokens, jnp.asarray([[0.3] * 8, [0.7] * 8]), TEXT)
    np.testing.assert_allclose(each, one, atol=2e-5)


def test_packed_rows_have_no_neighbours_and_are_refused():
    module = model()
    tokens = interface.image_tokens(draw(2, 8, 16, 3), 4, jnp.float32)
    with pytest.raises(ValueError, match="packed"):
        module.init(jax.random.key(0), tokens.replace(grid=None), jnp.zeros(2), TEXT)


def test_the_finer_width_grows_with_the_models():
    tokens = interface.image_tokens(jnp.zeros((2, 8, 8, 3)), 4, jnp.float32)
    shapes = jax.eval_shape(model(width=32).init, jax.random.key(0), tokens, jnp.zeros(2), TEXT)["params"]
    kernel = shapes["stem"]["block_0"]["in"]["kernel"]
    assert (kernel.group, kernel.value.shape, kernel.learning_rate) == ("hidden", (9, 16, 16), 8 / 32)
    assert shapes["head"]["velocity"]["out"]["kernel"].group == "output"


@pytest.mark.parametrize("options, option", [
    ({"width": 24, "head_dim": 8, "edge": ConvolutionalEdge(split=4)}, None),
    ({"width": 24, "patch": 3}, "patch"),
    ({"width": 9, "head_dim": 9}, "head_dim"),
    ({"width": 12, "head_dim": 4, "patch": 8, "edge": ConvolutionalEdge(split=8)}, "width"),
])  # fmt: skip
def test_sizes_that_do_not_divide_are_refused(options, option):
    module = model(**options)
    if option is None:
        module.validate()
        return
    with pytest.raises(types.BadInput) as complaint:
        module.validate()
    assert complaint.value.option == option


@pytest.mark.parametrize(
    "change, option", [({"split": 0}, "split"), ({"before": -1}, "before"), ({"after": -1}, "after"), ({"inner": -1}, "inner")]
)
def test_bad_options_are_refused(change, option):
    with pytest.raises(types.BadInput) as complaint:
        dataclasses.replace(ConvolutionalEdge(), **change).validate()
    assert complaint.value.option == option
