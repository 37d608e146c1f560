"""At which times the network is asked: decreasing from 1 (noise) to exactly 0 (data)."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol, TypeVar

import jax
import numpy as np

from jaxgen.types import BadInput

Times = TypeVar("Times", float, np.ndarray, jax.Array)


def shift(t: Times, alpha: float) -> Times:
    """Times moved towards noise for α > 1: t' = α t / (1 + (α - 1) t), any shape.

    Adds ln α to logit t, that is, takes 2 ln α off the log-SNR: a larger picture, whose neighbouring pixels average the
    noise away, needs more of it to be as uncertain. Keeps 0 and 1. Serves the grid of sampling and the distribution of
    training times alike (Esser et al. 2024, arXiv:2403.03206, eq. 23).
    """
    return alpha * t / (1 + (alpha - 1) * t)


class TimeGrid(Protocol):
    """Configuration of the times of a sampler."""

    def __call__(self, steps: int) -> np.ndarray:
        """[steps + 1] float32, strictly decreasing from 1 to 0."""


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Equal steps in t, then `shift`.

    Attributes:
      shift: α of `jaxgen.samplers.time_grids.shift`; 1 leaves the times equally spaced.
      last_step: length of the step to t = 0, before the shift, where it is to differ from the others (SiT, arXiv 2401.08740, and
        DDT, arXiv 2504.05741: 0.04); None makes all equal. A grid of one step has that one alone.
    """

    shift: float = 1.0
    last_step: float | None = None

    def validate(self) -> None:
        """Raises BadInput for a shift that is not positive and finite, and for a last step that is no part of the way."""
        if not (math.isfinite(self.shift) and self.shift > 0):
            raise BadInput("shift", self.shift, "a finite number above 0")
        if self.last_step is not None and not 0 < self.last_step < 1:
            raise BadInput("last_step", self.last_step, "between 0 and 1, or none")

    def __call__(self, steps: int) -> np.ndarray:
        times = np.linspace(1.0, 0.0, steps + 1)
        if self.last_step is not None and steps > 1:
            times[:-1] = np.linspace(1.0, self.last_step, steps)
        # Rounded once, at the end: both ends come out exact.
        return shift(times, self.shift).astype(np.float32)
