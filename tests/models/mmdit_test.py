import types as builtin_types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.mmdit import MMDiT, MMDiTBlock, places
from jaxgen.nn.modulation import Gates

SCALE = mup.Scaling(base_width=8).at(8)
DRAWS = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(DRAWS.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("vocabulary, features", [(50, 0), (0, 20)], ids=["ids", "features"])
def test_the_number_of_parameters_is_that_of_the_layers_counted_by_hand(vocabulary, features):
    width, depth, head_dim, hidden, values, length = 16, 3, 8, 32, 12, 7
    model = MMDiT(width, depth, head_dim, 2, patch=2, channels=3, vocabulary=vocabulary, text_features=features, text_length=length)
    ends = (values + 1) * width + (width + 1) * values  # patches in, velocity out
    ends += (256 + 1) * width + (width + 1) * width  # time
    ends += 5 * vocabulary * width + (width + 1) * width if vocabulary else (features + 1) * width  # text
    ends += 2 * (width + 1) * width + width  # pooled text and its null
    ends += length * width  # places in the text
    ends += (width + 1) * 2 * width  # modulation of the last layer
    block = (width + 1) * 6 * width  # modulation
    block += 3 * width * width + 2 * head_dim + (width + 1) * width  # attention, with gains of queries and keys
    block += (width + 1) * hidden + (hidden + 1) * width  # feed-forward

    def init():
        tokens = interface.image_tokens(jnp.zeros((1, 4, 4, 3)), 2, jnp.float32)
        text = jnp.zeros((1, 5), jnp.int32) if vocabulary else jnp.zeros((1, 5, features))
        return model.init(jax.random.key(0), tokens, jnp.zeros(1), {"text": types.Condition(text, jnp.ones((1, 5), jnp.int32))})

    assert sum(x.size for x in jax.tree.leaves(jax.eval_shape(init))) == ends + depth * 2 * block


def block(gates, carry, positions, segments):
    c = {name: jnp.ones((2, 1, 8)) for name in carry}
    key = jax.random.key(0, impl="unsafe_rbg")
    return MMDiTBlock(8, 4, 2, "gelu", gates, SCALE).init_with_output(key, carry, c, positions, segments)[0][0]


CARRY = {"image": draw(2, 4, 8), "text": draw(2, 3, 8)}
POSITIONS = draw(2, 4, 2)
SEGMENTS = {"image": jnp.ones((2, 4), jnp.int32), "text": jnp.ones((2, 3), jnp.int32)}


def test_a_block_with_zero_gates_starts_as_the_identity_and_one_with_random_gates_does_not():
    still, moved = (block(gates, CARRY, POSITIONS, SEGMENTS) for gates in (Gates.ZERO, Gates.RANDOM))
    for name in ("image", "text"):
        np.testing.assert_array_equal(still[name], CARRY[name])
        assert float(jnp.max(jnp.abs(moved[name] - CARRY[name]))) > 0.1


def test_each_modality_attends_to_the_other():
    plain = block(Gates.RANDOM, CARRY, POSITIONS, SEGMENTS)
    for changed, read in (("image", "text"), ("text", "image")):
        other = block(Gates.RANDOM, CARRY | {changed: CARRY[changed] * jnp.linspace(0, 2, 8)}, POSITIONS, SEGMENTS)
        assert float(jnp.max(jnp.abs(other[read] - plain[read]))) > 1e-3


def test_places_count_from_the_start_of_each_text_and_absent_entries_take_none():
    segments = jnp.asarray([[1, 1, 1, 2, 2, 0], [0, 0, 3, 3, 0, 3]])
    np.testing.assert_array_equal(places(segments), [[0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 0, 3]])


def data_with(**fields):
    return builtin_types.SimpleNamespace(data=builtin_types.SimpleNamespace(features=lambda: fields, id_counts=dict))


IDS, FEATURES = jax.ShapeDtypeStruct((8,), jnp.int32), jax.ShapeDtypeStruct((8, 4), jnp.float32)
TAKES_FEATURES = {"vocabulary": 0, "text_features": 4}


@pytest.mark.parametrize(
    "options, text, option",
    [
        ({"text_length": 7}, IDS, "model.text_length"),
        ({}, FEATURES, "model.text_features"),
        (TAKES_FEATURES, IDS, "model.text_features"),
        (TAKES_FEATURES | {"text_features": 5}, FEATURES, "model.text_features"),
    ],
    ids=["text_too_long", "features_for_ids", "ids_for_features", "other_channels"],
)
def test_data_whose_text_does_not_fit_is_refused(options, text, option):
    with pytest.raises(types.BadInput) as error:
        MMDiT(**options).check(data_with(text=text))
    assert error.value.option == option


def test_data_whose_text_fits_is_taken():
    MMDiT(text_length=8).check(data_with(text=IDS))
    MMDiT(text_length=8, **TAKES_FEATURES).check(data_with(text=FEATURES))
