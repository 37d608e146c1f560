import functools
import types as builtin_types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.mmdit import PUBLISHED, MMDiT, MMDiTBlock, PositionTable, places
from jaxgen.nn.modulation import Gates

SCALE = mup.Scaling(base_width=8).at(8)
DRAWS = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(DRAWS.normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    "options",
    [{"vocabulary": 50}, {"text_features": 20}, {"text_features": 20, "pooled_features": 9, "guidance": 4.0, "single_depth": 2}],
    ids=["ids", "features", "single_stream"],
)
def test_the_number_of_parameters_is_that_of_the_layers_counted_by_hand(options):
    width, depth, head_dim, hidden, values, length = 16, 3, 8, 32, 12, 7
    vocabulary, features, pooled = (options.get(name, 0) for name in ("vocabulary", "text_features", "pooled_features"))
    model = MMDiT(width, depth, head_dim=head_dim, mlp_ratio=2, channels=3, text_length=length, **{"vocabulary": 0} | options)
    ends = (values + 1) * width + (width + 1) * values  # patches in, velocity out
    ends += (256 + 1) * width + (width + 1) * width  # time
    ends += 5 * vocabulary * width + (width + 1) * width if vocabulary else (features + 1) * width  # text
    ends += ((pooled or width) + 1) * width + (width + 1) * width + width  # pooled text and its null
    ends += length * width  # places in the text
    ends += (width + 1) * 2 * width  # modulation of the last layer
    if "guidance" in options:
        ends += (256 + 1) * width + (width + 1) * width
    layers = 3 * width * width + 2 * head_dim + (width + 1) * width  # attention, with gains of queries and keys
    layers += (width + 1) * hidden + (hidden + 1) * width  # feed-forward
    double, single = ((width + 1) * count * width + layers for count in (6, 3))  # with modulation

    def init():
        tokens = interface.image_tokens(jnp.zeros((1, 4, 4, 3)), 2, jnp.float32)
        text = jnp.zeros((1, 5), jnp.int32) if vocabulary else jnp.zeros((1, 5, features))
        present = jnp.ones((1, 5), jnp.int32)
        streams = {"text": types.Condition(text, present), "pooled": types.Condition(jnp.zeros((1, 1, pooled)), present[:, :1])}
        return model.init(jax.random.key(0), tokens, jnp.zeros(1), streams)

    count = sum(x.size for x in jax.tree.leaves(jax.eval_shape(init)))
    assert count == ends + depth * 2 * double + options.get("single_depth", 0) * single


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


def test_data_whose_one_vector_a_text_has_other_channels_is_refused():
    model = MMDiT(text_length=8, pooled_features=3, **TAKES_FEATURES)
    model.check(data_with(text=FEATURES, pooled=jax.ShapeDtypeStruct((1, 3), jnp.float32)))
    for shape in ((1, 2), (2, 3), (3,)):
        with pytest.raises(types.BadInput) as error:
            model.check(data_with(text=FEATURES, pooled=jax.ShapeDtypeStruct(shape, jnp.float32)))
        assert error.value.option == "model.pooled_features"


@pytest.mark.parametrize("option, value", [("single_depth", -1), ("pooled_features", -1), ("guidance", -0.5), ("guidance", np.inf)])
def test_impossible_options_are_refused(option, value):
    with pytest.raises(types.BadInput) as error:
        MMDiT(**{option: value}).validate()
    assert error.value.option == option


# A network of both kinds of blocks whose parameters are all random, on one row of two examples.

SMALL = MMDiT(
    width=16, depth=1, single_depth=2, head_dim=8, text_length=5, pooled_features=3, guidance=2.0, scaling=mup.Scaling(base_width=8)
)
PACKED = jnp.asarray([[1, 1, 1, 1, 2, 2]], jnp.int32)
OWNERS = jnp.asarray([[1, 1, 2, 2]], jnp.int32)
TOKENS = types.Tokens(draw(1, 6, 4), draw(1, 6, 2), PACKED)
TIMES = jnp.where(PACKED == 1, 0.25, 0.75)
STREAMS = {
    "text": types.Condition(jnp.asarray([[3, 1, 4, 1]], jnp.int32), OWNERS),
    "pooled": types.Condition(draw(1, 2, 3), jnp.asarray([[1, 2]], jnp.int32)),
}


