"""What an evaluation asks of a judge: whether each picture shows what its caption asks for."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Attributes:
    scores: by name, float [n] in [0, 1], one a picture, NaN where it does not apply. `caption_agreement` is always there.
    accuracy: mean `caption_agreement` of real test pictures: how far the judge itself can be trusted.
    figures: further numbers by name.
    confusion: `labels` and `counts`, rows what was asked for, columns what was seen; None where there is no such table.
    """

    scores: dict[str, np.ndarray]
    accuracy: float
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    confusion: dict[str, Any] | None = None


class Judge(Protocol):
    """Configuration of a judge, which has seen real pictures only."""

    def check(self, experiment: Any) -> None:
        """Raises BadInput where it cannot judge the experiment's data; option names are full."""

    def judge(self, images: np.ndarray, rows: dict[str, np.ndarray], data: Any) -> Verdict:
        """Judges uint8 pictures [n, H, W, C] drawn for these rows of the test split."""
