"""Names the texture of a background from the pixels that no object covers."""

from __future__ import annotations

import functools

import numpy as np

_FAINT = 3.5
"""Standard deviation of the brightness, out of 255, below which a background is plain; textures have 6 or more."""
_STRIPES = (4.5, 7.5)
_CHEQUERS = (2.75, 4.75)
"""Periods a side, a little wider than those that are drawn."""
_SPACING = 0.25
_REGULAR = 0.35
"""Share of the variance that waves must explain; of noise they explain a few hundredths."""


def name(picture: np.ndarray, shown: np.ndarray) -> str:
    """One of `scene.TEXTURES`.

    Stripes are one wave; chequers are two of equal strength along both diagonals; else what varies is speckled.

    Args:
      picture: float64 [R, R, 3].
      shown: bool [R, R], the pixels of the background alone.
    """
    if shown.sum() < 16:
        return "plain"
    brightness = picture.mean(axis=-1)
    mean = brightness[shown].mean()
    left = np.where(shown, brightness - mean, 0.0)
    # Textures move the three channels alike. What moves them apart is noise, a third of whose variance the brightness keeps.
    apart = picture[shown] - brightness[shown][:, None]
    apart = apart - apart.mean(axis=0)
    total = float(np.einsum("yx,yx->", left, left))
    if total / shown.sum() - np.square(apart).sum(axis=-1).mean() / 6 < _FAINT**2:
        return "plain"
    # Twice the squared sum of n pixels times a wave, over n and their energy: the share that the wave explains.
    waves, frequencies = _waves(len(picture))
    # einsum and not a product of matrices: for these sizes threads of BLAS cost more than they bring.
    upper = np.einsum("ky,yx->kx", waves[frequencies >= 0], left)
    share = 2 * np.abs(np.einsum("kx,jx->kj", upper, waves)) ** 2 / (shown.sum() * total)
    length = np.hypot(frequencies[frequencies >= 0, None], frequencies)
    stripes = share[(length >= _STRIPES[0]) & (length <= _STRIPES[1])].max()
    middle = len(frequencies) // 2
    steps = np.arange(round(_CHEQUERS[0] / _SPACING), round(_CHEQUERS[1] / _SPACING) + 1)
    chequers = 2 * np.minimum(share[steps, middle + steps], share[steps, middle - steps]).max()
    if max(stripes, chequers) < _REGULAR:
        return "speckled"
    return "striped" if stripes > chequers else "chequered"


@functools.cache
def _waves(resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Complex waves along a side [K, R] and their frequencies [K] in periods a side, symmetric about 0."""
    count = round(_STRIPES[1] / _SPACING)
    frequencies = np.arange(-count, count + 1) * _SPACING
    places = (np.arange(resolution) + 0.5) / resolution
    return np.exp(2j * np.pi * frequencies[:, None] * places), frequencies
