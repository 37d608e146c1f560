"""Attention in plain XLA operations: the kernel of CPUs, and the two halves of a ring's step.

`XLA()` is differentiated by JAX. `forward` and `backward` are for callers that put partial results together themselves: they are
the same mathematics with the logarithm of the softmax's denominator handed out and in.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.linear import precision

HIDDEN = jnp.finfo(jnp.float32).min


def forward(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, scale: float, query_start: jax.Array | int, key_start: jax.Array | int
) -> tuple[jax.Array, jax.Array]:
    """Attention of q [B, L, N, K] over one part of the keys, k and v [B, S, N, K].

    Returns:
      [B, L, N, K] float32, and log Σ exp(logits) [B, N, L] float32: -inf, with zeros in the first, for a query that sees no key.
    """
    logits, visible = _logits(q, k, mask, scale, query_start, key_start)
    top = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - top)
    if visible is not None:
        weights = jnp.where(visible, weights, 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.einsum("bnls,bsnk->blnk", weights.astype(v.dtype), v, precision=precision(v), preferred_element_type=jnp.float32)
    seen = total > 0
    share = jnp.where(seen, 1.0 / jnp.where(seen, total, 1.0), 0.0)
    out = out * share[..., 0].swapaxes(1, 2)[..., None]
    return out, jnp.where(seen, top + jnp.log(jnp.where(seen, total, 1.0)), -jnp.inf)[..., 0]


def backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    scale: float,
    query_start: jax.Array | int,
    key_start: jax.Array | int,
    logsumexp: jax.Array,
    product: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What one part of the keys adds to the gradients of q, k and v.

    Args:
      logsumexp: [B, N, L] over all parts of the keys. product: [B, N, L], Σ_K output · its gradient.
      gradient: [B, L, N, K], of the output.

    Returns:
      Float32 in the shapes of q, k and v.
    """
    logits, visible = _logits(q, k, mask, scale, query_start, key_start)
    weights = jnp.exp(logits - jnp.where(jnp.isfinite(logsumexp), logsumexp, 0.0)[..., None])
    if visible is not None:
        weights = jnp.where(visible, weights, 0.0)
    contract = lambda letters, a, b: jnp.einsum(letters, a, b, precision=precision(q), preferred_element_type=jnp.float32)
    dv = contract("bnls,blnk->bsnk", weights.astype(q.dtype), gradient.astype(q.dtype))
    dweights = contract("blnk,bsnk->bnls", gradient.astype(q.dtype), v)
    dlogits = (weights * (dweights - product[..., None])).astype(q.dtype)
    return scale * contract("bnls,bsnk->blnk", dlogits, k), scale * contract("bnls,blnk->bsnk", dlogits, q), dv


def _logits(
    q: jax.Array, k: jax.Array, mask: Mask, scale: float, query_start: jax.Array | int, key_start: jax.Array | int
) -> tuple[jax.Array, jax.Array | None]:
    """Logits [B, N, L, S] float32, and what is visible [B or 1, 1, L, S] or None."""
    # Heads first: a CPU multiplies matrices that lie in one piece three times faster.
    queries, keys = jnp.swapaxes(q * scale, 1, 2), jnp.swapaxes(k, 1, 2)
    logits = jnp.einsum("bnlk,bnsk->bnls", queries, keys, precision=precision(q), preferred_element_type=jnp.float32)
    visible = mask.dense(q.shape[1], k.shape[1], query_start, key_start)
    if visible is None:
        return logits, None
    return jnp.where(visible[:, None], logits, HIDDEN), visible[:, None]


@dataclasses.dataclass(frozen=True)
class XLA:
    """The kernel, as the door and the ring call it."""

    def __call__(
        self, q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, scale: float, query_start: jax.Array | None
    ) -> jax.Array:
        """Softmax attention of q [B, L, N, K] over k, v [B, S, N, K]; [B, L, N, K] in the dtype of `q`.

        `query_start` is the index of the first query in a sequence whose keys are all here; None is 0.
        """
        logits, visible = _logits(q, k, mask, scale, 0 if query_start is None else query_start, 0)
        weights = jax.nn.softmax(logits, axis=-1)
        if visible is not None:
            weights = jnp.where(jnp.any(visible, axis=-1, keepdims=True), weights, 0.0)
        heads = jnp.swapaxes(v, 1, 2)
        out = jnp.einsum(
            "bnls,bnsk->bnlk", weights.astype(v.dtype), heads, precision=precision(v), preferred_element_type=jnp.float32
        )
        return checkpoint_name(jnp.swapaxes(out, 1, 2).astype(q.dtype), "attention")

    forward = staticmethod(forward)
    backward = staticmethod(backward)
