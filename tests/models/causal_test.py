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


PLANNING = MODEL.clone(plan=5)
PLAN = jnp.asarray([[1, 3, 4, 0], [2, 2, 0, 0]])


def text(ids=IDS, there=THERE):
    return {"text": types.Condition(ids, there)}


def planned(plan=PLAN, there=THERE):
    """With plans, absent where text is."""
    return text(there=there) | {"plan": types.Condition(plan, jnp.broadcast_to(there[:, :1], plan.shape))}


@functools.cache
def params(model=MODEL):
    boxed = jax.jit(lambda: model.init(jax.random.key(0), CODES, planned(), jnp.float32)["params"])()
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda box: box.value, boxed, is_leaf=mup.is_parameter))
    # The last layer starts at zero.
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return tree.unflatten([leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)])


def logits(codes, streams):
    return whole(params(), codes, streams)[0]


@functools.partial(jax.jit, static_argnames="model")
def whole(params, codes, streams, model=MODEL):
    return model.apply({"params": params}, codes, streams, jnp.float32)


@functools.partial(jax.jit, static_argnames="model")
def one_by_one(params, codes, streams, model=MODEL):
    """The same, id by id and code by code."""
    call = functools.partial(model.apply, {"params": params})
    count = streams["plan"].values.shape[1] if model.plan else 0
    cache = call(streams, count, GRID, jnp.float32, method="begin")

    # What is not known yet must not be read.
    def plan_step(cache, place):
        plan = streams["plan"]
        known = plan.replace(values=jnp.where(jnp.arange(count) < place, plan.values, 4 - plan.values))
        return call(place, cache, streams | {"plan": known}, method="plan_step")[::-1]

    def step(cache, place):
        known = jnp.where(jnp.arange(codes[0].size).reshape(GRID) < place, codes, 5 - codes)
        return call(known, place, cache, streams, method="step")[::-1]

    plan = None
    if model.plan:
        cache, plan = jax.lax.scan(plan_step, cache, jnp.arange(count))
        plan = plan.swapaxes(0, 1)
    return jax.lax.scan(step, cache, jnp.arange(codes[0].size))[1].swapaxes(0, 1), plan


@pytest.mark.parametrize("there", [THERE, THERE * 0, THERE.at[1].set(0)], ids=["text", "no text", "one without"])
@pytest.mark.parametrize("model", [MODEL, PLANNING], ids=["codes", "plans"])
def test_code_by_code_is_the_same_network(model, there):
    found = one_by_one(params(model), CODES, planned(there=there), model)
    expected = whole(params(model), CODES, planned(there=there), model)
    assert expected[0].shape == (2, 12, 6) and expected[0].dtype == jnp.float32 and float(expected[0].std()) > 0.1
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-4, atol=2e-4)
    if model.plan:
        assert expected[1].shape == (2, 4, 5) and float(expected[1].std()) > 0.1
        # Absent plans are no one's business: their places are not drawn.
        for row in np.flatnonzero(there[:, 0]):
            np.testing.assert_allclose(found[1][row], expected[1][row], rtol=2e-4, atol=2e-4)


def test_a_plan_is_read_from_text_its_own_past_and_nothing_behind():
    read = lambda codes=CODES, **options: whole(params(PLANNING), codes, planned(**options), PLANNING)
    base = read()
    for place in range(4):
        codes, plan = (jnp.abs(a - b).max(axis=2) for a, b in zip(read(plan=PLAN.at[:, place].add(1) % 5), base, strict=True))
        assert np.all(plan[:, : place + 1] == 0) and np.all(plan[:, place + 1 :] > 1e-4), place
        assert np.all(codes > 1e-4) if place < 3 else np.all(codes == 0), "the last id only ends a plan"
    codes, plan = read(codes=(CODES + 1) % 6)
    np.testing.assert_array_equal(plan, base[1])
    other = planned() | text(ids=IDS.at[:, 1].set(10))
    assert np.all(jnp.abs(whole(params(PLANNING), CODES, other, PLANNING)[1] - base[1]).max(axis=2) > 1e-4)


def test_codes_do_not_depend_on_an_absent_plan():
    read = lambda plan: whole(params(PLANNING), CODES, planned(plan, THERE.at[1].set(0)), PLANNING)[0]
    difference = jnp.abs(read(PLAN) - read((PLAN + 1) % 5)).max(axis=(1, 2))
    assert difference[0] > 1e-3 and difference[1] == 0


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
        ({"plan": -1}, "plan"),
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
