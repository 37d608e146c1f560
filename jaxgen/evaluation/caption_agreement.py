"""Does a picture show the digit that its caption asks for? A judge trained on real digits only says so."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxgen import types


@dataclasses.dataclass(frozen=True)
class CaptionAgreement:
    """Share of pictures that a support vector classifier (radial kernel, on pixels) takes for the captioned digit.

    Attributes:
      pictures: how many are drawn for it at the end of training, from captions of the test split.
      gamma, penalty: of the classifier; scikit-learn's `gamma` on pixels in [0, 1], and `C`.
    """

    pictures: int = 355
    gamma: float = 0.1
    penalty: float = 10.0

    figures = ("caption_agreement", "judge_accuracy")

    def validate(self) -> None:
        for name in ("pictures", "gamma", "penalty"):
            if getattr(self, name) <= 0:
                raise types.BadInput(name, getattr(self, name), "a positive number")

    def check(self, experiment: Any) -> None:
        if "label" not in experiment.data.features():
            raise types.BadInput("evaluation", type(self).__name__, "a source with labels")

    def measure(self, images: np.ndarray, rows: dict[str, np.ndarray], data: Any) -> dict[str, float]:
        """Scores uint8 pictures [n, H, W, C] against the labels of their rows.

        Returns:
          `caption_agreement`, and `judge_accuracy`: the share of real test pictures that the judge gets right.
        """
        from sklearn.svm import SVC

        real = {split: data.open(split, 0, shuffle=False) for split in ("train", "test")}
        real = {split: examples.rows(range(len(examples))) for split, examples in real.items()}
        judge = SVC(C=self.penalty, gamma=self.gamma).fit(_pixels(real["train"]["image"]), real["train"]["label"])
        return {
            "caption_agreement": float(np.mean(judge.predict(_pixels(images)) == rows["label"])),
            "judge_accuracy": float(judge.score(_pixels(real["test"]["image"]), real["test"]["label"])),
        }


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255.0
