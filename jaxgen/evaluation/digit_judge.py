"""Does a picture show the digit that its caption asks for? A classifier trained on real pictures only says so."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxgen import types
from jaxgen.evaluation.judge import Verdict


@dataclasses.dataclass(frozen=True)
class DigitJudge:
    """A support vector classifier (radial kernel, on pixels) that has learnt the labels of the training split.

    Attributes:
      gamma, penalty: scikit-learn's `gamma` on pixels in [0, 1], and `C`.
    """

    gamma: float = 0.1
    penalty: float = 10.0

    def validate(self) -> None:
        for name in ("gamma", "penalty"):
            if getattr(self, name) <= 0:
                raise types.BadInput(name, getattr(self, name), "a positive number")

    def check(self, experiment: Any) -> None:
        if "label" not in experiment.data.features():
            raise types.BadInput("evaluation.judge", type(self).__name__, "a source with labels, or evaluation.judge=none")

    def judge(self, images: np.ndarray, rows: dict[str, np.ndarray], data: Any) -> Verdict:
        """See `Judge.judge`; the table has a row for each digit asked for."""
        from sklearn.svm import SVC

        real = {split: data.open(split, 0, shuffle=False) for split in ("train", "test")}
        real = {split: examples.rows(range(len(examples))) for split, examples in real.items()}
        classifier = SVC(C=self.penalty, gamma=self.gamma).fit(_pixels(real["train"]["image"]), real["train"]["label"])
        seen = classifier.predict(_pixels(images))
        labels = np.unique(real["train"]["label"])
        counts = [[int(np.sum((rows["label"] == asked) & (seen == found))) for found in labels] for asked in labels]
        return Verdict(
            scores={"caption_agreement": (seen == rows["label"]).astype(float)},
            accuracy=float(classifier.score(_pixels(real["test"]["image"]), real["test"]["label"])),
            confusion={"labels": [str(label) for label in labels], "counts": counts},
        )


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255.0
