import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.ddt import DDT, ImprovedDiT
from jaxgen.models.dit import DiT
from jaxgen.models.mmdit import AbsentText, MMDiT, PositionTable
from jaxgen.models.pixart import PixArt
from jaxgen.models.uvit import UViT
from jaxgen.nn.embeddings import Table

DRAWS = np.random.default_rng(0)


@pytest.mark.parametrize("shape, patch", [((2, 4, 6, 3), 2), ((1, 6, 3, 1), 3), ((2, 2, 2, 4), 1)])
def test_pictures_survive_the_way_to_tokens_and_back(shape, patch):
    x = jnp.asarray(DRAWS.normal(size=shape), jnp.float32)
    tokens = interface.image_tokens(x, patch, jnp.float32)
    np.testing.assert_array_equal(interface.image(tokens.values, shape, patch), x)


def test_tokens_and_the_values_within_them_run_over_row_then_column_then_channel():
    x = DRAWS.normal(size=(1, 4, 6, 3)).astype(np.float32)
    tokens = interface.image_tokens(jnp.asarray(x), 2, jnp.float32)
    for row, column in np.ndindex(2, 3):
        patch = x[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        values = [patch[i, j, c] for i in range(2) for j in range(2) for c in range(3)]
        np.testing.assert_array_equal(tokens.values[0, 3 * row + column], values)
        np.testing.assert_array_equal(tokens.positions[0, 3 * row + column], [row - 1, column - 1.5])


def test_centres_of_two_resolutions_have_the_same_position():
    small, large = (interface.image_tokens(jnp.zeros((1, side, side, 1)), 1, jnp.float32).positions for side in (4, 8))
    np.testing.assert_array_equal(small.reshape(4, 4, 2)[2, 2], large.reshape(8, 8, 2)[4, 4])
    np.testing.assert_array_equal(small.reshape(4, 4, 2)[2, 2], [0, 0])


def test_values_take_the_compute_dtype_and_positions_and_pictures_stay_float32():
    tokens = interface.image_tokens(jnp.zeros((1, 4, 4, 1)), 2, jnp.bfloat16)
    assert (tokens.values.dtype, tokens.positions.dtype) == (jnp.bfloat16, jnp.float32)
    assert interface.image(tokens.values, (1, 4, 4, 1), 2).dtype == jnp.float32


def test_fields_become_streams_and_masks_their_absence():
    batch = {"label": jnp.asarray([3, 5]), "text": jnp.asarray([[1, 2, 9], [4, 9, 9]]), "other": jnp.zeros(2)}
    batch["text_mask"] = jnp.asarray([[True, True, False], [True, False, False]])
    found = interface.conditions(batch, ("label", "text"))
    assert set(found) == {"label", "text"}
    np.testing.assert_array_equal(found["label"].values, [[3], [5]])
    np.testing.assert_array_equal(found["label"].segments, [[1], [1]])
    np.testing.assert_array_equal(found["text"].segments, [[1, 1, 0], [1, 0, 0]])


def test_labels_are_averaged_by_segment_and_the_last_row_stands_for_none():
    rows = jnp.asarray(DRAWS.normal(size=(4, 8)), jnp.float32)
    table = Table("vocabulary", 4, 8, mup.Scaling(base_width=8).at(8)).bind({"params": {"table": rows}})
    stream = types.Condition(jnp.asarray([[0, 2, 1], [2, 9, 0]]), jnp.asarray([[1, 1, 2], [1, 0, 0]]))
    found = interface.label_vectors(table, stream, jnp.asarray([[1, 2, 3], [1, 2, 0]]))
    expected = [[(rows[0] + rows[2]) / 2, rows[1], rows[3]], [rows[2], rows[3], rows[3]]]
    np.testing.assert_allclose(found, np.stack([np.stack(row) for row in expected]), atol=1e-6)


def test_a_null_stream_has_no_entry_and_dropping_makes_just_those_examples_null():
    streams = {"text": types.Condition(jnp.ones((2, 3), int), jnp.asarray([[1, 1, 0], [1, 2, 2]]))}
    np.testing.assert_array_equal(interface.null(streams)["text"].segments, np.zeros((2, 3)))
    dropped = streams["text"].dropped(jnp.asarray([True, False]))
    np.testing.assert_array_equal(dropped.segments, [[0, 0, 0], [1, 2, 2]])


@pytest.mark.parametrize("model", [DiT, MMDiT, PixArt, UViT, ImprovedDiT, DDT])
@pytest.mark.parametrize(
    "options, option",
    [
        ({"width": 0}, "width"),
        ({"depth": 0}, "depth"),
        ({"patch": 0}, "patch"),
        ({"width": 40, "head_dim": 16}, "width"),
        ({"remat": "some"}, "remat"),
    ],
    ids=["no_width", "no_depth", "no_patch", "heads_do_not_divide", "unknown_remat"],
)
def test_a_model_that_cannot_be_is_refused_by_the_options_name(model, options, option):
    with pytest.raises(types.BadInput) as error:
        model(**options).validate()
    assert error.value.option == option


@pytest.mark.parametrize(
    "model, option",
    [
        (DiT(width=6, head_dim=6), "width"),
        (MMDiT(width=12, head_dim=6), "head_dim"),
        (ImprovedDiT(width=12, head_dim=6), "head_dim"),
        (MMDiT(vocabulary=0), "vocabulary"),
        (MMDiT(text_features=32), "vocabulary"),
        (MMDiT(position_table=PositionTable()), "position_table"),
        (MMDiT(absent_text=AbsentText.ZEROS), "absent_text"),
        (MMDiT(context_pre_only=True, single_depth=1), "context_pre_only"),
        (MMDiT(context_pre_only=True, depth=1), "depth"),
        (MMDiT(width=6, head_dim=6, vocabulary=0, text_features=3, position_table=PositionTable()), "width"),
        (PositionTable(offset=np.inf), "offset"),
        (PositionTable(spacing=0.0), "spacing"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_only_one_model_needs_is_checked_too(model, option):
    with pytest.raises(types.BadInput) as error:
        model.validate()
    assert error.value.option == option
