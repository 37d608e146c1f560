import dataclasses

import numpy as np
import pytest

from jaxgen.data import pipeline
from jaxgen.data.synthetic import Synthetic
from jaxgen.evaluation import evaluation, frechet, real
from jaxgen.evaluation.digit_judge import DigitJudge
from jaxgen.evaluation.judge import Verdict

DATA = pipeline.Data(source=Synthetic(count=400))


@pytest.fixture(scope="module")
def splits():
    return real.read(DATA, "train"), real.read(DATA, "test")


@dataclasses.dataclass(frozen=True)
class Says:
    """A judge that says what it is told."""

    agreement: tuple
    other: tuple

    def judge(self, images, rows, data):
        scores = {"caption_agreement": np.array(self.agreement, float), "other": np.array(self.other, float)}
        return Verdict(scores, 0.5, {"overall": 0.25}, {"labels": ["a"], "counts": [[1]]})


def score(splits, images, judge=None, finite=None, **options):
    train, test = splits
    found = evaluation.Evaluation(judge=judge, resamples=5, **options)
    rows = {name: values[: len(images)] for name, values in test.rows.items()}
    finite = np.ones(len(images), bool) if finite is None else finite
    return evaluation.score(found, images, finite, rows, train, test, DATA)


def test_the_test_pictures_themselves_are_perfect(splits):
    figures = score(splits, splits[1].images, DigitJudge()).figures
    assert figures["frechet_distance"] == pytest.approx(0, abs=1e-9)
    assert figures["precision"] == figures["recall"] == 1 and figures["memorised"] == 0
    assert figures["caption_agreement"] == figures["judge_accuracy"] > 0.95
    assert figures["flags"] == []


def test_copies_of_training_are_found_out(splits):
    train, _ = splits
    found = score(splits, train.images)
    assert found.figures["memorised"] == 1 > found.figures["memorised_real"]
    np.testing.assert_array_equal(found.neighbours[:, 0], train.images)
    assert found.distances[:, 0].max() < 1e-6 and found.neighbours.shape[:2] == (400, 4)
    # The reference row is training pictures in the place of samples, and here they are the samples.
    assert found.figures["frechet_distance"] == pytest.approx(found.figures["frechet_distance_real"])
    assert found.figures["recall"] == found.figures["recall_real"]


def test_references_do_not_depend_on_the_samples(splits):
    one, other = (score(splits, images).figures for images in (splits[1].images, 255 - splits[1].images))
    for name in one:
        if name.endswith(("_real", "_class_gaussian")):
            assert one[name] == other[name], name
    assert other["frechet_distance"] > 100 * other["frechet_distance_class_gaussian"]
    assert other["precision"] == other["recall"] == 0


def test_references_are_as_many_as_the_samples(splits):
    few = score(splits, splits[1].images[:40]).figures
    train, test = splits
    moments = frechet.moments(train.images[:40].reshape(40, -1) / 255)
    expected = frechet.distance(moments, frechet.moments(test.images.reshape(len(test.images), -1) / 255))
    # Forty of ten classes, evenly spaced: not the first forty, but as few.
    assert few["frechet_distance_real"] == pytest.approx(expected, rel=0.2)
    assert few["frechet_distance_real"] > 2 * score(splits, test.images).figures["frechet_distance_real"]


def test_scores_are_averaged_where_they_apply(splits):
    _, test = splits
    count = 80
    agreement, other = np.arange(count) % 3 == 0, np.where(np.arange(count) < 20, 1.0, np.nan)
    figures = score(splits, test.images[:count], Says(tuple(agreement), tuple(other))).figures
    rows = {name: values[:count] for name, values in test.rows.items()}
    assert figures["caption_agreement"] == agreement.mean() and figures["other"] == 1
    assert figures["caption_agreement_en"] == agreement[rows["language"] == 0].mean()
    assert figures["caption_agreement_zh"] == agreement[rows["language"] == 1].mean()
    assert figures["caption_agreement_heldout"] == agreement[rows["heldout"]].mean()
    assert figures["judge_accuracy"] == 0.5 and figures["overall"] == 0.25 and figures["confusion"]["labels"] == ["a"]


@pytest.mark.parametrize(
    "spoil, flag",
    [
        (lambda images: images[:20], "samples: 20 are few"),
        (lambda images: images[:60], "frechet_distance: 60 samples in 64 dimensions"),
        (lambda images: np.broadcast_to(images[:1], images.shape), "samples: all are the same picture"),
        (lambda images: np.zeros_like(images), "samples: 400 of 400 are of one colour throughout"),
    ],
)
def test_what_makes_figures_doubtful_is_flagged(splits, spoil, flag):
    figures = score(splits, spoil(splits[1].images)).figures
    assert any(found.startswith(flag) for found in figures["flags"])


def test_what_was_not_finite_is_flagged(splits):
    images = splits[1].images
    finite = np.arange(len(images)) != 7
    assert "samples: 1 of 400 were not finite and count as drawn" in score(splits, images, finite=finite).figures["flags"]


def test_a_limit_on_training_pictures_spreads_them_and_is_flagged(splits):
    train = real.read(DATA, "train", 50)
    assert len(train.images) == 50 and train.total == 400 and train.rows["index"].max() > 380
    figures = score((train, splits[1]), splits[1].images).figures
    assert "memorised: looked through 50 of 400 training pictures" in figures["flags"]


def test_classes_that_training_lacks_are_flagged_and_not_compared(splits):
    train, test = splits
    one = train.labels == 0
    part = dataclasses.replace(train, rows={name: values[one] for name, values in train.rows.items()})
    rows = test.labels == 5
    other = dataclasses.replace(test, rows={name: values[rows] for name, values in test.rows.items()})
    figures = score((part, other), other.images).figures
    assert "recall_real" not in figures and "recall" in figures
    assert any(flag.startswith("real: 0 training pictures") for flag in figures["flags"])
