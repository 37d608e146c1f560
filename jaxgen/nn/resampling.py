"""Pictures and maps of features at another size, as the published networks resample them.

Pixel centres lie at (i + 1/2) / size of the side (what PyTorch calls `align_corners=False`), and what lies beyond the edge is the
edge. Both axes are linear maps, made on the host once a size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

METHODS = ("bilinear", "bicubic", "bicubic_antialiased")
"""Kernels by name. `bicubic` is Keys' with a = -3/4 and takes four neighbours however much smaller the result is;
`bicubic_antialiased` has a = -1/2 and is stretched by as much as the result is smaller, with weights cut at the edge."""


def resample(x: jax.Array, size: tuple[int, int], method: str) -> jax.Array:
    """[..., H, W, C] to [..., rows, columns, C] for size = (rows, columns), computed in float32, in the dtype of `x`.

    Args:
      method: a name in `METHODS`.
    """
    if x.shape[-3:-1] == tuple(size):
        return x
    down, across = (jnp.asarray(weights(n, m, method)) for n, m in zip(x.shape[-3:-1], size, strict=True))
    highest = jax.lax.Precision.HIGHEST
    y = jnp.einsum("ih,...hwc->...iwc", down, x.astype(jnp.float32), precision=highest)
    return jnp.einsum("jw,...iwc->...ijc", across, y, precision=highest).astype(x.dtype)


def weights(before: int, after: int, method: str) -> np.ndarray:
    """The linear map of one axis, [after, before] float32; each row sums to 1."""
    centre = (np.arange(after) + 0.5) * before / after - 0.5
    if method == "bicubic_antialiased":
        stretch = max(before / after, 1.0)
        found = _cubic((np.arange(before) - centre[:, None]) / stretch, -0.5)
        found /= found.sum(axis=1, keepdims=True)
        return found.astype(np.float32)
    reach, kernel = {"bilinear": (1, lambda d: np.maximum(1 - np.abs(d), 0)), "bicubic": (2, lambda d: _cubic(d, -0.75))}[method]
    found = np.zeros((after, before))
    first = np.floor(centre).astype(int)
    for place in range(1 - reach, 1 + reach):
        # The nearest pixel that there is stands for one beyond the edge.
        column = np.clip(first + place, 0, before - 1)
        np.add.at(found, (np.arange(after), column), kernel(first + place - centre))
    return found.astype(np.float32)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel of cubic convolution (IEEE Transactions on Acoustics, Speech and Signal Processing 29, 1981, equation 15)."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
