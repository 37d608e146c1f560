"""Flash attention for TPUs in Pallas, forward and backward, for every mask that can be described.

Logits never leave the chip's vector memory: a tile of queries meets one tile of keys after another, and the softmax is put together
as they come (Dao et al., arXiv 2205.14135). Arrays keep the layout that projections leave, [B, L, N·K], so nothing is transposed on
the way; in a tile, keys run down and queries across, so that what there is one of per query is a row.

The mask reaches the kernel as a few integers per query and per key, and as one number per pair of tiles (`attention_tile_mask`).
The backward pass makes the gradients of queries, keys and values in one sweep with five matrix products. The gradient of one head's
queries is gathered in vector memory, so heads and examples are independent and both TensorCores of a v4 or v5p chip work (the
kernels that come with JAX and with tokamax 0.0.12 mark every axis of their backward grid as sequential, which uses one). For 24
heads of 128 and 4608 tokens without a mask, the bundles scheduled for a v5p take 0.63 ms forward and 1.57 ms backward; those of
tokamax, at the best of three sizes of tiles, 0.79 and 3.02.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxgen.nn import attention_tile_mask as tile_mask
from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.attention_tiles import LANES, Plan, Tile
from jaxgen.nn.linear import precision

LOG2_E = math.log2(math.e)
HIDDEN = -1e38  # a logit of what is not seen; finite, so that differences of two are not NaN
UNSEEN = -5e37  # a query whose largest logit is below this saw nothing
ACROSS, DOWN = ((1,), (1,)), ((1,), (0,))  # a·bᵀ and a·b


@dataclasses.dataclass(frozen=True)
class Flash:
    """The kernel, as the door and the ring call it. The ring takes partial results in float32."""

    plan: Plan

    def __call__(
        self, q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, scale: float, query_start: jax.Array | None
    ) -> jax.Array:
        """As `attention_xla.XLA`."""
        return flash(q, k, v, mask, jnp.int32(0) if query_start is None else query_start, scale, self.plan)

    def forward(self, *arrays) -> tuple[jax.Array, jax.Array]:
        return forward(*arrays, self.plan, jnp.float32)

    def backward(self, *arrays) -> tuple[jax.Array, jax.Array, jax.Array]:
        return backward(*arrays, self.plan, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def flash(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, query_start: jax.Array, scale: float, plan: Plan) -> jax.Array:
    """Softmax attention; a query that sees no key gets zeros.

    Args:
      q: [B, L, N, K]. k, v: [B, S, N, K]. Any lengths and head dimensions.
      mask: which keys each query sees.
      query_start: int32 (), index of the first query in a sequence whose keys are all here.
      scale: factor on query-key products.
      plan: sizes of tiles, and whether to interpret.

    Returns:
      [B, L, N, K] in the dtype of `q`. It and the logarithm of the softmax's denominator carry the checkpoint name "attention":
      where both are saved, rematerialization does not run the forward kernel again.
    """
    return _flash_forward(q, k, v, mask, query_start, scale, plan)[0]


def _flash_forward(q, k, v, mask, query_start, scale, plan):
    out, logsumexp = forward(q, k, v, mask, scale, query_start, jnp.int32(0), plan, q.dtype)
    out, logsumexp = checkpoint_name(out, "attention"), checkpoint_name(logsumexp, "attention")
    return out, (q, k, v, mask, query_start, out, logsumexp)


def _flash_backward(scale, plan, saved, gradient):
    q, k, v, mask, query_start, out, logsumexp = saved
    product = jnp.einsum("blnk,blnk->bnl", out.astype(jnp.float32), gradient.astype(jnp.float32))
    dq, dk, dv = backward(q, k, v, mask, scale, query_start, jnp.int32(0), logsumexp, product, gradient, plan, q.dtype)
    return dq, dk, dv, None, None


flash.defvjp(_flash_forward, _flash_backward)


def forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    scale: float,
    query_start: jax.Array,
    key_start: jax.Array,
    plan: Plan,
    dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array]:
    """As `attention_xla.forward`, with the output in `dtype`."""
    tile = plan.forward
    heads, width = q.shape[2], _padded(q.shape[3], plan.lanes)
    rows, columns = _padded(q.shape[1], tile.queries), _padded(k.shape[1], tile.keys)
    rule, prefetched, codes, code_specs = _mask(mask, query_start, key_start, k.shape[1], rows, columns, tile, True)
    of_queries, of_keys, per_query = _specs(tile, width, True)
    over = (rows // tile.queries, columns // tile.keys)
    arrays = _flat(q, rows, width), _flat(k, columns, width), _flat(v, columns, width)
    out, logsumexp = pl.pallas_call(
        functools.partial(_forward_kernel, rule=rule, tile=tile, scale=scale * LOG2_E, width=width, over=over),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(q.shape[0], heads // tile.heads, *over),
            in_specs=[of_queries, of_keys, of_keys, *code_specs],
            out_specs=[of_queries, per_query],
            scratch_shapes=[
                pltpu.VMEM((tile.heads, tile.queries, LANES), jnp.float32),
                pltpu.VMEM((tile.heads, tile.queries, LANES), jnp.float32),
                pltpu.VMEM((tile.heads, tile.queries, width), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(arrays[0].shape, dtype),
            jax.ShapeDtypeStruct((q.shape[0], heads, 1, rows), jnp.float32),
        ],
        compiler_params=_parameters(plan, "parallel", "parallel", "parallel", "arbitrary"),
        cost_estimate=_cost(2, q, k, *arrays, arrays[0]),
        interpret=plan.interpret,
        name="flash_forward",
    )(*prefetched, *arrays, *codes)
    return _unflat(out, q.shape), logsumexp[:, :, 0, : q.shape[1]]


def _forward_kernel(status, starts, q, k, v, *refs, rule, tile, scale, width, over):
    *codes, out, logsumexp, top, total, gathered = refs
    i, j = pl.program_id(2), pl.program_id(3)
    # All keys at once: the softmax is not put together from parts.
    alone = over[1] * len(list(tile.parts())) == 1

    def start():
        top[...] = jnp.full_like(top, HIDDEN)
        total[...] = jnp.zeros_like(total)
        gathered[...] = jnp.zeros_like(gathered)

    def attend(masked):
        for first, count in tile.parts():
            inner = slice(first, first + count)
            seen = tile_mask.visible(rule, codes, starts, i, j, tile, inner, 1) if masked else None
            for h in range(tile.heads):
                lanes = slice(h * width, (h + 1) * width)
                scaled = (q[0, :, lanes].astype(jnp.float32) * scale).astype(q.dtype)
                logits = _dot(scaled, k[0, inner, lanes], ACROSS)
                if masked:
                    logits = jnp.where(seen, logits, HIDDEN)
                highest = jnp.broadcast_to(jnp.max(logits, axis=1, keepdims=True), top.shape[1:])
                now = highest if alone else jnp.maximum(top[h], highest)
                weights = jnp.exp2(logits - _lanes(now, count))
                sums = jnp.broadcast_to(jnp.sum(weights, axis=1, keepdims=True), total.shape[1:])
                attended = _dot(weights.astype(v.dtype), v[0, inner, lanes], DOWN)
                if alone:
                    write(h, now, sums, attended)
                    continue
                kept = jnp.exp2(top[h] - now)
                top[h] = now
                total[h] = kept * total[h] + sums
                gathered[h] = _lanes(kept, width) * gathered[h] + attended

    def write(h, highest, sums, attended):
        seen = highest > UNSEEN
        denominator = jnp.where(seen, sums, 1.0)
        share = _lanes(jnp.where(seen, 1.0 / denominator, 0.0), width)
        out[0, :, h * width : (h + 1) * width] = (attended * share).astype(out.dtype)
        # A column of equal lanes, turned into a row.
        logsumexp[0, h] = jnp.where(seen, (highest + jnp.log2(denominator)) / LOG2_E, -jnp.inf).T[:1]

    def finish():
        for h in range(tile.heads):
            write(h, top[h], total[h], gathered[h])

    if alone and rule == tile_mask.Rule():
        attend(masked=False)
        return
    pl.when(j == 0)(start)
    _when(status, i, j, over, rule, attend)
    # Alone and skipped: zeros, as they were at the start.
    pl.when(_status(status, i, j, over) == tile_mask.SKIP if alone else j == over[1] - 1)(finish)


def backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    scale: float,
    query_start: jax.Array,
    key_start: jax.Array,
    logsumexp: jax.Array,
    product: jax.Array,
    gradient: jax.Array,
    plan: Plan,
    dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `attention_xla.backward`, in `dtype`."""
    run = functools.partial(_backward_run, scale=scale, key_start=key_start, plan=plan)
    most = max(1, plan.gathered // plan.backward.queries) * plan.backward.queries
    if q.shape[1] <= most:
        return run(q, k, v, mask, logsumexp, product, gradient, query_start=query_start, dtype=dtype)
    dqs, dk, dv = [], 0.0, 0.0
    for first in range(0, q.shape[1], most):
        some = functools.partial(jax.lax.slice_in_dim, start_index=first, limit_index=min(first + most, q.shape[1]))
        part = some(q, axis=1), k, v, mask.of_queries(functools.partial(some, axis=1))
        part += some(logsumexp, axis=2), some(product, axis=2), some(gradient, axis=1)
        dq, more_k, more_v = run(*part, query_start=query_start + first, dtype=jnp.float32)
        dqs, dk, dv = [*dqs, dq], dk + more_k, dv + more_v
    return jnp.concatenate(dqs, axis=1).astype(dtype), dk.astype(dtype), dv.astype(dtype)


def _backward_run(q, k, v, mask, logsumexp, product, gradient, *, scale, query_start, key_start, plan, dtype):
    """`backward` for as many queries as vector memory has room for the gradients of."""
    tile = plan.backward
    heads, width = q.shape[2], _padded(q.shape[3], plan.lanes)
    rows, columns = _padded(q.shape[1], tile.queries), _padded(k.shape[1], tile.keys)
    rule, prefetched, codes, code_specs = _mask(mask, query_start, key_start, k.shape[1], rows, columns, tile, False)
    of_queries, of_keys, per_query = _specs(tile, width, False)
    over = (rows // tile.queries, columns // tile.keys)
    arrays = _flat(q, rows, width), _flat(k, columns, width), _flat(v, columns, width)
    # Weights are exp(logits - logsumexp): zero for a query that sees nothing, as exp(HIDDEN - 0), and so is padding's gradient.
    logsumexp = jnp.where(jnp.isfinite(logsumexp), logsumexp, 0.0) * LOG2_E
    row = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, rows - x.shape[2])))[:, :, None]
    dq, dk, dv = pl.pallas_call(
        functools.partial(_backward_kernel, rule=rule, tile=tile, scale=scale, width=width, over=over),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(q.shape[0], heads // tile.heads, over[1], over[0]),
            in_specs=[of_queries, of_keys, of_keys, of_queries, per_query, per_query, *code_specs],
            out_specs=[
                # Written in the last sweep over queries; until then the first tile stays where it is.
                pl.BlockSpec(of_queries.block_shape, lambda b, h, j, i, *_: (b, jnp.where(j == over[1] - 1, i, 0), h)),
                of_keys,
                of_keys,
            ],
            scratch_shapes=[
                pltpu.VMEM((tile.heads, rows if over[1] > 1 else tile.queries, width), jnp.float32),
                pltpu.VMEM((tile.heads, tile.keys, width), jnp.float32),
                pltpu.VMEM((tile.heads, tile.keys, width), jnp.float32),
            ],
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, dtype) for x in arrays],
        compiler_params=_parameters(plan, "parallel", "parallel", "arbitrary", "arbitrary"),
        cost_estimate=_cost(5, q, k, *arrays, *arrays, arrays[0]),
        interpret=plan.interpret,
        name="flash_backward",
    )(*prefetched, *arrays, _flat(gradient.astype(q.dtype), rows, width), row(logsumexp), row(product), *codes)
    return _unflat(dq, q.shape), _unflat(dk, k.shape), _unflat(dv, v.shape)


