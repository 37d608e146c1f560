"""Rotary position embedding over any number of coordinate axes (Su et al., arXiv 2104.09864)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def rotate(x: jax.Array, positions: jax.Array, base: float = 10_000.0) -> jax.Array:
    """Rotates channels by angles proportional to coordinates, so that products depend on coordinate differences only.

    Each coordinate axis takes an equal contiguous share of the K channels, and within it channel m turns with channel
    m + share/2 at frequency base^(-2m/share).

    Args:
      x: [B, L, N, K].
      positions: [B, L, axes] float32; K must be a multiple of 2·axes.

    Returns:
      [B, L, N, K] in the dtype of `x`; angles are float32.
    """
    axes = positions.shape[-1]
    share = x.shape[-1] // axes
    angles = _angles(positions, share, base)[:, :, None]  # [B, L, 1, axes, share/2]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(jnp.float32).reshape(*x.shape[:-1], axes, share), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def factors(positions: jax.Array, width: int, base: float = 10_000.0) -> tuple[jax.Array, jax.Array]:
    """cos and sin of the angles by which the pairs of `width` channels turn, float32 [B, L, width / 2]."""
    angles = _angles(positions, width // positions.shape[-1], base).reshape(*positions.shape[:2], -1)
    return jnp.cos(angles), jnp.sin(angles)


def pairs(width: int, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each of `width` channels the pair that it is of, counted as `factors` does, and whether it is the first: [width] each.

    The first of a pair turns to first · cos - second · sin, the second to second · cos + first · sin.
    """
    half = width // axes // 2
    number = np.arange(width // 2).reshape(axes, 1, half)
    return np.broadcast_to(number, (axes, 2, half)).reshape(-1), np.arange(width) // half % 2 == 0


def _angles(positions: jax.Array, share: int, base: float) -> jax.Array:
    """float32 [B, L, axes, share/2]."""
    frequencies = base ** (-jnp.arange(0, share, 2, dtype=jnp.float32) / share)
    return positions[..., None] * frequencies


def stretched(positions: jax.Array, segments: jax.Array, grid: tuple[int, int] | None, span: float = 16.0) -> jax.Array:
    """Coordinates scaled so that each picture spans `span` on each axis, whatever its resolution (DDT, arXiv 2504.05741).

    Neighbours on a side of n tokens come to lie span/(n - 1) apart; on a side of one token, all at 0.

    Args:
      positions: [B, L, axes] float32, one apart.
      segments: [B, L], equal within a picture.
      grid: rows and columns where each row of the batch is one picture; None measures the pictures of packed rows.

    Returns:
      [B, L, axes] float32.
    """
    if grid is not None:
        extent = jnp.asarray(grid, jnp.float32) - 1
    else:
        together = (segments[:, :, None] == segments[:, None, :])[..., None]
        others = positions[:, None, :, :]
        highest = jnp.max(jnp.where(together, others, -jnp.inf), axis=2)
        extent = highest - jnp.min(jnp.where(together, others, jnp.inf), axis=2)
    return positions * jnp.where(extent > 0, span / jnp.where(extent > 0, extent, 1), 0)
