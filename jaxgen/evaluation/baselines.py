"""Pictures to set samples beside: real ones of training, and draws from one Gaussian a class."""

from __future__ import annotations

import numpy as np


def stratified(available: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Places in `available` labels [n], as many of each class as `wanted` [m] has, evenly spaced; fewer where there are too few."""
    chosen = []
    for label, count in zip(*np.unique(wanted, return_counts=True), strict=True):
        places = np.flatnonzero(available == label)
        count = min(int(count), len(places))
        chosen.append(places[(np.arange(count) * len(places)) // max(count, 1)])
    return np.sort(np.concatenate(chosen))


def class_gaussian(images: np.ndarray, labels: np.ndarray, wanted: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draws from the Gaussian with the mean and covariance of each class's pictures; what a generator has to beat.

    Args:
      images: uint8 [n, H, W, C], real ones. labels: [n], their classes.
      wanted: [m], the class of each draw; one without two pictures gives the mean of all.

    Returns:
      uint8 [m, H, W, C], clipped and rounded as any sample is.
    """
    random = np.random.default_rng(seed)
    drawn = np.empty((len(wanted), *images.shape[1:]))
    for label in np.unique(wanted):
        rows = np.flatnonzero(wanted == label)
        of = images[labels == label]
        if len(of) < 2:
            drawn[rows] = images.mean(axis=0)
            continue
        mean = of.mean(axis=0)
        # A normal mixture of centred examples has their covariance, whether or not there are more of them than dimensions.
        weights = random.standard_normal((len(rows), len(of))) / np.sqrt(len(of) - 1)
        total = np.zeros((len(rows), mean.size))
        for start in range(0, len(of), 1024):
            part = of[start : start + 1024] - mean
            total += weights[:, start : start + 1024] @ part.reshape(len(part), -1)
        drawn[rows] = mean + total.reshape(-1, *mean.shape)
    return np.rint(drawn.clip(0, 255)).astype(np.uint8)