def _backward_kernel(status, starts, q, k, v, gradient, logsumexp, product, *refs, rule, tile, scale, width, over):
    *codes, dq, dk, dv, for_q, for_k, for_v = refs
    j, i = pl.program_id(2), pl.program_id(3)
    mine = pl.ds(pl.multiple_of(i * tile.queries, tile.queries), tile.queries) if over[1] > 1 else slice(None)

    @pl.when(i == 0)
    def start_keys():
        for_k[...] = jnp.zeros_like(for_k)
        for_v[...] = jnp.zeros_like(for_v)

    @pl.when(j == 0)
    def start_queries():
        for_q[:, mine] = jnp.zeros((tile.heads, tile.queries, width), jnp.float32)

    def attend(masked):
        for first, count in tile.parts():
            inner = slice(first, first + count)
            seen = tile_mask.visible(rule, codes, starts, i, j, tile, inner, 0) if masked else None
            for h in range(tile.heads):
                lanes = slice(h * width, (h + 1) * width)
                scaled = (q[0, :, lanes].astype(jnp.float32) * (scale * LOG2_E)).astype(q.dtype)
                logits = _dot(k[0, inner, lanes], scaled, ACROSS)
                if masked:
                    logits = jnp.where(seen, logits, HIDDEN)
                weights = jnp.exp2(logits - logsumexp[0, h])
                for_v[h, inner] += _dot(weights.astype(v.dtype), gradient[0, :, lanes], DOWN)
                dweights = _dot(v[0, inner, lanes], gradient[0, :, lanes], ACROSS)
                dlogits = (weights * (dweights - product[0, h])).astype(q.dtype)
                for_k[h, inner] += _dot(dlogits, scaled, DOWN)
                for_q[h, mine] += _dot(dlogits.T, k[0, inner, lanes], DOWN)

    _when(status, i, j, over, rule, attend)

    @pl.when(i == over[0] - 1)
    def finish_keys():
        for h in range(tile.heads):
            lanes = slice(h * width, (h + 1) * width)
            dk[0, :, lanes] = (for_k[h] / LOG2_E).astype(dk.dtype)
            dv[0, :, lanes] = for_v[h].astype(dv.dtype)

    @pl.when(j == over[1] - 1)
    def finish_queries():
        for h in range(tile.heads):
            dq[0, :, h * width : (h + 1) * width] = (for_q[h, mine] * scale).astype(dq.dtype)


