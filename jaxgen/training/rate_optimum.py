"""The best learning rate of a sweep and how it moves with width: vertex of a parabola, slope, interval over seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Curve:
    """Loss against learning rate at one width.

    Attributes:
      exponents: log₂ of the rates, ascending [R]. losses: [R, seeds], infinite where a run was not finite.
    """

    exponents: np.ndarray
    losses: np.ndarray

    @classmethod
    def of(cls, found: Mapping[float, Sequence[float]]) -> Curve:
        """From losses over seeds by log₂ of the rate."""
        exponents = sorted(found)
        return cls(np.array(exponents, float), np.array([found[e] for e in exponents], float))

    @property
    def mean_log(self) -> np.ndarray:
        """Mean over seeds of the natural logarithm of the loss [R]."""
        return np.log(self.losses).mean(axis=1)

    @property
    def best(self) -> int:
        """Place of the rate with the lowest mean log loss."""
        return int(np.argmin(self.mean_log))

    @property
    def interior(self) -> bool:
        """Whether the best rate has neighbours on both sides."""
        return 0 < self.best < len(self.exponents) - 1

    @property
    def optimum(self) -> float:
        """log₂ of the best rate: the vertex of the parabola through the mean log loss at the best rate and its neighbours; NaN
        where the best rate is at an end, as nothing says how far beyond it the optimum lies."""
        return self._vertex(self.mean_log)

    @property
    def by_seed(self) -> np.ndarray:
        """The vertex seed by seed, through the same three rates [seeds]."""
        return np.array([self._vertex(column) for column in np.log(self.losses).T])

    def described(self) -> dict[str, Any]:
        """For JSON; None stands for what is not a finite number."""
        return {
            "log2_rates": self.exponents.tolist(),
            "losses": [[finite(loss) for loss in row] for row in self.losses],
            "log2_best_rate": finite(self.optimum),
            "log2_best_rate_by_seed": [finite(vertex) for vertex in self.by_seed],
        }

    def _vertex(self, values: np.ndarray) -> float:
        i = self.best
        if not self.interior:
            return float("nan")
        left, middle, right = values[i - 1 : i + 2]
        before, after = self.exponents[i] - self.exponents[i - 1], self.exponents[i + 1] - self.exponents[i]
        # Beside a run that was not finite the vertex lies where it goes as that loss grows: halfway to the other neighbour.
        if not (np.isfinite(left) and np.isfinite(right)):
            towards = (after if np.isfinite(right) else 0.0) - (before if np.isfinite(left) else 0.0)
            return float(self.exponents[i] + towards / 2)
        rise, fall = (right - middle) / after, (middle - left) / before
        if rise <= fall:
            # One seed alone may lie on a line or a hill, which have no vertex.
            return float("nan")
        return float(self.exponents[i] + (before * rise + after * fall) / (fall - rise) / 2)


def slope(widths: Sequence[int], optima: Sequence[float]) -> float:
    """Slope of log₂ of the best rate on log₂ of the width; NaN where an optimum is missing."""
    if len(widths) < 2 or not np.all(np.isfinite(optima)):
        return float("nan")
    return float(np.polyfit(np.log2(widths), optima, 1)[0])


def finite(value: float) -> float | None:
    """The number, or None (null in JSON) where it is not finite."""
    return float(value) if math.isfinite(value) else None