@functools.cache
def random_parameters():
    boxed = jax.eval_shape(lambda: SMALL.init(jax.random.key(0), TOKENS, TIMES, STREAMS)["params"])
    value = lambda box: (box.kind == "gain") + 0.4 * draw(*box.value.shape)
    return jax.tree.map(value, boxed, is_leaf=mup.is_parameter)


@jax.jit
def apply(params, streams):
    return SMALL.apply({"params": params}, TOKENS, TIMES, streams)[0]


def predicted(streams, params=None):
    return apply(params or random_parameters(), streams)


def of_two(values, segments=(1, 2)):
    return types.Condition(jnp.asarray([values]), jnp.asarray([segments], jnp.int32))


def test_the_one_vector_of_a_text_matters_to_its_example_alone():
    pooled, plain = STREAMS["pooled"], predicted(STREAMS)
    other = predicted(STREAMS | {"pooled": pooled.replace(values=pooled.values.at[0, 1].add(1.0))})
    np.testing.assert_allclose(other[:4], plain[:4], rtol=2e-5, atol=2e-5)
    assert float(jnp.abs(other[4:] - plain[4:]).max()) > 1e-2


def test_an_absent_vector_is_the_learned_null_whatever_it_held():
    absent = STREAMS["pooled"].replace(segments=jnp.asarray([[1, 0]], jnp.int32))
    found = predicted(STREAMS | {"pooled": absent})
    other = absent.replace(values=absent.values.at[0, 1].set(jnp.nan))
    np.testing.assert_array_equal(predicted(STREAMS | {"pooled": other}), found)
    assert float(jnp.abs(found[4:] - predicted(STREAMS)[4:]).max()) > 1e-2


def test_a_guidance_scale_matters_to_its_example_alone():
    told = {scale: predicted(STREAMS | {"guidance": of_two([2.0, scale])}) for scale in (2.0, 5.0)}
    np.testing.assert_allclose(told[5.0][:4], told[2.0][:4], rtol=2e-5, atol=2e-5)
    assert float(jnp.abs(told[5.0][4:] - told[2.0][4:]).max()) > 1e-2


def test_where_no_guidance_scale_is_told_the_networks_own_holds():
    plain = predicted(STREAMS)
    np.testing.assert_allclose(predicted(STREAMS | {"guidance": of_two([2.0, 2.0])}), plain, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(predicted(STREAMS | {"guidance": of_two([2.0, 9.0], (1, 0))}), plain, rtol=2e-5, atol=2e-5)


def test_single_stream_blocks_whose_gates_are_zero_change_nothing():
    params = random_parameters()
    still = params["single_blocks"] | {"modulation": jax.tree.map(jnp.zeros_like, params["single_blocks"]["modulation"])}
    rest = {name: value for name, value in params.items() if name != "single_blocks"}
    without = SMALL.clone(single_depth=0).apply({"params": rest}, TOKENS, TIMES, STREAMS)[0]
    np.testing.assert_allclose(predicted(STREAMS, rest | {"single_blocks": still}), without, rtol=2e-5, atol=2e-5)
    assert float(jnp.abs(predicted(STREAMS) - without).max()) > 1e-2


# In the form of Stable Diffusion 3, on a row of one example and one of two.

FORM = {"text_features": 6, "text_length": 4, "pooled_features": 3, "position_table": PositionTable(2.0, 0.5)}
LAST = MMDiT(width=16, depth=2, head_dim=8, scaling=mup.Scaling(base_width=8), **PUBLISHED, **FORM)
BOTH_TOKENS = types.Tokens(draw(2, 6, 4), draw(2, 6, 2), jnp.concatenate([jnp.ones_like(PACKED), PACKED]))
FEATURES_OF_BOTH = draw(2, 4, 6)
ALL_OF_BOTH = jnp.concatenate([jnp.ones_like(OWNERS), OWNERS])
VECTORS = types.Condition(draw(2, 2, 3), jnp.asarray([[1, 0], [1, 2]], jnp.int32))


@functools.cache
def applied(model):
    return jax.jit(lambda params, tokens, streams: model.apply({"params": params}, tokens, jnp.full((2, 6), 0.25), streams))


@functools.cache
def drawn(model):
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), BOTH_TOKENS, jnp.full((2, 6), 0.25), both_streams())["params"])
    return jax.tree.map(lambda box: (box.kind == "gain") + 0.4 * draw(*box.value.shape), boxed, is_leaf=mup.is_parameter)