def _when(status, i, j, over, rule, attend):
    """Runs `attend` for a pair of tiles, with masking where it is needed."""
    if rule == tile_mask.Rule():
        attend(masked=False)
        return
    this = _status(status, i, j, over)
    pl.when(this == tile_mask.EVERY)(lambda: attend(masked=False))
    pl.when(this == tile_mask.SOME)(lambda: attend(masked=True))


def _status(status, i, j, over):
    """That of a pair of tiles, of this example or of one that stands for all."""
    first = pl.program_id(0) * (over[0] * over[1]) if status.shape[0] > over[0] * over[1] else 0
    return status[first + i * over[1] + j]


def _dot(a, b, contracted):
    return jax.lax.dot_general(a, b, (contracted, ((), ())), precision=precision(a), preferred_element_type=jnp.float32)


def _lanes(x, width):
    """[rows, LANES] of equal lanes as [rows, width]."""
    return x[:, :width] if width <= LANES else jnp.tile(x, (1, -(-width // LANES)))[:, :width]


def _specs(tile: Tile, width: int, keys_inside: bool) -> tuple[pl.BlockSpec, pl.BlockSpec, pl.BlockSpec]:
    """Blocks of [B, L, N·K], of [B, S, N·K] and of [B, N, 1, L], for a grid whose last axis runs over keys or over queries."""
    at = _order(keys_inside)
    return (
        pl.BlockSpec((1, tile.queries, tile.heads * width), at(lambda b, h, i, j: (b, i, h))),
        pl.BlockSpec((1, tile.keys, tile.heads * width), at(lambda b, h, i, j: (b, j, h))),
        pl.BlockSpec((1, tile.heads, 1, tile.queries), at(lambda b, h, i, j: (b, h, 0, i))),
    )


def _order(keys_inside):
    return lambda index: lambda b, h, x, y, *_: index(b, h, x, y) if keys_inside else index(b, h, y, x)


def _mask(mask, query_start, key_start, keys, rows, columns, tile, keys_inside):
    """The rule, the two prefetched arrays, arrays of codes and their blocks."""
    rule, query, key = tile_mask.codes(mask, query_start, keys, rows, columns)
    over = (rows // tile.queries, columns // tile.keys)
    status = tile_mask.status(rule, query, key, query_start, key_start, over, tile)
    prefetched = status.reshape(-1), jnp.stack([query_start, key_start])
    if query is None:
        return rule, prefetched, (), ()
    at, own = _order(keys_inside), lambda b: b if query.shape[0] > 1 else 0
    query_at, key_at = at(lambda b, h, i, j: (own(b), 0, i)), at(lambda b, h, i, j: (own(b), 0, j))
    turned = lambda index: lambda *grid: tuple(index(*grid)[n] for n in (0, 2, 1))
    # What runs down a tile comes as columns, what runs across as rows.
    if keys_inside:
        specs = (
            pl.BlockSpec((1, tile.queries, query.shape[1]), turned(query_at)),
            pl.BlockSpec((1, key.shape[1], tile.keys), key_at),
        )
        return rule, prefetched, (query.swapaxes(1, 2), key), specs
    specs = pl.BlockSpec((1, query.shape[1], tile.queries), query_at), pl.BlockSpec((1, tile.keys, key.shape[1]), turned(key_at))
    return rule, prefetched, (query, key.swapaxes(1, 2)), specs


def _padded(length: int, part: int) -> int:
    return -(-length // part) * part


def _flat(x: jax.Array, length: int, width: int) -> jax.Array:
    """[B, L, N, K] as [B, length, N·width], with zeros where there was nothing."""
    x = jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0), (0, width - x.shape[3])))
    return x.reshape(*x.shape[:2], -1)


def _unflat(x: jax.Array, shape: tuple[int, int, int, int]) -> jax.Array:
    return x.reshape(*x.shape[:2], shape[2], -1)[:, : shape[1], :, : shape[3]]


def _parameters(plan: Plan, *semantics: str) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=plan.vector_memory)


def _cost(products: int, q: jax.Array, k: jax.Array, *moved: jax.Array) -> pl.CostEstimate:
    """What the compiler's scheduler is told: FLOPs of `products` matrix products of all queries with all keys, bytes of arrays."""
    pairs = math.prod(q.shape[:3]) * k.shape[1]
    size = sum(x.size * x.dtype.itemsize for x in moved)
    return pl.CostEstimate(flops=2 * products * pairs * q.shape[3], transcendentals=pairs, bytes_accessed=size)
