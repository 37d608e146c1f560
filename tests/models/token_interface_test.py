"""What every generator owes its callers: packing, padding, absent conditions and places are data."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.models.ddt import DDT
from jaxgen.models.dit import DiT
from jaxgen.models.mmdit import MMDiT
from jaxgen.models.pixart import PixArt
from jaxgen.models.uvit import UViT

SCALING = mup.Scaling(base_width=8)
MODELS = {
    "dit": DiT(width=16, depth=2, head_dim=8, classes=9, scaling=SCALING),
    "ddt": DDT(width=16, depth=2, encoder_depth=1, head_dim=8, classes=9, scaling=SCALING),
    "mmdit": MMDiT(width=16, depth=2, head_dim=8, vocabulary=11, text_length=5, scaling=SCALING),
    "mmdit_single": MMDiT(
        width=16, depth=1, single_depth=2, head_dim=8, vocabulary=11, text_length=5, guidance=2.0, scaling=SCALING
    ),
    "mmdit_features": MMDiT(width=16, depth=2, head_dim=8, vocabulary=0, text_features=3, text_length=5, scaling=SCALING),
    "uvit": UViT(width=16, depth=2, head_dim=8, grid=(4, 3), classes=9, convolution=False, scaling=SCALING),
    "uvit_time": UViT(width=16, depth=2, head_dim=8, grid=(4, 3), classes=9, convolution=False, time_network=True, scaling=SCALING),
    "pixart": PixArt(width=16, depth=2, head_dim=8, text_features=3, text_length=5, scaling=SCALING),
}
LABELS = tuple(name for name, model in MODELS.items() if "label" in model.streams)
IDS = tuple(name for name, model in MODELS.items() if getattr(model, "vocabulary", 0))


@dataclasses.dataclass
class Row:
    """One row of examples; `join` packs two into one, the second as segment 2."""

    values: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    t: np.ndarray
    condition: np.ndarray
    owners: np.ndarray

    def join(self, other):
        fields = [np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in dataclasses.fields(self)]
        row = Row(*fields)
        for name in ("segments", "owners"):
            end, whole = len(getattr(self, name)), getattr(row, name)
            whole[end:] = np.where(whole[end:] > 0, 2, 0)
        return row


def example(name, seed, length, entries):
    draws = np.random.default_rng(seed)
    if name in LABELS:
        condition = draws.integers(0, 9, entries).astype(np.int32)
    elif name in IDS:
        condition = draws.integers(0, 11, entries).astype(np.int32)
    else:
        condition = draws.normal(size=(entries, 3)).astype(np.float32)
    return Row(
        values=draws.normal(size=(length, 4)).astype(np.float32),
        positions=places(name, draws, length),
        segments=np.ones(length, np.int32),
        t=np.full(length, draws.uniform(), np.float32),
        condition=condition,
        owners=np.ones(entries, np.int32),
    )


def places(name, draws, length):
    """Coordinates of tokens; on the grid of a model that has a table of places."""
    positions = draws.normal(size=(length, 2)).astype(np.float32)
    if hasattr(MODELS[name], "grid"):
        rows, columns = MODELS[name].grid
        cells = draws.permutation(rows * columns)[:length]
        positions = np.stack([cells // columns - rows / 2, cells % columns - columns / 2], axis=-1).astype(np.float32)
    return positions


def padding(name, length, entries):
    """Tokens and entries of segment 0, with values far from all others."""
    row = example(name, 99, length, entries)
    row = dataclasses.replace(row, values=50 + row.values, segments=0 * row.segments, owners=0 * row.owners)
    return dataclasses.replace(row, condition=row.condition + row.condition.dtype.type(40))


@functools.cache
def params(name):
    """Random parameters, so that nothing hides behind what starts at zero."""
    draws = np.random.default_rng(0)
    module = MODELS[name]
    boxed = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments(name, example(name, 0, 4, 1)))["params"])

    def value(box):
        spread = 1.0 if box.kind in ("gain", "embedding") else 0.4
        return jnp.asarray(spread * draws.normal(size=box.value.shape) + (box.kind == "gain"), jnp.float32)

    return jax.tree.map(value, boxed, is_leaf=mup.is_parameter)


def arguments(name, row, t=None, compute=jnp.float32):
    stream = types.Condition(jnp.asarray(row.condition)[None], jnp.asarray(row.owners)[None])
    tokens = types.Tokens(*(jnp.asarray(x)[None] for x in (row.values, row.positions, row.segments)))
    t = jnp.asarray(row.t)[None] if t is None else t
    return tokens.replace(values=tokens.values.astype(compute)), t, {MODELS[name].streams[0]: stream}


@functools.cache
def compiled(name):
    return jax.jit(lambda params, *inputs: MODELS[name].apply({"params": params}, *inputs))


def run(name, row, **options):
    return np.asarray(compiled(name)(params(name), *arguments(name, row, **options)))[0]


def close(found, expected, tolerance=2e-5):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def differ(found, other):
    return float(np.abs(found - other).max()) > 1e-2


# What these do that the others do not, is tested with each model's own file.
RARE = ("mmdit_features", "uvit_time")
each_model = pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in RARE else n for n in MODELS])


def pair(name):
    return example(name, 1, 6, 3), example(name, 2, 4, 2)


@each_model
def test_two_examples_in_one_row_are_what_they_are_alone(name):
    first, second = pair(name)
    packed = run(name, first.join(second))
    close(packed[:6], run(name, first))
    close(packed[6:], run(name, second))


@each_model
def test_padding_changes_nothing(name):
    first, _ = pair(name)
    expected = run(name, first)
    padded = run(name, first.join(padding(name, 4, 2)))
    assert np.all(np.isfinite(padded))
    close(padded[:6], expected)


@each_model
def test_one_time_for_a_row_is_that_time_for_each_of_its_tokens(name):
    first, _ = pair(name)
    close(run(name, first, t=jnp.asarray(first.t[:1])), run(name, first))


@each_model
def test_each_example_of_a_row_has_a_time_of_its_own(name):
    first, second = pair(name)
    later = dataclasses.replace(second, t=second.t * 0.5)
    packed, changed = run(name, first.join(second)), run(name, first.join(later))
    close(changed[:6], packed[:6])
    assert differ(changed[6:], packed[6:])


@each_model
def test_the_condition_of_an_example_matters_to_it_alone(name):
    first, second = pair(name)
    other = dataclasses.replace(second, condition=(second.condition + second.condition.dtype.type(1)))
    packed, changed = run(name, first.join(second)), run(name, first.join(other))
    close(changed[:6], packed[:6])
    assert differ(changed[6:], packed[6:])


@each_model
def test_an_absent_condition_is_the_same_whatever_its_values_and_differs_from_a_present_one(name):
    first, _ = pair(name)
    absent = dataclasses.replace(first, owners=0 * first.owners)
    other = dataclasses.replace(absent, condition=padding(name, 1, 3).condition)
    np.testing.assert_array_equal(run(name, other), run(name, absent))
    assert differ(run(name, absent), run(name, first))


@each_model
def test_one_example_of_a_packed_row_may_have_no_condition(name):
    first, second = pair(name)
    absent = dataclasses.replace(second, owners=0 * second.owners)
    packed = run(name, first.join(absent))
    close(packed[:6], run(name, first))
    close(packed[6:], run(name, absent))


NULLS = [
    ("dit", "labels", slice(9, 10)),
    ("ddt", "labels", slice(9, 10)),
    ("mmdit", "null", slice(1)),
    ("uvit", "labels", slice(9, 10)),
    ("pixart", "null", slice(5)),
]


@pytest.mark.parametrize("name, table, rows", NULLS, ids=[name for name, *_ in NULLS])
def test_the_learned_null_gets_gradient_from_examples_without_condition_and_only_from_them(name, table, rows):
    first, _ = pair(name)
    absent = dataclasses.replace(first, owners=0 * first.owners)
    gradient = jax.jit(jax.grad(lambda p, *inputs: jnp.sum(MODELS[name].apply({"params": p}, *inputs) ** 2)))
    for row, expected in ((absent, True), (first, False)):
        found = gradient(params(name), *arguments(name, row))[table]["table"][rows]
        assert bool(jnp.any(found != 0)) == expected


@each_model
def test_tokens_have_no_order_but_their_positions(name):
    first, _ = pair(name)
    expected = run(name, first)
    order = np.array([3, 0, 5, 1, 4, 2])
    moved = dataclasses.replace(first, values=first.values[order], positions=first.positions[order])
    close(run(name, moved), expected[order])
    assert differ(run(name, dataclasses.replace(first, positions=first.positions[order])), expected)


@each_model
def test_bfloat16_gives_bfloat16_near_the_float32_result(name):
    first, _ = pair(name)
    expected, found = run(name, first), run(name, first, compute=jnp.bfloat16)
    assert found.dtype == jnp.bfloat16
    # Eight bits of mantissa, 2^-8 = 0.4 %, through some ten products.
    error = found.astype(np.float32) - expected
    assert np.sqrt(np.mean(error**2)) < 0.05 * np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("name", ["mmdit", "mmdit_single", "mmdit_features"])
def test_the_order_of_the_text_matters(name):
    first, _ = pair(name)
    assert differ(run(name, dataclasses.replace(first, condition=first.condition[::-1].copy())), run(name, first))


@pytest.mark.parametrize("name", [*LABELS, "pixart"])
def test_labels_and_features_that_bring_their_own_order_are_read_without_one(name):
    first, _ = pair(name)
    close(run(name, dataclasses.replace(first, condition=first.condition[::-1].copy())), run(name, first))