def both_streams(values=None, segments=None):
    values = FEATURES_OF_BOTH if values is None else values
    return {"text": types.Condition(values, ALL_OF_BOTH if segments is None else segments), "pooled": VECTORS}


def test_absent_text_is_read_as_zeros_where_a_row_is_one_example():
    run = functools.partial(applied(LAST), drawn(LAST), BOTH_TOKENS)
    absent = ALL_OF_BOTH.at[:, -1].set(0)
    found = run(both_streams(FEATURES_OF_BOTH.at[:, -1].set(jnp.nan), absent))
    zeros = run(both_streams(FEATURES_OF_BOTH.at[:, -1].set(0)))
    np.testing.assert_array_equal(found[0], zeros[0])
    # Of two examples nobody knows whose it is: the second one does not see it, and the first never did.
    np.testing.assert_allclose(found[1, :4], zeros[1, :4], rtol=2e-5, atol=2e-5)
    assert float(jnp.abs(found[1, 4:] - zeros[1, 4:]).max()) > 1e-2


def test_without_a_text_the_conditioning_vector_is_that_of_zeros():
    run = functools.partial(applied(LAST), drawn(LAST), BOTH_TOKENS)
    nothing = {name: stream.replace(segments=0 * stream.segments) for name, stream in both_streams().items()}
    zeros = {name: stream.replace(values=0 * stream.values) for name, stream in both_streams().items()}
    np.testing.assert_allclose(run(nothing)[0], run(zeros)[0], rtol=2e-5, atol=2e-5)


def test_a_last_block_that_only_reads_text_is_one_whose_writing_nobody_reads():
    whole = LAST.clone(context_pre_only=False)
    params = drawn(whole)
    first, last = (jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"]) for i in range(2))
    last = {name: leaf for name, leaf in last.items() if name not in ("text_from_heads", "text_mlp")}
    last["text_modulation"] = jax.tree.map(lambda leaf: leaf[..., :2, :], last["text_modulation"])
    split = params | {"blocks": jax.tree.map(lambda leaf: leaf[None], first), "last_block": last}
    assert jax.tree.map(jnp.shape, split) == jax.tree.map(jnp.shape, drawn(LAST))
    found = applied(LAST)(split, BOTH_TOKENS, both_streams())
    np.testing.assert_allclose(found, applied(whole)(params, BOTH_TOKENS, both_streams()), rtol=2e-5, atol=2e-5)


def test_coordinates_of_a_table_are_shifted_then_spaced():
    plain = LAST.clone(position_table=PositionTable())
    there = BOTH_TOKENS.replace(positions=0.5 * (BOTH_TOKENS.positions + 2.0))
    found = applied(LAST)(drawn(LAST), BOTH_TOKENS, both_streams())
    np.testing.assert_allclose(found, applied(plain)(drawn(LAST), there, both_streams()), rtol=2e-5, atol=2e-5)
    assert float(jnp.abs(found - applied(LAST)(drawn(LAST), there, both_streams())).max()) > 1e-2


def test_every_parameter_has_a_finite_gradient_that_is_not_zero():
    absent = STREAMS["pooled"].replace(segments=jnp.asarray([[1, 0]], jnp.int32))
    streams = STREAMS | {"pooled": absent, "text": STREAMS["text"].replace(values=jnp.arange(4, dtype=jnp.int32)[None])}
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(apply(params, streams) ** 2)))(random_parameters())
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert bool(jnp.all(jnp.isfinite(leaf))) and bool(jnp.any(leaf != 0)), jax.tree_util.keystr(path)
