import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup
from jaxgen.nn.embeddings import NgramEmbedding, NgramLayer, Table, TimeEmbedding, position_sinusoid, sinusoid

SCALE = mup.Scaling(base_width=8).at(8)


def filled(module, *inputs):
    """Parameters of a module, drawn at random."""
    draws = np.random.default_rng(0)
    boxed = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    values = jax.tree.map(lambda b: jnp.asarray(draws.normal(size=b.value.shape), jnp.float32), boxed, is_leaf=mup.is_parameter)
    return {"params": values}


def test_products_of_sinusoids_depend_on_the_difference_of_their_arguments():
    def product(a, b):
        return float(sinusoid(jnp.float32(a), 32) @ sinusoid(jnp.float32(b), 32))

    assert product(3.0, 5.0) == pytest.approx(product(13.0, 15.0), abs=1e-4)
    assert product(4.0, 4.0) == pytest.approx(16.0, abs=1e-4)


def test_a_sinusoid_starts_as_ones_and_zeros_and_turns_from_one_radian_to_a_ten_thousandth():
    np.testing.assert_array_equal(sinusoid(jnp.zeros(1), 8)[0], [1, 1, 1, 1, 0, 0, 0, 0])
    slopes = np.asarray(sinusoid(jnp.float32(1e-3), 2 * 1000)[1000:], np.float64) / 1e-3
    assert slopes[0] == pytest.approx(1, rel=1e-4) and slopes[-1] == pytest.approx(1e-4, rel=0.02)
    np.testing.assert_allclose(slopes[1:] / slopes[:-1], (1e-4) ** (1 / 1000), rtol=1e-4)


def test_position_embeddings_give_each_axis_its_own_share():
    both = position_sinusoid(jnp.asarray([[2.0, 5.0]]), 16)
    np.testing.assert_array_equal(both[0, :8], position_sinusoid(jnp.asarray([[2.0, -1.0]]), 16)[0, :8])
    np.testing.assert_array_equal(both[0, 8:], position_sinusoid(jnp.asarray([[7.0, 5.0]]), 16)[0, 8:])
    np.testing.assert_array_equal(both[0, 8:], sinusoid(jnp.float32(5.0), 8))


def test_time_embedding_is_a_two_layer_network_of_a_thousand_t():
    module = TimeEmbedding(8, SCALE)
    t = jnp.asarray([0.0, 0.25, 1.0])
    variables = filled(module, t)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    features = np.asarray(sinusoid(1000 * t, 256), np.float64)
    hidden = features @ p["in"]["kernel"] + p["in"]["bias"]
    expected = (hidden / (1 + np.exp(-hidden))) @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(module.apply(variables, t), expected, rtol=1e-4, atol=1e-4)


def test_the_frequencies_of_time_follow_factor_and_period():
    module = TimeEmbedding(8, SCALE, factor=1.0, max_period=10.0)
    t = jnp.asarray([0.0, 0.25, 1.0])
    variables = filled(module, t)
    # The first layer alone: its kernel reads the features off.
    angles = np.asarray(t, np.float64)[:, None] * 10.0 ** (-np.arange(128) / 128)
    assert angles[-1, 0] == 1 and angles[-1, -1] == pytest.approx(10 ** (-127 / 128))
    _, kept = module.apply(variables, t, capture_intermediates=True, mutable=["intermediates"])
    features = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    expected = features @ np.asarray(variables["params"]["in"]["kernel"]) + np.asarray(variables["params"]["in"]["bias"])
    np.testing.assert_allclose(kept["intermediates"]["in"]["__call__"][0], expected, atol=2e-5)
    np.testing.assert_allclose(sinusoid(t, 256, 10.0), features, atol=1e-6)


def test_a_time_embedding_of_another_factor_is_that_of_another_time():
    t = jnp.asarray([0.0, 0.25, 1.0])
    variables = filled(TimeEmbedding(8, SCALE), t)
    found = TimeEmbedding(8, SCALE, factor=10.0).apply(variables, 100 * t)
    np.testing.assert_allclose(found, TimeEmbedding(8, SCALE).apply(variables, t), rtol=1e-5, atol=1e-5)


def test_time_embedding_stays_float32_and_tells_near_times_apart():
    module = TimeEmbedding(8, SCALE)
    t = jnp.asarray([0.5, 0.501])
    embedded = module.apply(filled(module, t), t)
    assert embedded.dtype == jnp.float32
    assert float(jnp.max(jnp.abs(embedded[0] - embedded[1]))) > 0.1


def test_a_table_looks_up_rows():
    table = Table("vocabulary", 5, 8, SCALE)
    ids = jnp.asarray([[4, 0], [2, 2]])
    variables = filled(table, ids)
    np.testing.assert_array_equal(table.apply(variables, ids), np.asarray(variables["params"]["table"])[np.asarray(ids)])


def test_an_ngram_is_the_sum_over_neighbours_of_the_same_segment():
    rows, width, draws = 9, 8, np.random.default_rng(1)
    ids, segments = draws.integers(0, rows, (2, 7)), np.array([[1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 0, 0]])
    module = NgramEmbedding(rows, width, SCALE)
    variables = filled(module, jnp.asarray(ids), jnp.asarray(segments))
    out = module.apply(variables, jnp.asarray(ids), jnp.asarray(segments))
    tables, kernel = np.asarray(variables["params"]["tables"]), np.asarray(variables["params"]["out"]["kernel"])
    for b, s in np.ndindex(2, 7):
        total = np.zeros(width)
        for place, other in enumerate(range(s - 2, s + 3)):
            if 0 <= other < 7 and segments[b, other] == segments[b, s] > 0:
                total += tables[place, ids[b, other]]
        expected = total / (1 + np.exp(-total)) @ kernel + np.asarray(variables["params"]["out"]["bias"])
        np.testing.assert_allclose(out[b, s], expected, atol=1e-5)


def test_a_layer_over_ngrams_adds_what_the_words_around_say_within_a_segment():
    width, draws = 8, np.random.default_rng(2)
    x, segments = draws.normal(size=(2, 7, width)), np.array([[1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 0, 0]])
    module = NgramLayer(width, SCALE)
    variables = filled(module, jnp.asarray(x, jnp.float32), jnp.asarray(segments))
    out = module.apply(variables, jnp.asarray(x, jnp.float32), jnp.asarray(segments))
    kernel, gain = np.asarray(variables["params"]["map"]["kernel"]), np.asarray(variables["params"]["norm"]["gain"])
    normed = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * gain
    for b, s in np.ndindex(2, 7):
        total = np.zeros(width)
        for place, other in enumerate(range(s - 2, s + 3)):
            if 0 <= other < 7 and segments[b, other] == segments[b, s] > 0:
                total += normed[b, other] @ kernel[place]
        np.testing.assert_allclose(out[b, s], x[b, s] + np.maximum(total, 0) ** 2, rtol=1e-4, atol=1e-4)
