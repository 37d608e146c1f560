"""The causal transformer: what a code may depend on, and that drawing code by code computes what training does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.models.causal import CausalTransformer, neighbouring

MODEL = CausalTransformer(width=16, depth=2, head_dim=8, codes=6, vocabulary=11, scaling=mup.Scaling(base_width=8))
GRID = (3, 4)
CODES = jax.random.randint(jax.random.key(1), (2, *GRID), 0, 6)
IDS = jnp.asarray([[3, 7, 1, 2, 0], [5, 5, 9, 0, 0]])
THERE = jnp.asarray([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])


def text(ids=IDS, there=THERE):
    return {"text": types.Condition(ids, there)}


@functools.cache
def params():
    boxed = jax.jit(lambda: MODEL.init(jax.random.key(0), CODES, text(), jnp.float32)["params"])()
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda box: box.value, boxed, is_leaf=mup.is_parameter))
    # The last layer starts at zero.
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return tree.unflatten([leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)])


def logits(codes, streams):
    return whole(params(), codes, streams)


@jax.jit
def whole(params, codes, streams):
    return MODEL.apply({"params": params}, codes, streams, jnp.float32)


@jax.jit
def one_by_one(params, codes, streams):
    """The same, code by code."""
    cache = MODEL.apply({"params": params}, streams, GRID, jnp.float32, method="begin")

    def body(cache, place):
        # What is not known yet must not be read.
        known = jnp.where(jnp.arange(codes[0].size).reshape(GRID) < place, codes, 5 - codes)
        found, cache = MODEL.apply({"params": params}, known, place, cache, streams, method="step")
        return cache, found

    return jax.lax.scan(body, cache, jnp.arange(codes[0].size))[1].swapaxes(0, 1)


@pytest.mark.parametrize("there", [THERE, THERE * 0, THERE.at[1].set(0)], ids=["text", "no text", "one without"])
def test_code_by_code_is_the_same_network(there):
    expected = logits(CODES, text(there=there))
    assert expected.shape == (2, 12, 6) and expected.dtype == jnp.float32 and float(expected.std()) > 0.1
    np.testing.assert_allclose(one_by_one(params(), CODES, text(there=there)), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("place", [0, 3, 4, 10])
def test_a_code_changes_what_comes_behind_it_and_nothing_else(place):
    changed = CODES.at[:, place // 4, place % 4].add(1) % 6
    difference = jnp.abs(logits(changed, text()) - logits(CODES, text())).max(axis=(0, 2))
    assert np.all(difference[: place + 1] == 0) and np.all(difference[place + 1 :] > 1e-4)


def test_the_last_code_is_never_read():
    np.testing.assert_array_equal(logits(CODES.at[:, -1, -1].set(0), text()), logits(CODES.at[:, -1, -1].set(5), text()))


def test_every_word_reaches_the_first_code_and_absent_ones_no_code():
    for word in range(3):
        moved = logits(CODES, text(ids=IDS.at[:, word].set(10))) - logits(CODES, text())
        assert float(jnp.abs(moved[:, 0]).min(axis=1).max()) > 1e-4, word
    np.testing.assert_array_equal(logits(CODES, text(ids=IDS.at[:, 4].set(10))), logits(CODES, text()))
    outside = logits(CODES, text(ids=IDS.at[:, 4].set(99)))
    np.testing.assert_array_equal(outside, logits(CODES, text()))


def test_the_order_of_words_counts():
    swapped = IDS.at[0, 0].set(IDS[0, 2]).at[0, 2].set(IDS[0, 0])
    assert float(jnp.abs(logits(CODES, text(ids=swapped)) - logits(CODES, text()))[0].max()) > 1e-3


def test_neighbours_are_the_one_before_and_three_above():
    found = neighbouring(jnp.arange(12).reshape(1, 3, 4), 99)[0]
    assert found[0].tolist() == [99] * 4
    assert found[1].tolist() == [0, 99, 99, 99]
    assert found[4].tolist() == [3, 99, 0, 1], "the last of the row before comes before"
    assert found[6].tolist() == [5, 1, 2, 3]
    assert found[11].tolist() == [10, 6, 7, 99]


@pytest.mark.parametrize(
    "options, option",
    [
        ({"head_dim": 2}, "head_dim"),
        ({"width": 18, "head_dim": 6}, "head_dim"),
        ({"codes": 1}, "codes"),
        ({"vocabulary": 0}, "vocabulary"),
        ({"depth": 0}, "depth"),
        ({"text_depth": -1}, "text_depth"),
        ({"activation": "tanh"}, "activation"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(options, option):
    with pytest.raises(types.BadInput) as error:
        MODEL.clone(**options).validate()
    assert error.value.option == option
