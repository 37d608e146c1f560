"""DDT: what reaches the decoder and by which way, sizes, start, and the split; the improved DiT is a DDT's decoder."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.ddt import DDT, VARIANTS, ImprovedBlock, ImprovedDiT
from jaxgen.nn.modulation import Gates

SCALING = mup.Scaling(base_width=16)
MODEL = DDT(width=16, depth=4, encoder_depth=2, head_dim=8, classes=5, scaling=SCALING)
IMPROVED = ImprovedDiT(width=16, depth=2, head_dim=8, classes=5, scaling=SCALING)
KEY = jax.random.key(0, impl="unsafe_rbg")
DRAWS = np.random.default_rng(0)


def labels(*ids):
    ids = jnp.asarray(ids, jnp.int32)[:, None]
    return {"label": types.Condition(ids, jnp.ones_like(ids))}


TOKENS = interface.image_tokens(jnp.asarray(DRAWS.normal(size=(2, 8, 8, 1)), jnp.float32), 2, jnp.float32)
T, STREAMS = jnp.asarray([0.3, 0.8]), labels(1, 4)


@functools.cache
def params(model=MODEL):
    """Random parameters, so that nothing hides behind what starts at zero."""
    draws = np.random.default_rng(1)
    boxed = jax.eval_shape(lambda: model.init(KEY, TOKENS, T, STREAMS)["params"])

    def value(box):
        spread = 1.0 if box.kind in ("gain", "embedding") else 0.3
        return jnp.asarray(spread * draws.normal(size=box.value.shape) + (box.kind == "gain"), jnp.float32)

    return jax.tree.map(value, boxed, is_leaf=mup.is_parameter)


def run(method, *arguments, model=MODEL, given=None):
    return np.asarray(compiled(method, model)({"params": params(model) if given is None else given}, *arguments))


@functools.cache
def compiled(method, model):
    return jax.jit(functools.partial(model.apply, method=method))


def started(model):
    return nn.meta.unbox(jax.jit(lambda: model.init(KEY, TOKENS, T, STREAMS)["params"])())


def moved(found, other):
    """Which tokens differ at all, [B, L]."""
    return (found != other).any(axis=-1)


SIZES = {
    "B/2": (130_262_800, 130_249_744),
    "L/2": (457_648_144, 457_630_736),
    "XL/2": (674_646_352, 674_626_768),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_have_the_published_number_of_parameters(name):
    options = VARIANTS[name] | {"channels": 4, "classes": 1000}
    like = {option: value for option, value in options.items() if option != "encoder_depth"}
    tokens = interface.image_tokens(jnp.zeros((1, 32, 32, 4)), 2, jnp.float32)
    for model, expected in zip((DDT(**options), ImprovedDiT(**like)), SIZES[name], strict=True):
        model.validate()
        shapes = jax.eval_shape(lambda model=model: model.init(KEY, tokens, jnp.zeros(1), labels(0)))
        # Without the split there is one patch embedding less.
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected
    assert SIZES[name][0] - SIZES[name][1] == 17 * options["width"]


@pytest.mark.parametrize("model", [MODEL, IMPROVED], ids=["ddt", "improved"])
def test_the_network_starts_at_exactly_zero_behind_gates_that_act(model):
    start = started(model)
    np.testing.assert_array_equal(run("__call__", TOKENS, T, STREAMS, model=model, given=start), 0)
    if model is MODEL:
        z, other = (run("encode", TOKENS, t, STREAMS, given=start) for t in (T, 0.5 * T))
        assert z.std() > 0.1 and moved(z, other).all()
        gates = start["decoder"]["blocks"]["modulation"]["linear"]["kernel"][:, :, [2, 5]]
        assert float(jnp.std(jnp.einsum("bld,ndgo->nblgo", z, gates))) > 0.1


def test_with_zero_gates_blocks_start_as_the_identity():
    model = dataclasses.replace(MODEL, gates=Gates.ZERO)
    start = started(model)
    embedded = TOKENS.values @ start["encoder"]["patches"]["kernel"]
    np.testing.assert_allclose(run("states", TOKENS, T, STREAMS, model=model, given=start), embedded, atol=1e-5)


def test_z_is_all_that_the_decoder_is_told_besides_tokens():
    z = run("encode", TOKENS, T, STREAMS)
    np.testing.assert_allclose(run("decode", TOKENS, z), run("__call__", TOKENS, T, STREAMS), rtol=1e-5, atol=1e-5)
    # `decode` has no argument of time or label: under a kept z, the time at which it was made is what the decoder sees.
    for t, streams in ((0.5 * T, STREAMS), (T, labels(2, 0))):
        other = run("encode", TOKENS, t, streams)
        assert moved(other, z).all() and moved(run("decode", TOKENS, other), run("decode", TOKENS, z)).all()


def test_kept_states_may_be_given_another_time():
    states = run("states", TOKENS, T, STREAMS)
    np.testing.assert_allclose(run("timed", states, T, TOKENS.segments), run("encode", TOKENS, T, STREAMS), rtol=1e-5, atol=1e-5)
    now, later = (run("decode", TOKENS, run("timed", states, t, TOKENS.segments)) for t in (T, 0.5 * T))
    assert moved(now, later).all()


def without_attention(given):
    given = jax.tree.map(lambda leaf: leaf, given)
    given["decoder"]["blocks"]["from_heads"] = jax.tree.map(jnp.zeros_like, given["decoder"]["blocks"]["from_heads"])
    return given


def test_z_of_a_token_modulates_that_token_and_reaches_others_by_attention_alone():
    z = run("encode", TOKENS, T, STREAMS)
    other = z.copy()
    other[0, 5] += 1.0
    expected = np.zeros((2, 16), bool)
    expected[0, 5] = True
    given = without_attention(params())
    np.testing.assert_array_equal(moved(run("decode", TOKENS, other, given=given), run("decode", TOKENS, z, given=given)), expected)
    expected[0] = True
    np.testing.assert_array_equal(moved(run("decode", TOKENS, other), run("decode", TOKENS, z)), expected)


def test_the_decoder_reads_the_tokens_by_a_patch_embedding_of_its_own():
    z = run("encode", TOKENS, T, STREAMS)
    assert moved(run("decode", TOKENS.replace(values=0.5 * TOKENS.values), z), run("decode", TOKENS, z)).all()
    encoder, decoder = (params()[name]["patches"]["kernel"] for name in ("encoder", "decoder"))
    assert encoder.shape == decoder.shape and not np.array_equal(encoder, decoder)


def test_the_improved_dit_is_a_decoder_under_the_condition_of_an_encoder():
    ends = {name: params()[name] for name in ("time", "labels", "velocity")}
    found = run("__call__", TOKENS, T, STREAMS, model=IMPROVED, given=ends | {"trunk": params()["decoder"]})
    c = run("_condition", TOKENS, T, STREAMS)
    assert c.shape == (2, 1, 16)
    np.testing.assert_allclose(found, run("decode", TOKENS, np.repeat(c, 16, axis=1)), rtol=1e-5, atol=1e-5)


def regrouped(encoder_depth):
    """The same blocks in the same order, parted elsewhere."""
    blocks = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *(params()[name]["blocks"] for name in ("encoder", "decoder")))
    given = dict(params())
    given["encoder"] = params()["encoder"] | {"blocks": jax.tree.map(lambda leaf: leaf[:encoder_depth], blocks)}
    given["decoder"] = params()["decoder"] | {"blocks": jax.tree.map(lambda leaf: leaf[encoder_depth:], blocks)}
    return given


def test_the_same_weights_parted_elsewhere_are_another_network():
    found = {}
    for depth in (1, 2, 3):
        model = dataclasses.replace(MODEL, encoder_depth=depth)
        model.validate()
        found[depth] = run("__call__", TOKENS, T, STREAMS, model=model, given=regrouped(depth))
        assert np.isfinite(found[depth]).all()
    np.testing.assert_array_equal(found[2], run("__call__", TOKENS, T, STREAMS))
    for a, b in ((1, 2), (2, 3), (1, 3)):
        assert np.abs(found[a] - found[b]).max() > 1e-2


@pytest.mark.parametrize("encoder_depth", [0, 4, 7])
def test_a_split_that_leaves_encoder_or_decoder_empty_is_refused(encoder_depth):
    with pytest.raises(types.BadInput, match="depth=4") as error:
        dataclasses.replace(MODEL, encoder_depth=encoder_depth).validate()
    assert (error.value.option, error.value.found) == ("encoder_depth", encoder_depth)


def test_the_output_of_each_block_can_be_kept():
    def apply(params):
        kept = lambda module, _: isinstance(module, ImprovedBlock)
        return MODEL.apply({"params": params}, TOKENS, T, STREAMS, capture_intermediates=kept, mutable=["intermediates"])[1]

    found = jax.jit(apply)(params())["intermediates"]["encoder"]["blocks"]["__call__"][0][0]
    assert found.shape == (2, 2, 16, 16)
    np.testing.assert_allclose(found[-1], run("states", TOKENS, T, STREAMS), rtol=1e-5, atol=1e-5)
