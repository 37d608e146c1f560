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
        return self._vertex()[0]

    @property
    def by_seed(self) -> np.ndarray:
        """What each seed makes of the optimum [seeds], to first order in its log losses (the delta method); the mean is `optimum`.

        A parabola through one seed's own losses may have no valley. NaN where there is no optimum, or where a neighbour of the best
        rate was not finite."""
        vertex, gradient = self._vertex()
        if not np.all(np.isfinite(gradient)):
            return np.full(self.losses.shape[1], np.nan)
        nearby = np.log(self.losses[self.best - 1 : self.best + 2])
        return vertex + gradient @ (nearby - nearby.mean(axis=1, keepdims=True))

    def described(self) -> dict[str, Any]:
        """For JSON; None stands for what is not a finite number."""
        return {
            "log2_rates": self.exponents.tolist(),
            "losses": [[finite(loss) for loss in row] for row in self.losses],
            "log2_best_rate": finite(self.optimum),
            "log2_best_rate_by_seed": [finite(vertex) for vertex in self.by_seed],
        }

    def _vertex(self) -> tuple[float, np.ndarray]:
        """The vertex and its gradient by the three mean log losses [3]."""
        i, nothing = self.best, np.full(3, np.nan)
        if not self.interior:
            return float("nan"), nothing
        left, middle, right = self.mean_log[i - 1 : i + 2]
        before, after = self.exponents[i] - self.exponents[i - 1], self.exponents[i + 1] - self.exponents[i]
        # Beside a run that was not finite the vertex lies where it goes as that loss grows: halfway to the other neighbour.
        if not (np.isfinite(left) and np.isfinite(right)):
            towards = (after if np.isfinite(right) else 0.0) - (before if np.isfinite(left) else 0.0)
            return float(self.exponents[i] + towards / 2), nothing
        # Slopes on both sides; a vertex v = e - (before · right slope + after · left slope) / 2 / (right slope - left slope).
        falling, rising = np.array([-1, 1, 0]) / before, np.array([0, -1, 1]) / after
        values = np.array([left, middle, right])
        numerator, denominator = before * rising + after * falling, rising - falling
        above, below = numerator @ values, denominator @ values
        if below <= 0:
            return float("nan"), nothing
        return float(self.exponents[i] - above / below / 2), -(numerator * below - denominator * above) / below**2 / 2


def slope(widths: Sequence[int], optima: Sequence[float]) -> float:
    """Slope of log₂ of the best rate on log₂ of the width; NaN where an optimum is missing, or from one width."""
    return float(slope_weights(widths) @ np.asarray(optima))


def slope_weights(widths: Sequence[int]) -> np.ndarray:
    """What each width's optimum is multiplied by in the least-squares slope, their sum [widths]."""
    distance = np.log2(widths) - np.mean(np.log2(widths))
    return distance / np.sum(distance**2) if len(widths) > 1 else np.full(len(widths), np.nan)


def finite(value: float) -> float | None:
    """The number, or None (null in JSON) where it is not finite."""
    return float(value) if math.isfinite(value) else None
