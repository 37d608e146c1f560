"""What nearest neighbours tell of a set of features: precision, recall, and what was copied from training."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_BLOCK = 2048


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances [n, m] between features [n, D] and [m, D]."""
    squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None] - 2 * (a @ b.T)
    return np.sqrt(np.maximum(squares, 0, out=squares), out=squares)


def radii(features: np.ndarray, neighbours: int) -> np.ndarray:
    """Distance [n] of each of features [n, D] to its k-th nearest other.

    Raises:
      ValueError: no more than k features.
    """
    if len(features) <= neighbours:
        raise ValueError(f"features: found {len(features)}, needed more than neighbours={neighbours}")
    between = distances(features, features)
    np.fill_diagonal(between, 0.0)
    return np.partition(between, neighbours, axis=1)[:, neighbours]


def inside(points: np.ndarray, centres: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Whether each of points [n, D] lies within the ball of any of centres [m, D]; bool [n].

    The mean over samples within balls of real features is precision, over real features within balls of samples recall
    (Kynkäänniemi et al., arXiv 1904.06991).
    """
    return np.concatenate(
        [(distances(points[i : i + _BLOCK], centres) < radius).any(axis=1) for i in range(0, len(points), _BLOCK)]
    )


def nearest(points: np.ndarray, blocks: Iterable[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest features of a long sequence that comes in blocks [·, D].

    Returns:
      Their places in the sequence, int64 [n, count], nearest first, and their distances [n, count]; fewer columns where the
      sequence is shorter.
    """
    places = np.zeros((len(points), 0), np.int64)
    found = np.zeros((len(points), 0))
    start = 0
    for block in blocks:
        places = np.concatenate([places, np.broadcast_to(np.arange(start, start + len(block)), (len(points), len(block)))], axis=1)
        found = np.concatenate([found, distances(points, block)], axis=1)
        keep = np.argsort(found, axis=1, kind="stable")[:, :count]
        places, found = np.take_along_axis(places, keep, axis=1), np.take_along_axis(found, keep, axis=1)
        start += len(block)
    return places, found


def nearest_other(features: np.ndarray) -> np.ndarray:
    """Distance [n] of each of features [n, D] to the nearest other one; infinite where there is none."""
    if len(features) < 2:
        return np.full(len(features), np.inf)
    return radii(features, 1)
