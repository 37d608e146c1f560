"""Bootstrap intervals: how far a figure would move had other samples been drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SHARE = 0.95


def interval(values: np.ndarray, statistic: Callable[[np.ndarray], float], resamples: int, seed: int = 0) -> list[float]:
    """95 % interval of statistic(values), values [n, ...] resampled with replacement along axis 0.

    A sample drawn twice adds a bias of its own to distances between sets, so the quantiles are taken around the mean of the
    resampled figures and laid around the figure itself.
    """
    draws = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    found = np.array([statistic(values[draw]) for draw in draws])
    found = found[np.isfinite(found)]
    if not len(found):
        return [float("nan")] * 2
    low, high = np.quantile(found - found.mean(), [(1 - SHARE) / 2, (1 + SHARE) / 2])
    figure = statistic(values)
    return [float(figure + low), float(figure + high)]
