import types as builtin_types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.pixart import PUBLISHED, VARIANTS, PixArt, PixArtBlock
from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.modulation import Gates

DRAWS = np.random.default_rng(0)
SCALE = mup.Scaling(base_width=8).at(8)


def draw(*shape):
    return jnp.asarray(DRAWS.normal(size=shape), jnp.float32)


def count(model):
    def init():
        tokens = interface.image_tokens(jnp.zeros((1, 4, 4, model.channels)), 2, jnp.float32)
        text = types.Condition(jnp.zeros((1, 5, model.text_features)), jnp.ones((1, 5), jnp.int32))
        return model.init(jax.random.key(0), tokens, jnp.zeros(1), {"text": text})

    return sum(box.size for box in jax.tree.leaves(jax.eval_shape(init)))


def test_the_number_of_parameters_is_that_of_the_layers_counted_by_hand():
    width, depth, hidden, values, features, length = 16, 3, 32, 12, 20, 7
    model = PixArt(width, depth, head_dim=8, mlp_ratio=2, channels=3, text_features=features, text_length=length)
    ends = (values + 1) * width + (width + 1) * values  # patches in, velocity out
    ends += (256 + 1) * width + (width + 1) * width  # time
    ends += (width + 1) * 6 * width + 2 * width  # modulation of all blocks, and the table of the last layer
    ends += (features + 1) * width + (width + 1) * width + length * features  # text and its null
    block = 6 * width  # table of modulation
    block += 2 * (3 * width * width + (width + 1) * width)  # attention to the picture and to the text, no bias on the way in
    block += (width + 1) * hidden + (hidden + 1) * width  # feed-forward
    assert count(model) == ends + depth * block


def test_the_published_size_has_six_tenths_of_a_billion_parameters():
    # The null caption is none of the published 610,856,096; diffusers' class has as many (tests/parity).
    model = PixArt(**VARIANTS["XL"], **PUBLISHED, channels=4)
    assert count(model) - 120 * 4096 == 610_856_096


def block(gates, x, text, key=0):
    shared = tuple((0.0 if gates == Gates.ZERO else 1.0) * draw(6, 2, 1, 8))
    module, segments = PixArtBlock(8, 4, 2, "gelu", gates, SCALE), jnp.ones((2, 4), jnp.int32)
    return module.init_with_output(jax.random.key(key, impl="unsafe_rbg"), x, shared, text, segments, Mask())


def test_a_block_with_zero_gates_starts_as_the_identity_and_one_with_random_gates_does_not():
    x, text = draw(2, 4, 8), draw(2, 3, 8)
    np.testing.assert_array_equal(block(Gates.ZERO, x, text)[0][0], x)
    assert float(jnp.max(jnp.abs(block(Gates.RANDOM, x, text)[0][0] - x))) > 0.1


@pytest.mark.parametrize("gates", Gates)
def test_a_block_reads_nothing_from_text_at_the_start(gates):
    x, text = draw(2, 4, 8), draw(2, 3, 8)
    boxed = block(gates, x, text)[1]["params"]
    np.testing.assert_array_equal(boxed["from_cross_heads"]["out"]["kernel"].value, 0)


@pytest.mark.slow
def test_all_blocks_share_one_map_of_the_time():
    """A change of it moves the modulation of every block by the same."""
    model = PixArt(width=16, depth=3, head_dim=8, text_features=4, text_length=5, gates=Gates.RANDOM, scaling=mup.Scaling(16))
    tokens = interface.image_tokens(draw(1, 4, 4, 1), 2, jnp.float32)
    text = {"text": types.Condition(draw(1, 5, 4), jnp.ones((1, 5), jnp.int32))}
    run = jax.jit(
        lambda t: model.apply({"params": params}, tokens, t, text, capture_intermediates=True, mutable=["intermediates"])[1]
    )
    params = model.init(jax.random.key(0), tokens, jnp.zeros(1), text)["params"]
    early, late = (run(jnp.asarray([t]))["intermediates"]["blocks"]["modulation"]["__call__"][0] for t in (0.1, 0.7))
    for one, other in zip(early, late):
        change = np.asarray(other - one)
        np.testing.assert_allclose(change, np.broadcast_to(change[:1], change.shape), atol=1e-5)
        assert np.abs(change).max() > 1e-2 and np.abs(one[0] - one[1]).max() > 1e-3


@pytest.mark.parametrize(
    "option, value",
    [
        ("width", 66),
        ("text_features", 0),
        ("text_length", 0),
        ("position_offset", np.inf),
        ("position_spacing", 0.0),
        ("position_spacing", np.nan),
    ],
)
def test_impossible_options_are_refused(option, value):
    with pytest.raises(types.BadInput) as error:
        PixArt(**{"head_dim": 2, option: value}).validate()
    assert error.value.option == option


def data_with(**fields):
    data = builtin_types.SimpleNamespace(features=lambda: fields, source=None)
    return builtin_types.SimpleNamespace(data=data)


@pytest.mark.parametrize(
    "shape, option", [((9, 4), "text_length"), ((8, 5), "text_features"), ((8,), None)], ids=["too_long", "other_channels", "ids"]
)
def test_data_whose_text_does_not_fit_is_refused(shape, option):
    model = PixArt(text_features=4, text_length=8)
    model.check(data_with(text=jax.ShapeDtypeStruct((8, 4), jnp.float32)))
    with pytest.raises(types.BadInput) as error:
        model.check(data_with(text=jax.ShapeDtypeStruct(shape, jnp.float32)))
    assert error.value.option == (f"model.{option}" if option else "data.source")


def test_coordinates_are_shifted_then_spaced():
    base = PixArt(width=16, depth=1, head_dim=8, text_features=4, text_length=5, scaling=mup.Scaling(16))
    moved = base.clone(position_offset=3.0, position_spacing=0.5)
    tokens = interface.image_tokens(draw(1, 4, 4, 1), 2, jnp.float32)
    text = {"text": types.Condition(draw(1, 5, 4), jnp.ones((1, 5), jnp.int32))}
    params = jax.tree.map(lambda p: draw(*p.shape), jax.eval_shape(base.init, jax.random.key(0), tokens, jnp.zeros(1), text))
    there = tokens.replace(positions=0.5 * (tokens.positions + 3.0))
    found, expected = moved.apply(params, tokens, jnp.zeros(1), text), base.apply(params, there, jnp.zeros(1), text)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
