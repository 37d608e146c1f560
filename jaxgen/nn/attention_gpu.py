"""Flash attention of cuDNN, as JAX carries it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxgen.nn import attention_xla
from jaxgen.nn.attention_mask import Mask


def applies(q: jax.Array, k: jax.Array) -> bool:
    """Whether cuDNN takes q [B, L, N, K] and k [B, S, N, K], with any mask and gradients (limits of cuDNN 9)."""
    fits = q.shape[3] <= 128 and q.shape[3] % 8 == 0 and q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0
    return fits and q.dtype in (jnp.bfloat16, jnp.float16)


@dataclasses.dataclass(frozen=True)
class CuDNN:
    """The kernel, as the door calls it.

    A ring's step is made of XLA's operations: cuDNN's backward pass takes no denominator from outside.
    """

    def __call__(
        self, q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, scale: float, query_start: jax.Array | None
    ) -> jax.Array:
        """As `attention_xla.XLA`. Every mask but the causal one is handed over as a bias [B or 1, 1, L, S]."""
        if mask.causal and mask.window is None and not jax.tree.leaves(mask) and query_start is None:
            out = jax.nn.dot_product_attention(q, k, v, scale=scale, is_causal=True, implementation="cudnn")
            return checkpoint_name(out, "attention")
        visible = mask.dense(q.shape[1], k.shape[1], 0 if query_start is None else query_start)
        bias = None if visible is None else visible[:, None]
        out = jax.nn.dot_product_attention(q, k, v, mask=bias, scale=scale, implementation="cudnn")
        if visible is not None:
            out = jnp.where(jnp.any(visible, axis=2)[:, :, None, None], out, 0)
        return checkpoint_name(out, "attention")

    forward = staticmethod(attention_xla.forward)
    backward = staticmethod(attention_xla.backward)
