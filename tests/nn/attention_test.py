import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import types
from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import BlockKind, Blocks, Mask
from jaxgen.parallel import mesh as meshes

B, L, S, N, K = 2, 6, 6, 3, 4
QUERIES = np.array([[1, 1, 2, 2, 2, 0], [3, 3, 3, 1, 0, 0]], np.int32)
KEYS = np.array([[1, 2, 2, 1, 0, 0], [1, 1, 3, 3, 3, 0]], np.int32)


def heads(length=L, seed=0, dtype=np.float32):
    draws = np.random.default_rng(seed)
    return [jnp.asarray(draws.normal(size=(B, size, N, K)), dtype) for size in (length, S, S)]


def reference(q, k, v, visible, scale):
    """Softmax attention in float64 by loops over rows and heads; a query that sees nothing gets zeros."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for b in range(q.shape[0]):
        for n in range(q.shape[2]):
            for i in range(q.shape[1]):
                seen = [j for j in range(k.shape[1]) if visible(b, i, j)]
                if seen:
                    logits = np.array([scale * q[b, i, n] @ k[b, j, n] for j in seen])
                    weights = np.exp(logits - logits.max())
                    out[b, i, n] = (weights / weights.sum()) @ v[b, seen, n]
    return out


def segments(b, i, j):
    return QUERIES[b, i] == KEYS[b, j] and KEYS[b, j] != 0


# Interleaved: two tokens of text, two of a picture with noise, which nothing later sees, and two of text or of a clean picture.
NUMBERS = np.array([[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 4, 4]], np.int32)
KINDS = np.array([[0, 0, 2, 2, 0, 0], [0, 0, 2, 2, 1, 1]], np.int32)
TABLE = (BlockKind(causal=True, sees=(0, 1)), BlockKind(causal=False, sees=(0, 1)), BlockKind(causal=False, sees=(0,)))


def interleaved(b, i, j):
    if NUMBERS[b, i] == NUMBERS[b, j]:
        return j <= i or KINDS[b, i] != 0
    return j < i and KINDS[b, j] in ([0, 1], [0, 1], [0])[KINDS[b, i]]


BLOCKS = Blocks(jnp.asarray(NUMBERS), jnp.asarray(KINDS))
INTERLEAVED = {"query_blocks": BLOCKS, "key_blocks": BLOCKS, "kinds": TABLE}
SEGMENTS = {"query_segments": jnp.asarray(QUERIES), "key_segments": jnp.asarray(KEYS)}
MASKS = {
    "none": (Mask(), lambda b, i, j: True),
    "causal": (Mask(causal=True), lambda b, i, j: j <= i),
    "window": (Mask(window=2), lambda b, i, j: abs(i - j) < 2),
    "segments": (Mask(**SEGMENTS), segments),
    "causal_window": (Mask(causal=True, window=3), lambda b, i, j: 0 <= i - j < 3),
    "causal_segments": (Mask(**SEGMENTS, causal=True), lambda b, i, j: j <= i and segments(b, i, j)),
    "window_segments": (Mask(**SEGMENTS, window=3), lambda b, i, j: abs(i - j) < 3 and segments(b, i, j)),
    "blocks": (Mask(**INTERLEAVED), interleaved),
    "block_segments": (Mask(**SEGMENTS, **INTERLEAVED), lambda b, i, j: segments(b, i, j) and interleaved(b, i, j)),
    "all": (Mask(**SEGMENTS, causal=True, window=3), lambda b, i, j: 0 <= i - j < 3 and segments(b, i, j)),
}


@pytest.mark.parametrize("mask, visible", MASKS.values(), ids=MASKS)
def test_every_mask_agrees_with_a_dense_reference_in_float64(mask, visible):
    q, k, v = heads()
    np.testing.assert_allclose(attention(q, k, v, mask, 0.7), reference(q, k, v, visible, 0.7), atol=1e-5)


def test_queries_and_keys_may_differ_in_number():
    q, k, v = heads(length=2)
    np.testing.assert_allclose(attention(q, k, v, Mask(), 0.5), reference(q, k, v, lambda *_: True, 0.5), atol=1e-5)


def test_padded_queries_get_zeros_and_nothing_they_see_gets_gradient():
    q, k, v = heads()
    mask = Mask(**SEGMENTS)
    out = attention(q, k, v, mask, 1.0)
    np.testing.assert_array_equal(np.asarray(out)[QUERIES == 0], 0)
    gradients = jax.grad(lambda *x: attention(*x, mask, 1.0).sum(), argnums=(0, 1, 2))(q, k, v)
    assert all(np.all(np.isfinite(g)) for g in gradients)
    np.testing.assert_array_equal(np.asarray(gradients[0])[QUERIES == 0], 0)
    np.testing.assert_array_equal(np.asarray(gradients[1])[KEYS == 0], 0)
    np.testing.assert_array_equal(np.asarray(gradients[2])[KEYS == 0], 0)


@pytest.mark.parametrize("mask, reach", [(Mask(causal=True), L), (Mask(causal=True, window=2), 2)], ids=["causal", "window"])
def test_a_query_depends_on_exactly_the_keys_it_may_see(mask, reach):
    q, k, v = heads()
    jacobian = jax.jacobian(lambda v: attention(q, k, v, mask, 1.0).sum(axis=(0, 2, 3)))(v)  # [L, B, S, N, K]
    depends = np.abs(np.asarray(jacobian)).sum(axis=(1, 3, 4)) > 0
    offset = np.arange(L)[:, None] - np.arange(S)[None, :]
    np.testing.assert_array_equal(depends, (offset >= 0) & (offset < reach))


def test_bfloat16_inputs_keep_a_float32_softmax():
    # 2048 keys of weight 1/2048 each and one a little heavier: in bfloat16 the sum of exponentials would stop growing at 256.
    count = 2048
    q, k = jnp.ones((1, 1, 1, 1), jnp.bfloat16), jnp.zeros((1, count, 1, 1), jnp.bfloat16)
    v = jnp.ones((1, count, 1, 1), jnp.bfloat16)
    out = attention(q, k, v, Mask(), 1.0)
    assert out.dtype == jnp.bfloat16
    assert float(out[0, 0, 0, 0]) == pytest.approx(1.0, rel=0.01)


def test_bfloat16_logits_are_not_rounded():
    # Two keys whose products with the query, 256 and 257, are one number in bfloat16.
    q = jnp.asarray([16.0, 1.0], jnp.bfloat16).reshape(1, 1, 1, 2)
    k = jnp.asarray([[16.0, 0.0], [16.0, 1.0]], jnp.bfloat16).reshape(1, 2, 1, 2)
    v = jnp.asarray([[0.0, 0.0], [1.0, 1.0]], jnp.bfloat16).reshape(1, 2, 1, 2)
    out = attention(q, k, v, Mask(), 1.0)
    assert float(out[0, 0, 0, 0]) == pytest.approx(1 / (1 + np.exp(-1)), rel=0.01)


def test_text_is_causal_a_picture_sees_itself_and_noise_is_seen_by_no_later_block():
    visible = np.asarray(Mask(**INTERLEAVED).dense(L, L))[0]
    np.testing.assert_array_equal(
        visible.astype(int),
        [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 1, 1]],
    )


def test_a_part_of_the_sequence_has_its_part_of_the_mask():
    for mask, _ in MASKS.values():
        whole = mask.dense(L, L)
        part = mask.of_queries(lambda x: x[:, 2:]).of_keys(lambda x: x[:, 3:]).dense(L - 2, L - 3, 2, 3)
        np.testing.assert_array_equal(part, whole if whole is None else whole[:, 2:, 3:])


@pytest.mark.parametrize(
    "axes, option",
    [({"tensor": 2}, "mesh.tensor"), ({"context": 4}, "mesh.context")],
    ids=["heads", "tokens"],
)
def test_heads_and_tokens_that_do_not_divide_over_the_mesh_are_refused(axes, option):
    q, k, v = heads()
    with jax.set_mesh(meshes.build(meshes.MeshShape(data=1, **axes), jax.devices())):
        with pytest.raises(types.BadInput) as error:
            jax.eval_shape(lambda *x: attention(*x, Mask(), 1.0), q, k, v)
    assert (error.value.option, error.value.found) == (option, next(iter(axes.values())))
