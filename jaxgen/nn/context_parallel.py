"""Attention where each device of the mesh axis `context` holds one part of the sequence.

`gather_keys` brings all keys to all devices: one collective, and memory that grows with the whole sequence. `ring` passes parts
around: each device holds one part besides its own at any time, and the softmax is put together from parts by the logarithms of
their denominators (Liu et al., arXiv 2310.01889). Both run inside `shard_map`.
"""

from __future__ import annotations

import functools
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxgen.nn.attention_mask import Mask

AXIS = "context"
METHODS = ("all_gather", "ring")


class Kernel(Protocol):
    """The two halves of attention over one part of the keys, as `attention_xla.forward` and `backward` define them; hashable."""

    def forward(self, q, k, v, mask, scale, query_start, key_start) -> tuple[jax.Array, jax.Array]: ...

    def backward(
        self, q, k, v, mask, scale, query_start, key_start, logsumexp, product, gradient
    ) -> tuple[jax.Array, jax.Array, jax.Array]: ...


def gather_keys(k: jax.Array, v: jax.Array, mask: Mask) -> tuple[jax.Array, jax.Array, Mask]:
    """Keys and values [B, S, N, K] of this device's part of the sequence, and their mask, made whole along the sequence."""
    whole = lambda x: jax.lax.all_gather(x, AXIS, axis=1, tiled=True)
    return whole(k), whole(v), mask.of_keys(whole)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def ring(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, scale: float, kernel: Kernel) -> jax.Array:
    """Attention of this device's queries [B, L, N, K] over the keys of all, of which it holds k and v [B, S, N, K].

    Under a causal mask devices that hold early parts wait for those that hold late ones.
    """
    return _ring_forward(q, k, v, mask, scale, kernel)[0]


def _ring_forward(q, k, v, mask, scale, kernel):
    size, here = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)

    def step(carry, turn):
        (k, v, mask), out, logsumexp = carry
        owner = (here - turn) % size
        start, key_start = here * q.shape[1], owner * k.shape[1]
        more, its = kernel.forward(q, k, v, mask, scale, start, key_start)
        together = jnp.logaddexp(logsumexp, its)
        reference = jnp.where(jnp.isfinite(together), together, 0.0)
        share = lambda x: jnp.exp(x - reference).swapaxes(1, 2)[..., None]
        return (_neighbours(k, v, mask), out * share(logsumexp) + more.astype(jnp.float32) * share(its), together), None

    nothing = jnp.zeros(q.shape, jnp.float32), jnp.full((q.shape[0], q.shape[2], q.shape[1]), -jnp.inf, jnp.float32)
    (_, out, logsumexp), _ = jax.lax.scan(step, ((k, v, mask), *nothing), jnp.arange(size))
    out, logsumexp = checkpoint_name(out.astype(q.dtype), "attention"), checkpoint_name(logsumexp, "attention")
    return out, (q, k, v, mask, out, logsumexp)


def _ring_backward(scale, kernel, saved, gradient):
    q, k, v, mask, out, logsumexp = saved
    size, here = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)
    product = jnp.einsum("blnk,blnk->bnl", out.astype(jnp.float32), gradient.astype(jnp.float32))

    def step(carry, turn):
        (k, v, mask), dq, dk, dv = carry
        owner = (here - turn) % size
        start, key_start = here * q.shape[1], owner * k.shape[1]
        more = kernel.backward(q, k, v, mask, scale, start, key_start, logsumexp, product, gradient)
        dq, dk, dv = (total + x.astype(jnp.float32) for total, x in zip((dq, dk, dv), more, strict=True))
        return (_neighbours(k, v, mask), dq, _pass_on(dk), _pass_on(dv)), None

    nothing = (jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
    # After as many turns as there are devices, each part and its gradients are home again.
    (_, dq, dk, dv), _ = jax.lax.scan(step, ((k, v, mask), *nothing), jnp.arange(size))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


ring.defvjp(_ring_forward, _ring_backward)


def _pass_on(x: jax.Array) -> jax.Array:
    size = jax.lax.axis_size(AXIS)
    return jax.lax.ppermute(x, AXIS, [(i, (i + 1) % size) for i in range(size)])


def _neighbours(k: jax.Array, v: jax.Array, mask: Mask) -> tuple[jax.Array, jax.Array, Mask]:
    """What the neighbour held: keys, values, and the mask as it describes them."""
    return _pass_on(k), _pass_on(v), mask.of_keys(_pass_on)
