"""How far a site's data are from everybody's: the non-i.i.d. degree η in [0, 1] (arXiv 2509.18367).

η = ½ W + ½ (1 - share of kinds that are there): a Wasserstein distance and a label ratio, the two ingredients that the paper names.
Its formula could not be read; this one is a choice, as is what stands for labels where there are none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from jaxgen import types


class Degree(Protocol):
    """Configuration of a degree."""

    def __call__(
        self, parts: Sequence[np.ndarray], shared: np.ndarray, labels: np.ndarray | None, read: Callable[[np.ndarray], dict]
    ) -> np.ndarray:
        """η of each site, float32 [sites].

        Args:
          parts: places of each site's examples. shared: places of the examples that all share.
          labels: classes of all examples, None where the source has none. read: places -> rows.
        """


@dataclasses.dataclass(frozen=True)
class Labels:
    """Degree from counts of classes: W under the ground cost that counts any two classes as equally far, total variation.

    Differences of cumulated label numbers would invent an order of classes.
    """

    def __call__(
        self, parts: Sequence[np.ndarray], shared: np.ndarray, labels: np.ndarray | None, read: Callable[[np.ndarray], dict]
    ) -> np.ndarray:
        if labels is None:
            raise types.BadInput("", type(self).__name__, "a source with labels, or swarm.degree=features")
        known = np.unique(labels)
        return of_counts(np.array([[np.sum(labels[part] == label) for label in known] for part in parts]))


@dataclasses.dataclass(frozen=True)
class Features:
    """Degree from features of pictures, for data without labels.

    W is the sliced Wasserstein-1 distance to the shared pictures, over the mean distance of two of them (both along the same random
    directions), at most 1: about 0 for a sample of the same law, about 1 for copies of one picture. Kinds are buckets of k-means on
    the shared pictures.

    Attributes:
      space: an `evaluation.features:FeatureSpace`; None takes the pixels.
      buckets: of k-means, at most a quarter of the shared pictures.
      directions: random directions of the sliced distance.
      limit: pictures of a site that are looked at.
    """

    space: Any = None
    buckets: int = 64
    directions: int = 64
    limit: int = 2048

    def validate(self) -> None:
        for name in ("buckets", "directions", "limit"):
            if getattr(self, name) < 1:
                raise types.BadInput(name, getattr(self, name), "at least 1")

    def __call__(
        self, parts: Sequence[np.ndarray], shared: np.ndarray, labels: np.ndarray | None, read: Callable[[np.ndarray], dict]
    ) -> np.ndarray:
        of = lambda places: self._features(read(places)["image"])
        chosen = [part[np.arange(min(len(part), self.limit)) * len(part) // min(len(part), self.limit)] for part in parts]
        return of_features([of(part) for part in chosen], of(shared), self.buckets, self.directions)

    def _features(self, images: np.ndarray) -> np.ndarray:
        if self.space is None:
            return images.reshape(len(images), -1).astype(np.float32)
        return self.space.features(images)


def of_counts(counts: np.ndarray) -> np.ndarray:
    """η from counts of examples by site and class [sites, classes], against the classes of all sites together; float32 [sites].

    0 where a site's mix is everybody's; 1 - 1/L for one of L equally frequent classes. The same under any order of classes.
    """
    counts = np.asarray(counts, np.float64)
    population = counts.sum(axis=0) / counts.sum()
    shares = counts / counts.sum(axis=1, keepdims=True)
    distance = np.abs(shares - population).sum(axis=1) / 2
    there = np.count_nonzero(counts, axis=1) / np.count_nonzero(population)
    return ((distance + 1 - there) / 2).astype(np.float32)


def of_features(sites: Sequence[np.ndarray], shared: np.ndarray, buckets: int, directions: int) -> np.ndarray:
    """η from features [n, D] of each site and of the shared pictures; see `Features`. float32 [sites]."""
    from sklearn.cluster import KMeans

    random = np.random.default_rng(0)
    axes = random.standard_normal((shared.shape[1], directions))
    axes /= np.linalg.norm(axes, axis=0)
    reference = np.sort(shared @ axes, axis=0)
    count = len(reference)
    # The mean distance of two of n sorted numbers: 2 / n² Σ (2 i - n - 1) x_i.
    spread = 2 / count**2 * ((2 * np.arange(1, count + 1) - count - 1) @ reference)
    clusters = KMeans(max(min(buckets, count // 4), 1), n_init=1, random_state=0).fit(shared)
    degrees = []
    for features in sites:
        distance = sliced(np.sort(features @ axes, axis=0), reference) / spread.mean()
        there = len(np.unique(clusters.predict(features.astype(shared.dtype)))) / clusters.n_clusters
        degrees.append((min(distance, 1.0) + 1 - there) / 2)
    return np.asarray(degrees, np.float32)


def sliced(one: np.ndarray, other: np.ndarray) -> float:
    """Mean over columns of the Wasserstein-1 distance of two samples, each column sorted: [n, directions], [m, directions]."""
    # Quantile functions are constant between these levels.
    levels = np.union1d(np.arange(len(one) + 1) / len(one), np.arange(len(other) + 1) / len(other))
    middles, widths = (levels[1:] + levels[:-1]) / 2, np.diff(levels)
    place = lambda sample: sample[np.minimum((middles * len(sample)).astype(int), len(sample) - 1)]
    return float((widths @ np.abs(place(one) - place(other))).mean())
