"""The configuration of an evaluation, and the figures that it makes of a set of samples.

Every figure of samples stands beside the same figure of real training pictures (`…_real`, what a perfect generator would get) and
of draws from one Gaussian a class (`…_class_gaussian`, what a generator has to beat): as many of them, against the same test
pictures.
"""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np

from jaxgen import types
from jaxgen.data import captions
from jaxgen.evaluation import baselines, bootstrap, frechet, neighbours, real
from jaxgen.evaluation.features import FeatureSpace, Pixels
from jaxgen.evaluation.judge import Judge

_SHOWN_NEIGHBOURS = 4


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured of a checkpoint, by `jaxgen evaluate` and at the end of training.

    Attributes:
      samples: number of pictures drawn, one for each of the first captions of the test split; None takes them all.
      features: space in which sets of pictures are compared.
      judge: says whether a picture shows what its caption asks for; None where nobody can.
      neighbours: k of precision and recall.
      resamples: of the bootstrap.
      train_images: training pictures that are held in memory, for the baselines and to look for copies.
      reference: .npz with `mu` [D] and `sigma` [D, D] of features, in the place of the test pictures in the Fréchet distance; empty
        for the test pictures. `jaxgen evaluate --statistics FILE` makes such a file of test pictures.
    """

    samples: int | None = None
    features: FeatureSpace = dataclasses.field(
        default=Pixels(), metadata={"choices": {"pixels": "jaxgen.evaluation.features:Pixels"}}
    )
    judge: Judge | None = dataclasses.field(
        default=None,
        metadata={
            "choices": {
                "digits": "jaxgen.evaluation.digit_judge:DigitJudge",
                "scenes": "jaxgen.evaluation.scene_judge:SceneJudge",
            }
        },
    )
    neighbours: int = 3
    resamples: int = 200
    train_images: int = 50_000
    reference: str = ""

    def validate(self) -> None:
        """Raises BadInput, with option names relative to this dataclass."""
        for name, least in (("neighbours", 1), ("resamples", 1), ("train_images", 2)):
            if getattr(self, name) < least:
                raise types.BadInput(name, getattr(self, name), f"at least {least}")
        if self.samples is not None and self.samples <= self.neighbours:
            raise types.BadInput("samples", self.samples, f"more than neighbours={self.neighbours}")

    def wanted(self, test: real.Split) -> dict[str, np.ndarray]:
        """The rows of the test split that samples are drawn for.

        Raises:
          BadInput: more samples than captions, or too few captions to measure anything; the option's name is full.
        """
        count = len(test.images)
        if count <= self.neighbours:
            raise types.BadInput("data", f"{count} test pictures", f"more than evaluation.neighbours={self.neighbours}")
        if self.samples is not None and self.samples > count:
            raise types.BadInput("evaluation.samples", self.samples, f"at most {count}, the captions of the test split")
        return {name: values[: self.samples] for name, values in test.rows.items()}

    def target(self, test: real.Split) -> frechet.Moments:
        """Moments that Fréchet distances are measured to: those of `reference`, or of the test pictures.

        Raises:
          BadInput: a reference that cannot be read, or one of another size.
        """
        size = self.features.features(test.images[:1]).shape[1]
        if not self.reference:
            return frechet.moments(self.features.features(test.images))
        import upath

        try:
            with upath.UPath(self.reference).open("rb") as file, np.load(file, allow_pickle=False) as saved:
                moments = frechet.from_covariance(saved["mu"], saved["sigma"])
        # Remote file systems and damaged archives raise errors of their own.
        except Exception as error:
            needed = f"a .npz with mu [{size}] and sigma [{size}, {size}] ({error})"
            raise types.BadInput("evaluation.reference", self.reference, needed) from None
        if len(moments.mean) != size:
            found = f"{self.reference} of {len(moments.mean)} dimensions"
            raise types.BadInput("evaluation.reference", found, f"{size} dimensions, as {type(self.features).__name__} gives here")
        return moments

    def statistics(self, test: real.Split) -> bytes:
        """The test pictures' `mu` and `sigma` as .npz, for `reference` elsewhere."""
        moments = frechet.moments(self.features.features(test.images))
        data = io.BytesIO()
        np.savez_compressed(data, mu=moments.mean, sigma=moments.covariance)
        return data.getvalue()


@dataclasses.dataclass(frozen=True)
class Scores:
    """Attributes:
    figures: numbers by name, with `intervals` by name and `flags`, a list of warnings; JSON-ready.
    neighbours: uint8 [n, k, H, W, C], the training pictures nearest to each sample. distances: [n, k], in the feature space.
    """

    figures: dict[str, Any]
    neighbours: np.ndarray
    distances: np.ndarray


