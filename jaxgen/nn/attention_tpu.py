"""Flash attention for TPUs in Pallas, forward and backward, for every mask that can be described.

Logits never leave the chip's vector memory: a tile of queries meets one tile of keys after another, and the softmax is put together
as they come (Dao et al., arXiv 2205.14135). Heads come before tokens here, [B, N, L, K], so that a head is one matrix.

The mask reaches the kernel as a few integers per query and per key (`_codes`), and as one number per pair of tiles (`_status`): no
query of the tile sees a key of the other, and the pair is skipped; every one does, and nothing is masked; or some do. The backward
pass makes the gradients of queries, keys and values in one sweep with five matrix products. The gradient of one head's queries is
gathered in vector memory, so heads and examples are independent and both TensorCores of a v4 or v5p chip work (the kernels that
come with JAX and with tokamax 0.0.12 mark every axis of their backward grid as sequential, which uses one).
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
from jaxgen.nn.attention_tiles import LANES, Plan
from jaxgen.nn.linear import precision

LOG2_E = math.log2(math.e)
HIDDEN = -1e38  # a logit of what is not seen; finite, so that differences of two are not NaN
UNSEEN = -5e37  # a row whose largest logit is below this saw nothing
ACROSS, DOWN = ((1,), (1,)), ((1,), (0,))  # a·bᵀ and a·b


@dataclasses.dataclass(frozen=True)
class Flash:
    """The kernel, as the door and the ring call it. The ring takes partial results in float32."""

    plan: Plan

    def __call__(
        self, q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, scale: float, query_start: jax.Array | None
    ) -> jax.Array:
        """As `attention_xla.XLA`."""
        start = jnp.int32(0) if query_start is None else query_start
        return flash(*(x.swapaxes(1, 2) for x in (q, k, v)), mask, start, scale, self.plan).swapaxes(1, 2)

    def forward(self, *arrays) -> tuple[jax.Array, jax.Array]:
        return forward(*arrays, self.plan, jnp.float32)

    def backward(self, *arrays) -> tuple[jax.Array, jax.Array, jax.Array]:
        return backward(*arrays, self.plan, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def flash(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, query_start: jax.Array, scale: float, plan: Plan) -> jax.Array:
    """Softmax attention; a query that sees no key gets zeros.

    Args:
      q: [B, N, L, K]. k, v: [B, N, S, K]. Any lengths and head dimensions.
      mask: which keys each query sees.
      query_start: int32 (), index of the first query in a sequence whose keys are all here.
      scale: factor on query-key products.
      plan: sizes of tiles, and whether to interpret.

    Returns:
      [B, N, L, K] in the dtype of `q`. It and the logarithm of the softmax's denominator carry the checkpoint name "attention":
      where both are saved, rematerialization does not run the forward kernel again.
    """
    return _flash_forward(q, k, v, mask, query_start, scale, plan)[0]


def _flash_forward(q, k, v, mask, query_start, scale, plan):
    out, logsumexp = forward(q, k, v, mask, scale, query_start, jnp.int32(0), plan, q.dtype)
    out, logsumexp = checkpoint_name(out, "attention"), checkpoint_name(logsumexp, "attention")
    return out, (q, k, v, mask, query_start, out, logsumexp)


def _flash_backward(scale, plan, saved, gradient):
    q, k, v, mask, query_start, out, logsumexp = saved
    product = jnp.sum(out.astype(jnp.float32) * gradient.astype(jnp.float32), axis=-1)
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
    """Attention of q [B, N, L, K] over one part of the keys, k and v [B, N, S, K]; the starts are indices in the whole sequence.

    Returns:
      [B, N, L, K] in `dtype`, and log Σ exp(logits) [B, N, L] float32: -inf, with zeros in the first, for a query that sees no key.
    """
    tile = plan.forward
    (batch, heads, queries, width), keys = q.shape, k.shape[2]
    rows, columns = _padded(queries, tile.queries), _padded(keys, tile.keys)
    rule, query, key = tile_mask.codes(mask, query_start, keys, rows, columns)
    q, k, v = _pad(q, rows), _pad(k, columns), _pad(v, columns)
    over = (rows // tile.queries, columns // tile.keys)
    status = tile_mask.status(rule, query, key, query_start, key_start, over, tile)
    own = lambda b: b if status.shape[0] > 1 else 0
    block = lambda size, at: pl.BlockSpec((1, tile.heads, size, width), at)
    at_queries, at_keys = lambda b, h, i, j, *_: (b, h, i, 0), lambda b, h, i, j, *_: (b, h, j, 0)
    specs = [block(tile.queries, at_queries), block(tile.keys, at_keys), block(tile.keys, at_keys)]
    codes = []
    if query is not None:
        codes = [query.swapaxes(1, 2), key]
        specs.append(pl.BlockSpec((1, tile.queries, query.shape[1]), lambda b, h, i, j, *_: (own(b), i, 0)))
        specs.append(pl.BlockSpec((1, key.shape[1], tile.keys), lambda b, h, i, j, *_: (own(b), 0, j)))
    out, logsumexp = pl.pallas_call(
        functools.partial(_forward_kernel, rule=rule, tile=tile, scale=scale * LOG2_E, over=over, batched=status.shape[0] > 1),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, heads // tile.heads, *over),
            in_specs=specs,
            out_specs=[
                block(tile.queries, at_queries),
                pl.BlockSpec((1, tile.heads, 1, tile.queries), lambda b, h, i, j, *_: (b, h, 0, i)),
            ],
            scratch_shapes=[
                pltpu.VMEM((tile.heads, tile.queries, LANES), jnp.float32),
                pltpu.VMEM((tile.heads, tile.queries, LANES), jnp.float32),
                pltpu.VMEM((tile.heads, tile.queries, width), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((batch, heads, rows, width), dtype),
            jax.ShapeDtypeStruct((batch, heads, 1, rows), jnp.float32),
        ],
        compiler_params=_parameters(plan, "parallel", "parallel", "parallel", "arbitrary"),
        cost_estimate=_cost(2, q, k, v, q),
        interpret=plan.interpret,
        name="flash_forward",
    )(status.reshape(-1), jnp.stack([query_start, key_start]), q, k, v, *codes)
    return out[:, :, :queries], logsumexp[:, :, 0, :queries]


def _forward_kernel(status, starts, q, k, v, *refs, rule, tile, scale, over, batched):
    *codes, out, logsumexp, top, total, gathered = refs
    b, i, j = pl.program_id(0), pl.program_id(2), pl.program_id(3)

    @pl.when(j == 0)
    def start():
        top[...] = jnp.full_like(top, HIDDEN)
        total[...] = jnp.zeros_like(total)
        gathered[...] = jnp.zeros_like(gathered)

    def attend(masked):
        for first, count in tile.parts():
            inner = pl.ds(first, count)
            if masked:
                query, key = ((codes[0][0], codes[1][0, :, inner])) if codes else (None, None)
                index = tile_mask.indices(starts, i * tile.queries, j * tile.keys + first, (tile.queries, count), 0)
                visible = tile_mask.visible(rule, query, key, *index)
            for h in range(tile.heads):
                scaled = (q[0, h].astype(jnp.float32) * scale).astype(q.dtype)
                logits = _dot(scaled, k[0, h, inner], ACROSS)
                if masked:
                    logits = jnp.where(visible, logits, HIDDEN)
                before = top[h]
                now = jnp.maximum(before, jnp.max(logits, axis=1, keepdims=True))
                weights = jnp.exp2(logits - _lanes(now, count))
                kept = jnp.exp2(before - now)
                top[h] = now
                total[h] = kept * total[h] + jnp.sum(weights, axis=1, keepdims=True)
                width = gathered.shape[-1]
                gathered[h] = _lanes(kept, width) * gathered[h] + _dot(weights.astype(v.dtype), v[0, h, inner], DOWN)

    _when(status, (b * over[0] if batched else 0) * over[1] + i * over[1] + j, rule, attend)

    @pl.when(j == over[1] - 1)
    def finish():
        for h in range(tile.heads):
            seen = top[h] > UNSEEN
            denominator = jnp.where(seen, total[h], 1.0)
            width = gathered.shape[-1]
            share = jnp.where(seen, 1.0 / denominator, 0.0)
            out[0, h] = (gathered[h] * _lanes(share, width)).astype(out.dtype)
            log = jnp.where(seen, (top[h] + jnp.log2(denominator)) / LOG2_E, -jnp.inf)
            logsumexp[0, h] = log.T[:1]


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
    """What one part of the keys adds to the gradients of q, k and v, in `dtype` and their shapes.

    Args:
      logsumexp: [B, N, L] over all parts of the keys. product: [B, N, L], Σ_K output · its gradient.
      gradient: [B, N, L, K], of the output.
    """
    run = functools.partial(_backward_run, scale=scale, key_start=key_start, plan=plan)
    most = max(1, plan.gathered // plan.backward.queries) * plan.backward.queries
    if q.shape[2] <= most:
        return run(q, k, v, mask, logsumexp, product, gradient, query_start=query_start, dtype=dtype)
    dqs, dk, dv = [], 0.0, 0.0
    for first in range(0, q.shape[2], most):
        some = functools.partial(jax.lax.slice_in_dim, start_index=first, limit_index=min(first + most, q.shape[2]))
        part = [some(x, axis=2) for x in (q, logsumexp, product, gradient)]
        theirs = mask.of_queries(functools.partial(some, axis=1))
        dq, more_k, more_v = run(part[0], k, v, theirs, *part[1:], query_start=query_start + first, dtype=jnp.float32)
        dqs, dk, dv = [*dqs, dq], dk + more_k, dv + more_v
    return jnp.concatenate(dqs, axis=2).astype(dtype), dk.astype(dtype), dv.astype(dtype)


def _backward_run(q, k, v, mask, logsumexp, product, gradient, *, scale, query_start, key_start, plan, dtype):
    """`backward` for as many queries as vector memory has room for the gradients of."""
    tile = plan.backward
    (batch, heads, queries, width), keys = q.shape, k.shape[2]
    rows, columns = _padded(queries, tile.queries), _padded(keys, tile.keys)
    rule, query, key = tile_mask.codes(mask, query_start, keys, rows, columns)
    q, k, v, gradient = _pad(q, rows), _pad(k, columns), _pad(v, columns), _pad(gradient.astype(q.dtype), rows)
    # Weights are exp(logits - logsumexp): zero for a query that sees nothing, as exp(HIDDEN - 0), and so is padding's gradient.
    logsumexp = _pad(jnp.where(jnp.isfinite(logsumexp), logsumexp, 0.0)[:, :, :, None] * LOG2_E, rows).swapaxes(2, 3)
    product = _pad(product[:, :, :, None], rows).swapaxes(2, 3)
    over = (rows // tile.queries, columns // tile.keys)
    status = tile_mask.status(rule, query, key, query_start, key_start, over, tile)
    own = lambda b: b if status.shape[0] > 1 else 0
    block = lambda size, at: pl.BlockSpec((1, tile.heads, size, width), at)
    at_queries, at_keys = lambda b, h, j, i, *_: (b, h, i, 0), lambda b, h, j, i, *_: (b, h, j, 0)
    row = pl.BlockSpec((1, tile.heads, 1, tile.queries), lambda b, h, j, i, *_: (b, h, 0, i))
    specs = [block(tile.queries, at_queries), block(tile.keys, at_keys), block(tile.keys, at_keys)]
    specs += [block(tile.queries, at_queries), row, row]
    codes = []
    if query is not None:
        codes = [query, key.swapaxes(1, 2)]
        specs.append(pl.BlockSpec((1, query.shape[1], tile.queries), lambda b, h, j, i, *_: (own(b), 0, i)))
        specs.append(pl.BlockSpec((1, tile.keys, key.shape[1]), lambda b, h, j, i, *_: (own(b), j, 0)))
    dq, dk, dv = pl.pallas_call(
        functools.partial(
            _backward_kernel, rule=rule, tile=tile, scale=scale, over=over, batched=status.shape[0] > 1, whole=over[1] > 1
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, heads // tile.heads, over[1], over[0]),
            in_specs=specs,
            out_specs=[
                # Written in the last sweep over queries; until then the first tile stays where it is.
                block(tile.queries, lambda b, h, j, i, *_: (b, h, jnp.where(j == over[1] - 1, i, 0), 0)),
                block(tile.keys, at_keys),
                block(tile.keys, at_keys),
            ],
            scratch_shapes=[
                pltpu.VMEM((tile.heads, rows if over[1] > 1 else tile.queries, width), jnp.float32),
                pltpu.VMEM((tile.heads, tile.keys, width), jnp.float32),
                pltpu.VMEM((tile.heads, tile.keys, width), jnp.float32),
            ],
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, dtype) for x in (q, k, v)],
        compiler_params=_parameters(plan, "parallel", "parallel", "arbitrary", "arbitrary"),
        cost_estimate=_cost(5, q, k, v, q, q, k, v),
        interpret=plan.interpret,
        name="flash_backward",
    )(status.reshape(-1), jnp.stack([query_start, key_start]), q, k, v, gradient, logsumexp, product, *codes)
    return dq[:, :, :queries], dk[:, :, :keys], dv[:, :, :keys]


def _backward_kernel(status, starts, q, k, v, gradient, logsumexp, product, *refs, rule, tile, scale, over, batched, whole):
    *codes, dq, dk, dv, for_q, for_k, for_v = refs
    b, j, i = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    mine = pl.ds(pl.multiple_of(i * tile.queries, tile.queries), tile.queries) if whole else slice(None)

    @pl.when(i == 0)
    def start_keys():
        for_k[...] = jnp.zeros_like(for_k)
        for_v[...] = jnp.zeros_like(for_v)

    @pl.when(j == 0)
    def start_queries():
        for_q[:, mine] = jnp.zeros((tile.heads, tile.queries, for_q.shape[-1]), jnp.float32)

    def attend(masked):
        for first, count in tile.parts():
            inner = pl.ds(first, count)
            if masked:
                query, key = (codes[0][0], codes[1][0, inner]) if codes else (None, None)
                index = tile_mask.indices(starts, i * tile.queries, j * tile.keys + first, (count, tile.queries), 1)
                visible = tile_mask.visible(rule, query, key, *index, across=0)
            for h in range(tile.heads):
                scaled = (q[0, h].astype(jnp.float32) * (scale * LOG2_E)).astype(q.dtype)
                logits = _dot(k[0, h, inner], scaled, ACROSS)
                if masked:
                    logits = jnp.where(visible, logits, HIDDEN)
                weights = jnp.exp2(logits - logsumexp[0, h])
                for_v[h, inner] += _dot(weights.astype(v.dtype), gradient[0, h], DOWN)
                dweights = _dot(v[0, h, inner], gradient[0, h], ACROSS)
                dlogits = (weights * (dweights - product[0, h])).astype(q.dtype)
                for_k[h, inner] += _dot(dlogits, scaled, DOWN)
                for_q[h, mine] += _dot(dlogits.T, k[0, h, inner], DOWN)

    _when(status, (b * over[0] if batched else 0) * over[1] + i * over[1] + j, rule, attend)

    @pl.when(i == over[0] - 1)
    def finish_keys():
        dk[0] = (for_k[...] / LOG2_E).astype(dk.dtype)
        dv[0] = for_v[...].astype(dv.dtype)

    @pl.when(j == over[1] - 1)
    def finish_queries():
        dq[0] = (for_q[:, mine] * scale).astype(dq.dtype)


def _when(status, pair, rule, attend):
    """Runs `attend` for a pair of tiles, with masking where it is needed."""
    if rule == tile_mask.Rule():
        attend(masked=False)
        return
    pl.when(status[pair] == tile_mask.EVERY)(lambda: attend(masked=False))
    pl.when(status[pair] == tile_mask.SOME)(lambda: attend(masked=True))


def _dot(a, b, contracted):
    return jax.lax.dot_general(a, b, (contracted, ((), ())), precision=precision(a), preferred_element_type=jnp.float32)


def _lanes(x, width):
    """[rows, LANES] of equal lanes as [rows, width]."""
    return x[:, :width] if width <= LANES else jnp.tile(x, (1, -(-width // LANES)))[:, :width]


def _padded(length: int, tile: int) -> int:
    return -(-length // tile) * tile


def _pad(x: jax.Array, length: int) -> jax.Array:
    """[B, N, L, K] with zeros up to `length`."""
    return x if x.shape[2] == length else jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, 0)))


def _parameters(plan: Plan, *semantics: str) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=plan.vector_memory)


def _cost(products: int, q: jax.Array, k: jax.Array, *moved: jax.Array) -> pl.CostEstimate:
    """What the compiler's scheduler is told: FLOPs of `products` matrix products of all queries with all keys, bytes of arrays."""
    pairs = math.prod(q.shape[:3]) * k.shape[2]
    size = sum(x.size * x.dtype.itemsize for x in (q, k, *moved))
    return pl.CostEstimate(flops=2 * products * pairs * q.shape[3], transcendentals=pairs, bytes_accessed=size)
