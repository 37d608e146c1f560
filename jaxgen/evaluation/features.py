"""Feature spaces in which sets of pictures are compared."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import numpy as np


class FeatureSpace(Protocol):
    """Configuration of a map from pictures to vectors, each picture by itself."""

    def features(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, C] to float64 [n, D]."""


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The pixels themselves, in [0, 1]. Right for tiny pictures; blind to what a shift of one pixel means in larger ones."""

    def features(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), math.prod(images.shape[1:])) / 255.0
