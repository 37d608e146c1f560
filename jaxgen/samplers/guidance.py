"""Classifier-free guidance: one batched call of the network for the conditional and the unconditional velocity."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxgen.samplers.process import over
from jaxgen.types import PyTree, Velocity


def needs_null(scale: float) -> bool:
    """Whether guidance by `scale` asks for unconditional rows; at 1 the conditional velocity alone is the answer."""
    return scale != 1.0


def classifier_free(
    velocity_doubled: Velocity, scale: float, interval: tuple[float, float] = (0.0, 1.0), channels: int | None = None
) -> Velocity:
    """A velocity on B rows: v_u + scale (v_c - v_u), float32 or wider (Ho & Salimans 2022, arXiv:2207.12598).

    Args:
      velocity_doubled: called once per evaluation with x [2B, ...] and t [2B], `interleaved`: rows 0, 2, 4, … are the
        conditional ones, each followed by the same x without condition. Its carry is the carry of the result.
      scale: 1 gives the conditional velocity, 0 the unconditional, above 1 pushes away from the unconditional.
      interval: lowest and highest t, both included, at which `scale` holds; elsewhere it is 1 (Kynkäänniemi et al.
        2024, arXiv:2404.07724). The call is doubled there too, since shapes are static.
      channels: `scale` holds for the first so many channels, None is all of x; the other channels, and those for a variance behind
        them, stay conditional.
    """
    low, high = interval

    def velocity(x: jax.Array, t: jax.Array, carry: PyTree) -> tuple[jax.Array, PyTree]:
        v, carry = velocity_doubled(interleaved(x, x), interleaved(t, t), carry)
        v = v.astype(jnp.promote_types(v.dtype, jnp.float32))
        pairs = v.reshape(x.shape[0], 2, *v.shape[1:])
        conditional, unconditional = pairs[:, 0], pairs[:, 1]
        inside = (t >= low) & (t <= high)
        # Written from the conditional side, so that a scale of 1 returns it bit for bit.
        push = over(jnp.where(inside, scale - 1, 0).astype(conditional.dtype), conditional)
        guided = conditional + push * (conditional - unconditional)
        count = x.shape[-1] if channels is None else channels
        return jnp.concatenate([guided[..., :count], conditional[..., count:]], axis=-1), carry

    return velocity


def interleaved(first: jax.Array, second: jax.Array) -> jax.Array:
    """Rows of both [B, ...] in turn, [2B, ...]. Pairs stay together, so a sharded batch stays where it lies."""
    return jnp.stack([first, second], axis=1).reshape(2 * first.shape[0], *first.shape[1:])
