"""Pictures to patches and back."""

from __future__ import annotations

import jax


def patches(x: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, C] as [B, (H/p)·(W/p), p·p·C]: patches in row-major order, rows, columns and channels within each."""
    batch, height, width, channels = x.shape
    rows, columns = height // patch, width // patch
    x = x.reshape(batch, rows, patch, columns, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * columns, patch * patch * channels)


def joined(values: jax.Array, grid: tuple[int, int], patch: int) -> jax.Array:
    """The inverse of `patches`: [B, rows·columns, p·p·C] on a grid of (rows, columns) as [B, rows·p, columns·p, C]."""
    (batch, _, size), (rows, columns) = values.shape, grid
    x = values.reshape(batch, rows, columns, patch, patch, size // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * patch, columns * patch, -1)
