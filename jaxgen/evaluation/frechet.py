"""The Fréchet distance between two sets of features, each taken for a Gaussian (Heusel et al., arXiv 1706.08500).

d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½), covariances unbiased. With Σᵢ = Fᵢᵀ Fᵢ the last trace is the sum of the singular
values of F₁ F₂ᵀ: no square root of a matrix is taken, and it is exact where there are fewer samples than dimensions.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean [D] and a factor [r, D] of the covariance, factorᵀ · factor; float64."""

    mean: np.ndarray
    factor: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """[D, D]."""
        return self.factor.T @ self.factor

    @property
    def variance(self) -> float:
        """Trace of the covariance."""
        return float(np.sum(self.factor**2))


def moments(features: np.ndarray) -> Moments:
    """Mean and covariance of features [n, D].

    Raises:
      ValueError: fewer than two, or some that are not finite.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features: found {features.shape}, needed [n, D] with at least 2 samples")
    broken = int((~np.isfinite(features)).any(axis=1).sum())
    if broken:
        raise ValueError(f"features: found {broken} of {len(features)} samples not finite, needed finite ones")
    mean = features.mean(axis=0)
    factor = (features - mean) / np.sqrt(len(features) - 1)
    if len(factor) > factor.shape[1]:
        factor = np.linalg.qr(factor, mode="r")
    return Moments(mean, factor)


def from_covariance(mean: np.ndarray, covariance: np.ndarray) -> Moments:
    """Moments out of a published mean [D] and covariance [D, D]; eigenvalues below zero, which are rounding, count as zero.

    Raises:
      ValueError: shapes that do not fit together, or values that are not finite.
    """
    mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"statistics: found mean {mean.shape} and covariance {covariance.shape}, needed [D] and [D, D]")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError("statistics: found values that are not finite, needed finite ones")
    values, vectors = np.linalg.eigh(covariance)
    return Moments(mean, np.sqrt(values.clip(0))[:, None] * vectors.T)


def distance(a: Moments, b: Moments) -> float:
    """The squared Fréchet distance, as published figures are; never negative."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"moments: found {len(a.mean)} and {len(b.mean)} dimensions, needed the same")
    cross = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False).sum()
    return max(float(np.sum((a.mean - b.mean) ** 2) + a.variance + b.variance - 2 * cross), 0.0)
