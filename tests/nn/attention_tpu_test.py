"""The TPU's flash kernel, interpreted, against plain attention in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from jaxgen.nn import attention_tile_mask as tile_mask
from jaxgen.nn.attention_mask import BlockKind, Blocks, Mask
from jaxgen.nn.attention_tiles import Plan, Tile
from jaxgen.nn.attention_tpu import Flash
from jaxgen.nn.attention_xla import XLA
from jaxgen.nn.stack import REMAT

B, L, N = 2, 250, 2
DRAWS = np.random.default_rng(0)
TABLE = (BlockKind(causal=True, sees=(0, 1)), BlockKind(causal=False, sees=(0, 1)), BlockKind(causal=False, sees=(0,)))


def mask_of(length=L, segments=False, blocks=False, **static):
    """A mask over one sequence: a few segments, the last of them padding, and blocks of three kinds."""
    draws = np.random.default_rng(1)
    owner = jnp.asarray(np.sort(draws.integers(1, 5, (B, length)), axis=1) % 4, jnp.int32)
    number = np.cumsum(draws.random((B, length)) < 0.02, axis=1)
    described = Blocks(jnp.asarray(number, jnp.int32), jnp.asarray(number * 7 % 3, jnp.int32))
    arrays = {"query_segments": owner, "key_segments": owner} if segments else {}
    arrays |= {"query_blocks": described, "key_blocks": described, "kinds": TABLE} if blocks else {}
    return Mask(**arrays, **static)


MASKS = {
    "none": mask_of(),
    "causal": mask_of(causal=True),
    "window": mask_of(window=40),
    "causal_window": mask_of(causal=True, window=140),
    "segments": mask_of(segments=True),
    "causal_segments": mask_of(segments=True, causal=True),
    "blocks": mask_of(blocks=True),
    "all": mask_of(segments=True, blocks=True, causal=True, window=140),
}


def draw(*shape, dtype=np.float32):
    return jnp.asarray(DRAWS.normal(size=shape), dtype)


def plan(heads=1, queries=128, keys=128, compute=128, gathered=10_000):
    tile = Tile(heads, queries, keys, compute)
    return Plan(tile, tile, 1, gathered, interpret=True)


def with_gradients(kernel, mask, q, k, v, weight):
    """Output and gradients of a weighted sum of it."""

    def both(*arrays):
        out, back = jax.vjp(lambda *x: kernel(*x, mask, q.shape[-1] ** -0.5, None), *arrays)
        return out, back(weight)

    return jax.tree.leaves(jax.jit(both)(q, k, v))


def agree(kernel, mask, q, k, v, tolerance=3e-5):
    weight = draw(*q.shape)
    for found, wanted in zip(
        with_gradients(kernel, mask, q, k, v, weight), with_gradients(XLA(), mask, q, k, v, weight), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=tolerance)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_every_mask_agrees_with_plain_attention_in_value_and_gradient(mask):
    agree(Flash(plan()), mask, draw(B, L, N, 16), draw(B, L, N, 16), draw(B, L, N, 16))


@pytest.mark.parametrize("name", ["none", "causal", "segments", "all"])
def test_all_keys_at_once_agree_too(name):
    q, k, v = draw(B, L, N, 16), draw(B, L, N, 16), draw(B, L, N, 16)
    agree(Flash(plan(heads=2, keys=256, compute=256)), MASKS[name], q, k, v)


def test_a_tile_of_queries_that_sees_nothing_gets_zeros():
    owner = jnp.zeros((B, 128), jnp.int32).at[0].set(1)
    q, k, v = (draw(B, 128, N, 8) for _ in range(3))
    for found in with_gradients(Flash(plan()), Mask(owner, owner), q, k, v, draw(B, 128, N, 8)):
        np.testing.assert_array_equal(np.asarray(found)[1], 0)
        assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "queries, keys, width, tiles",
    [
        pytest.param(100, 100, 72, plan(), id="an odd length and head dimension"),
        pytest.param(130, 300, 8, plan(keys=384, compute=256), id="more keys than queries, taken in uneven parts"),
        pytest.param(300, 100, 160, plan(queries=384), id="more queries than keys, wide heads"),
        pytest.param(128, 256, 8, plan(heads=2), id="two heads at once"),
    ],
)
def test_any_length_and_head_dimension_is_taken(queries, keys, width, tiles):
    agree(Flash(tiles), Mask(), draw(B, queries, N, width), draw(B, keys, N, width), draw(B, keys, N, width))


@pytest.mark.parametrize("mask", [MASKS["all"], MASKS["none"]], ids=["all", "none"])
def test_gradients_of_long_sequences_are_made_in_several_runs(mask):
    agree(Flash(plan(gathered=128)), mask, draw(B, L, N, 8), draw(B, L, N, 8), draw(B, L, N, 8))


def test_queries_that_see_nothing_get_zeros_and_no_gradient():
    mask = MASKS["segments"]
    q, k, v = (draw(B, L, N, 8) for _ in range(3))
    padding = np.asarray(mask.query_segments) == 0
    assert padding.any()
    out, dq, dk, dv = with_gradients(Flash(plan()), mask, q, k, v, draw(B, L, N, 8))
    for found in (out, dq, dk, dv):
        np.testing.assert_array_equal(np.asarray(found)[padding], 0)


def test_bfloat16_is_as_near_to_float32_as_plain_attention_in_bfloat16():
    # The largest of a few thousand rounding errors is a matter of luck, their norm is not.
    q, k, v, weight = (draw(2, 128, 4, 64, dtype=jnp.bfloat16) for _ in range(4))
    exact = with_gradients(XLA(), Mask(), *(x.astype(jnp.float32) for x in (q, k, v, weight)))
    error = lambda kernel: [
        float(jnp.linalg.norm(found - wanted)) for found, wanted in zip(with_gradients(kernel, Mask(), q, k, v, weight), exact)
    ]
    assert all(mine < 1.5 * plain for mine, plain in zip(error(Flash(plan())), error(XLA()), strict=True))


@functools.partial(jax.jit, static_argnums=1)
def status_of(mask, length, query_start=0, key_start=0):
    """Status of pairs of 128 × 128 tokens of a sequence of this length, padded to whole tiles."""
    padded = -(-length // 128) * 128
    rule, query, key = tile_mask.codes(mask, query_start, length, padded, padded)
    return tile_mask.status(rule, query, key, query_start, key_start, (padded // 128, padded // 128), Tile(1, 128, 128, 128))


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_tile_is_skipped_or_left_unmasked_only_where_the_dense_mask_says_so(mask):
    for query_start, key_start in ((0, 0), (256, 0), (0, 384)):
        status = np.asarray(status_of(mask, L, query_start, key_start))
        dense = mask.dense(L, L, query_start, key_start)
        dense = np.ones((1, L, L), bool) if dense is None else np.asarray(dense)
        for b, i, j in np.ndindex(*status.shape):
            # Padding is no key, and what a padded query is given is thrown away.
            seen = dense[b, i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128]
            assert status[b, i, j] != tile_mask.SKIP or not seen.any()
            assert status[b, i, j] != tile_mask.EVERY or (seen.all() and (j + 1) * 128 <= L)


def test_tiles_are_skipped_and_left_unmasked():
    some, every, skip = tile_mask.SOME, tile_mask.EVERY, tile_mask.SKIP
    length = 512
    assert (np.asarray(status_of(Mask(), length)) == every).all()
    lower = np.tril(np.full((4, 4), every), -1) + np.diag([some] * 4)
    np.testing.assert_array_equal(status_of(Mask(causal=True), length)[0], lower)
    assert np.asarray(status_of(Mask(window=100), length))[0, 0].tolist() == [some, some, skip, skip]
    halves = jnp.repeat(jnp.asarray([[1, 2]], jnp.int32), length // 2, axis=1)
    apart = np.kron(np.eye(2, dtype=int), np.full((2, 2), every))
    np.testing.assert_array_equal(status_of(Mask(halves, halves), length)[0], apart)
    # A picture that later blocks see, and one that they do not.
    blocks = Blocks(halves, jnp.zeros_like(halves))
    shown, hidden = (Mask(query_blocks=blocks, key_blocks=blocks, kinds=(BlockKind(False, sees),)) for sees in ((0,), ()))
    np.testing.assert_array_equal(status_of(shown, length)[0], apart + np.kron([[0, 0], [1, 0]], np.full((2, 2), every)))
    assert np.asarray(status_of(hidden, length))[0, 0].tolist() == [every, every, skip, skip]


def kernels(jaxpr):
    """Kernels whose result something uses: JAX keeps the others in its programs, and compilers drop them."""
    variables = lambda found: {variable for variable in found if isinstance(variable, core.Var)}
    used = variables(jaxpr.outvars) | variables(x for equation in jaxpr.eqns for x in equation.invars)
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            count += bool(variables(equation.outvars) & used)
        else:
            count += sum(kernels(inner) for inner in core.jaxprs_in_params(equation.params))
    return count


@pytest.mark.parametrize("policy, count", [("none", 2), ("names", 2), ("full", 3)])
def test_saved_under_its_name_the_forward_kernel_is_not_run_again(policy, count):
    def layer(x):
        return jnp.sum(jnp.sin(Flash(plan())(x, x, x, Mask(), 0.3, None)) ** 2)

    wrapped = layer if REMAT[policy] is None else functools.partial(jax.checkpoint, policy=REMAT[policy])(layer)
    assert kernels(jax.make_jaxpr(jax.grad(wrapped))(draw(1, 128, 1, 8)).jaxpr) == count
