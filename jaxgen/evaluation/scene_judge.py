"""Does a picture show the scene that its caption asks for? The exact checker of scenes reads it and says so."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tqdm

from jaxgen import types
from jaxgen.data.scenes import checker, geneval, questions, scene, source
from jaxgen.evaluation.judge import Verdict

_OTHER = "other"


@dataclasses.dataclass(frozen=True)
class SceneJudge:
    """Scores by what is in a picture: `caption_agreement` (all of the prompt, and nothing besides), `colour_shape_count` (the same
    without relation and background), the six tasks of GenEval, and `dpg`, the share of a prompt's questions that are answered yes.
    """

    def check(self, experiment: Any) -> None:
        if not isinstance(experiment.data.source, source.Scenes):
            found = f"{type(self).__name__} with data.source {type(experiment.data.source).__name__}"
            raise types.BadInput("evaluation.judge", found, "data.source=scenes, or another judge")

    def judge(self, images: np.ndarray, rows: dict[str, np.ndarray], data: Any) -> Verdict:
        """See `Judge.judge`; the table has a row for each shape asked for alone, a column for what was read."""
        examples = data.open("test", 0, shuffle=False)
        prompts = examples.prompts(rows["index"])
        readings = _read(images, "reading samples")
        accepted = np.array([checker.accepts(*pair) for pair in zip(readings, prompts, strict=True)], float)
        grouped = np.array([_has_groups(*pair) for pair in zip(readings, prompts, strict=True)], float)
        unseen = np.array([source.unseen(prompt) for prompt in prompts])
        correct = np.array([geneval.score(*pair) for pair in zip(readings, prompts, strict=True)], float)
        tasks = [prompt.task for prompt in prompts]
        scores = {
            "caption_agreement": accepted,
            "colour_shape_count": grouped,
            "colour_shape_count_heldout": np.where(rows["heldout"], grouped, np.nan),
            "colour_shape_count_unseen": np.where(unseen, grouped, np.nan),
            "dpg": np.array([_answered(*pair) for pair in zip(readings, prompts, strict=True)]),
        }
        for task in scene.TASKS:
            scores[f"geneval_{task}"] = np.where([each == task for each in tasks], correct, np.nan)
        numbers = list(range(len(examples)))
        real = _read(examples.rows(numbers)["image"], "reading real pictures")
        right = [checker.accepts(*pair) for pair in zip(real, examples.prompts(numbers), strict=True)]
        return Verdict(
            scores=scores,
            accuracy=float(np.mean(right)),
            figures={"geneval": geneval.summary(correct > 0, tasks)["geneval"]},
            confusion=_confusion(readings, prompts),
        )


def _read(images: np.ndarray, what: str) -> list[checker.Reading]:
    return [checker.read(image) for image in tqdm.tqdm(images, desc=what, unit="image", disable=None, leave=False)]


def _has_groups(reading: checker.Reading, prompt: scene.Prompt) -> bool:
    return min(reading.confidences, default=0.0) >= checker.THRESHOLD and scene.has_groups(reading.scene, prompt)


def _answered(reading: checker.Reading, prompt: scene.Prompt) -> float:
    graph = questions.graph(prompt)
    return questions.score(graph, questions.answers(reading, graph))


def _confusion(readings: list[checker.Reading], prompts: list[scene.Prompt]) -> dict[str, Any]:
    labels = [*scene.SHAPES, _OTHER]
    counts = np.zeros((len(labels), len(labels)), int)
    for reading, prompt in zip(readings, prompts, strict=True):
        if prompt.counts() == 1:
            shown = [thing.shape for thing in reading.scene.objects]
            counts[labels.index(prompt.groups[0].shape), labels.index(shown[0] if len(shown) == 1 else _OTHER)] += 1
    return {"labels": labels, "counts": counts.tolist()}
