import numpy as np
import pytest

from jaxgen.data import pipeline
from jaxgen.data.scenes import scene, source
from jaxgen.data.scenes.source import Scenes
from jaxgen.evaluation.scene_judge import SceneJudge

COUNT = 96


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """(judge of uint8 pictures, rows) on a small data set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "EXAMPLES", {"train": 1, "test": COUNT})
        data = pipeline.Data(source=Scenes(str(tmp_path_factory.mktemp("tfds"))), resolution=32, channels=3, text_length=64)
        rows = data.open("test", 0, shuffle=False).rows(range(COUNT))
        return lambda images: SceneJudge().judge(images, rows, data), rows


def test_real_pictures_are_right_in_everything(judged):
    judge, rows = judged
    verdict = judge(rows["image"])
    assert verdict.accuracy == 1 and verdict.figures["geneval"] == 1
    for name, values in verdict.scores.items():
        assert np.nanmean(values) == 1, name
    np.testing.assert_array_equal(np.isfinite(verdict.scores["colour_shape_count_heldout"]), rows["heldout"])
    assert sum(np.isfinite(verdict.scores[f"geneval_{task}"]).sum() for task in scene.TASKS) == COUNT
    counts = np.array(verdict.confusion["counts"])
    assert counts.sum() == np.trace(counts) > 0


def test_pictures_of_other_captions_and_empty_ones_are_wrong(judged):
    judge, rows = judged
    other = judge(np.roll(rows["image"], 1, axis=0))
    assert other.scores["caption_agreement"].mean() < 0.1 and other.scores["dpg"].mean() < 0.8
    assert other.accuracy == 1
    empty = judge(np.full_like(rows["image"], 230))
    assert empty.scores["caption_agreement"].sum() == empty.figures["geneval"] == 0
    assert np.array(empty.confusion["counts"])[:, :-1].sum() == 0