def score(
    evaluation: Evaluation,
    images: np.ndarray,
    finite: np.ndarray,
    rows: dict[str, np.ndarray],
    train: real.Split,
    test: real.Split,
    data: Any,
) -> Scores:
    """Scores samples uint8 [n, H, W, C] that were drawn for these rows of the test split.

    Args:
      finite: bool [n], false where the sampler's result was not finite; the picture then stands for nothing, and is flagged.
    """
    space, k = evaluation.features, evaluation.neighbours
    labels = rows.get("label", np.zeros(len(images), np.int32))
    chosen = baselines.stratified(train.labels, labels)
    target = evaluation.target(test)
    tested = space.features(test.images)
    sets = {
        "": space.features(images),
        "_real": space.features(train.images[chosen]),
        "_class_gaussian": space.features(baselines.class_gaussian(train.images, train.labels, labels)),
    }
    figures: dict[str, Any] = {}
    intervals: dict[str, list[float]] = {}
    flags = list(_flags(evaluation, images, finite, sets, train))

    def share(name: str, hits: np.ndarray) -> None:
        hits = hits[np.isfinite(hits)]
        if len(hits):
            figures[name] = float(hits.mean())
            # Laid around the figure, an interval may reach past what a share can be.
            intervals[name] = np.clip(bootstrap.interval(hits, np.mean, evaluation.resamples), 0, 1).tolist()

    ball = neighbours.radii(tested, k)
    for suffix, features in sets.items():
        if len(features) <= k:
            flags.append(f"{suffix.strip('_')}: {len(features)} training pictures of the classes asked for; not compared")
            continue
        figures[f"frechet_distance{suffix}"] = frechet.distance(frechet.moments(features), target)
        moved = lambda drawn: frechet.distance(frechet.moments(drawn), target)
        intervals[f"frechet_distance{suffix}"] = bootstrap.interval(features, moved, evaluation.resamples)
        share(f"precision{suffix}", neighbours.inside(features, tested, ball).astype(float))
        share(f"recall{suffix}", neighbours.inside(tested, features, neighbours.radii(features, k)).astype(float))

    blocks = lambda: (space.features(train.images[i : i + 1024]) for i in range(0, len(train.images), 1024))
    places, distances = neighbours.nearest(sets[""], blocks(), _SHOWN_NEIGHBOURS)
    to_test = neighbours.nearest(sets[""], [tested], 1)[1][:, 0]
    share("memorised", (distances[:, 0] < to_test).astype(float))
    own = neighbours.nearest(tested, blocks(), 1)[1][:, 0]
    share("memorised_real", (own < neighbours.nearest_other(tested)).astype(float))

    if evaluation.judge is not None:
        verdict = evaluation.judge.judge(images, rows, data)
        for name, values in verdict.scores.items():
            share(name, values)
        agreed = verdict.scores["caption_agreement"]
        for name, where in _groups(rows).items():
            share(f"caption_agreement_{name}", agreed[where])
        figures |= {"judge_accuracy": verdict.accuracy} | verdict.figures
        if verdict.confusion is not None:
            figures["confusion"] = verdict.confusion
    figures |= {"intervals": intervals, "flags": flags}
    return Scores(figures, train.images[places], distances)


def _groups(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parts of the captions that are scored by themselves."""
    found = {}
    if "language" in rows:
        found |= {code: rows["language"] == i for i, code in enumerate(captions.CODES)}
    if "heldout" in rows:
        found["heldout"] = rows["heldout"]
    return found


def _flags(evaluation: Evaluation, images: np.ndarray, finite: np.ndarray, sets: dict[str, np.ndarray], train: real.Split):
    """What a reader has to know before trusting the figures."""
    count, size = sets[""].shape
    if not finite.all():
        yield f"samples: {int((~finite).sum())} of {count} were not finite and count as drawn"
    if count > 1 and (images == images[:1]).all():
        yield "samples: all are the same picture"
    flat = int((images.reshape(count, -1) == images.reshape(count, -1)[:, :1]).all(axis=1).sum())
    if flat:
        yield f"samples: {flat} of {count} are of one colour throughout"
    if count <= size:
        yield f"frechet_distance: {count} samples in {size} dimensions; compare it with {count} samples only"
    if count < 50:
        yield f"samples: {count} are few; look at the intervals"
    if len(train.images) < train.total:
        yield f"memorised: looked through {len(train.images)} of {train.total} training pictures"
