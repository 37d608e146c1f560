"""GenEval's six tasks on scenes (Ghosh et al., arXiv 2310.11513), with the checker in the place of detector and colour classifier.

An object counts above a confidence of 0.3, in counting 0.9. Every group of the prompt is an `include` clause of shape, count and
colour; what else is in the picture is passed over, except in counting, where one more of the shape is wrong. Sizes and backgrounds,
which GenEval's grammar lacks, are passed over. Where two groups have one shape, each is looked for in its own colour.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxgen.data.scenes import scene
from jaxgen.data.scenes.checker import Reading

_CONFIDENCE = 0.3
_COUNTING_CONFIDENCE = 0.9


def score(reading: Reading, prompt: scene.Prompt) -> bool:
    """Whether one picture is correct."""
    threshold = _COUNTING_CONFIDENCE if prompt.task == "counting" else _CONFIDENCE
    ranked = sorted(zip(reading.confidences, reading.scene.objects, strict=True), key=lambda pair: -pair[0])
    found = [thing for confidence, thing in ranked if confidence > threshold]
    chosen = []
    for group in prompt.groups:
        of_shape = [thing for thing in found if thing.shape == group.shape]
        fitting = [thing for thing in of_shape if group.colour in (None, thing.colour)]
        if len(fitting) < group.count or (prompt.task == "counting" and len(of_shape) > group.count):
            return False
        chosen.append(fitting[: group.count])
    if prompt.relation is None:
        return True
    first, second = chosen
    return all(scene.relation(a, b) == prompt.relation for a in first for b in second)


def summary(correct: np.ndarray, tasks: Sequence[str]) -> dict[str, float]:
    """`geneval_<task>` for each task present, and `geneval`, the mean of the tasks whatever their sizes.

    Args:
      correct: bool [n], one a picture. tasks: n, the task of each.
    """
    tasks = np.asarray(tasks)
    found = {f"geneval_{task}": float(np.mean(correct[tasks == task])) for task in scene.TASKS if (tasks == task).any()}
    return found | {"geneval": float(np.mean(list(found.values())))}
