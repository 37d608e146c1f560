import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import mup
from jaxgen.nn.norms import RMSNorm
from jaxgen.nn.projections import CrossHeads, FromHeads, QueryKeyValue
from jaxgen.nn.rope import rotate

SCALE = mup.Scaling(base_width=8).at(8)
DRAWS = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(DRAWS.normal(size=shape), jnp.float32)


X, POSITIONS = draw(2, 3, 8), draw(2, 3, 2)
PARAMS = {
    "qkv": {"kernel": draw(8, 3, 2, 4)},
    "query_norm": {"gain": draw(4)},
    "key_norm": {"gain": draw(4)},
}


def plain():
    return np.einsum("bld,dcnk->cblnk", X, PARAMS["qkv"]["kernel"])


def test_query_key_and_value_are_three_maps_without_bias():
    module = QueryKeyValue(8, 4, SCALE)
    assert set(jax.eval_shape(module.init, jax.random.key(0), X)["params"]["qkv"]) == {"kernel"}
    for found, expected in zip(module.apply({"params": PARAMS}, X), plain()):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_biases_are_added_where_they_are_asked_for():
    bias = draw(3, 2, 4)
    found = QueryKeyValue(8, 4, SCALE, bias=True).apply({"params": {"qkv": {"kernel": PARAMS["qkv"]["kernel"], "bias": bias}}}, X)
    for one, expected, shift in zip(found, plain(), bias):
        np.testing.assert_allclose(one, expected + shift, atol=1e-5)


def test_cross_heads_take_queries_from_one_sequence_and_the_rest_from_the_other():
    y, query, both = draw(2, 5, 8), draw(8, 2, 4), draw(8, 2, 2, 4)
    q, k, v = CrossHeads(8, 4, SCALE).apply({"params": {"query": {"kernel": query}, "key_value": {"kernel": both}}}, X, y)
    np.testing.assert_allclose(q, np.einsum("bld,dnk->blnk", X, query), atol=1e-5)
    np.testing.assert_allclose(np.stack([k, v]), np.einsum("bsd,dcnk->cbsnk", y, both), atol=1e-5)


def test_queries_and_keys_are_normalized_before_they_are_turned_and_values_are_neither():
    q, k, v = QueryKeyValue(8, 4, SCALE, qk_norm=True).apply({"params": PARAMS}, X, POSITIONS)
    raw = plain()
    for found, heads, name in ((q, raw[0], "query_norm"), (k, raw[1], "key_norm")):
        normed = RMSNorm(("kv", 4), SCALE).apply({"params": PARAMS[name]}, jnp.asarray(heads))
        np.testing.assert_allclose(found, rotate(normed, POSITIONS), atol=1e-5)
    np.testing.assert_allclose(v, raw[2], atol=1e-5)


def test_heads_return_to_the_width_with_a_bias():
    x, kernel, bias = draw(2, 3, 2, 4), draw(2, 4, 8), draw(8)
    found = FromHeads(8, 4, SCALE).apply({"params": {"out": {"kernel": kernel, "bias": bias}}}, x)
    np.testing.assert_allclose(found, np.einsum("blnk,nkd->bld", x, kernel) + np.asarray(bias), atol=1e-5)
