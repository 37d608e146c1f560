"""Evaluating checkpoints, for `evaluate` and for the end of `train`: checks, samples, scores, reports.

All that can be refused is refused before anything compiles or is written.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import upath

import jaxgen
from jaxgen import experiment as experiments
from jaxgen import run, types
from jaxgen.commands import session
from jaxgen.evaluation import evaluation as evaluations
from jaxgen.evaluation import real, sample_store
from jaxgen.evaluation.report import page
from jaxgen.parallel.hosts import Hosts
from jaxgen.samplers.generator import Generator
from jaxgen.training import checkpoint, logs, manifest
from jaxgen.training import step as steps

log = logging.getLogger(__name__)

# How long hosts wait for host 0 to say what is to be drawn.
_SECONDS = 1800


@dataclasses.dataclass(frozen=True)
class Subject:
    """A run as it is evaluated: what it is, which checkpoint, the parameters of its autoencoder where that has any, the real
    pictures of its data, and those whose captions are drawn, in the tokens of this run."""

    folder: run.Run
    experiment: experiments.Experiment
    item: str
    step: int
    decoder: types.PyTree
    test: real.Split
    rows: dict[str, np.ndarray]


class Session:
    """One evaluation of one or more runs: the same captions, noise and figures for all, those of the first run.

    Args:
      runs: folders with the experiments to evaluate them by.
      mesh: to draw on.
      seed: of the noise.
      trust: packages whose classes the runs may name.

    Raises:
      BadInput: everything that the user has to change.
    """

    def __init__(
        self,
        runs: Sequence[tuple[run.Run, experiments.Experiment]],
        mesh: jax.sharding.Mesh,
        seed: int,
        hosts: Hosts,
        trust: tuple[str, ...] = (),
    ) -> None:
        first = runs[0][1]
        self.evaluation = first.evaluation or evaluations.Evaluation()
        self.mesh, self.seed, self.hosts, self.trust = mesh, seed, hosts, trust
        self._splits: dict[str, real.Split] = {}
        self.subjects = []
        for folder, experiment in runs:
            item = session.sampled_item(experiment, steps.generator_player(experiment))
            step, decoder = self._checkpoint(folder, experiment, item)
            test = self._read(experiment, "test")
            self.subjects.append(Subject(folder, experiment, item, step, decoder, test, self.evaluation.wanted(test)))
        self._check_comparable()
        self.evaluation.target(self.subjects[0].test)

    def run(self, comparison: upath.UPath | None = None) -> list[dict[str, Any]]:
        """Draws, scores and reports each run; returns the content of each metrics.json, on host 0.

        Args:
          comparison: where the page goes that shows several runs side by side.
        """
        found, pages = [], []
        for subject in self.subjects:
            drawn = self._draw(subject)
            if drawn is None:
                continue
            images, finite = drawn
            log.info("%s: scoring %d samples", subject.folder.root, len(images))
            train = self._read(subject.experiment, "train", self.evaluation.train_images)
            scores = evaluations.score(self.evaluation, images, finite, subject.rows, train, subject.test, subject.experiment.data)
            figures = self._about(subject) | scores.figures
            folder = subject.folder.evaluation
            run.write_whole(folder / "metrics.json", _json(figures))
            pages.append(self._page(subject, images, scores, figures))
            run.write_whole(folder / "report.html", page.render(pages[-1:], f"Evaluation of {pages[-1].name}").encode())
            for flag in figures["flags"]:
                log.warning("%s", flag)
            log.info("%s", folder / "report.html")
            found.append(figures)
        if comparison is not None and self.hosts.first:
            run.write_whole(comparison, page.render(pages, "Evaluation of " + ", ".join(one.name for one in pages)).encode())
            log.info("%s", comparison)
        return found

    def statistics(self) -> bytes:
        """Moments of the test pictures as .npz, for `evaluation.reference` elsewhere."""
        return self.evaluation.statistics(self.subjects[0].test)

    def _checkpoint(self, folder: run.Run, experiment: experiments.Experiment, item: str) -> tuple[int, types.PyTree]:
        with jax.set_mesh(self.mesh):
            target = {item: steps.build(experiment, self.mesh).state.items()[item]}
        with checkpoint.Checkpoints(folder, hosts=self.hosts) as checkpoints:
            step = session.drawing_checkpoint(checkpoints, folder, experiment, target)
            return step, session.decoder(checkpoints, step, experiment, self.mesh)

    def _read(self, experiment: experiments.Experiment, split: str, limit: int | None = None) -> real.Split:
        data = experiment.data
        key = repr((split, limit, data.source, data.resolution, data.channels, data.text_length, data.tokens))
        if key not in self._splits:
            self._splits[key] = real.read(data, split, limit)
        return self._splits[key]

    def _check_comparable(self) -> None:
        first = self.subjects[0]
        for subject in self.subjects[1:]:
            if (subject.test.fingerprint, subject.test.images.shape) != (first.test.fingerprint, first.test.images.shape):
                found = f"{subject.folder.root} with test pictures {subject.test.images.shape} ({subject.test.fingerprint})"
                needed = f"those of {first.folder.root}: {first.test.images.shape} ({first.test.fingerprint})"
                raise types.BadInput("run", found, needed)

    def _draw(self, subject: Subject) -> tuple[np.ndarray, np.ndarray] | None:
        """Samples and whether each was finite; None on other hosts than the first, which keeps them."""
        experiment, rows = subject.experiment, subject.rows
        count = len(rows["index"])

        def drawing(places: np.ndarray):
            with jax.set_mesh(self.mesh):
                target = {subject.item: steps.build(experiment, self.mesh).state.items()[subject.item]}
            with checkpoint.Checkpoints(subject.folder, hosts=self.hosts) as checkpoints:
                params = checkpoints.restore(subject.step, target)[subject.item]
            generator = Generator(experiment, self.mesh, self.seed, subject.decoder)
            fields = {name: values[places] for name, values in generator.conditions(rows).items()}
            yield from generator.images(params, fields, places)

        # Everything that a sample depends on, so that no stale one is taken for it.
        saved = manifest.recorded(subject.folder.checkpoints / str(subject.step))
        weights = sorted((name, entry.checksum) for name, entry in saved.items() if name.startswith(f"{subject.item}/"))
        asked = [rows[name].tobytes() for stream in experiment.model.streams for name in (stream, f"{stream}_mask") if name in rows]
        parts = (experiment.model, experiment.sampler, experiment.autoencoder, experiment.precision)
        facts = (
            [experiments.dump(part) for part in parts],
            weights,
            self.seed,
            subject.test.fingerprint,
            subject.test.images.shape,
            count,
            zlib.crc32(b"".join(asked)),
        )
        path = subject.folder.evaluation / f"samples-{subject.step:08d}-{zlib.crc32(repr(facts).encode()):08x}.npz"
        if self.hosts.count == 1:
            return sample_store.draw(path, count, experiment.sampler.images_per_device, drawing)
        asked: list[np.ndarray] = []

        def all_drawing(places: np.ndarray):
            asked.append(places)
            self._places(places)
            yield from drawing(places)

        if self.hosts.first:
            found = sample_store.draw(path, count, experiment.sampler.images_per_device, all_drawing)
            if not asked:
                self._places(np.arange(0))
            return found
        # What is there already, host 0 alone knows.
        if len(places := self._places(np.arange(0))):
            for _ in drawing(places):
                pass
        return None

    def _places(self, places: np.ndarray) -> np.ndarray:
        """The places among the samples that host 0 wants to be drawn."""
        return np.asarray(json.loads(self.hosts.gather("samples to draw", json.dumps(places.tolist()), _SECONDS)[0]), np.int64)

    def _about(self, subject: Subject) -> dict[str, Any]:
        """What was evaluated, and how."""
        judge = self.evaluation.judge
        return {
            "jaxgen": jaxgen.__version__,
            "run": subject.folder.root.name,
            "step": subject.step,
            "weights": subject.item,
            "seed": self.seed,
            "samples": len(subject.rows["index"]),
            "features": type(self.evaluation.features).__name__,
            "judge": type(judge).__name__ if judge else None,
            "reference": self.evaluation.reference or "test pictures",
            "data": subject.test.fingerprint,
            "sampler": experiments.dump(subject.experiment.sampler),
            "nfe": subject.experiment.sampler.nfe(subject.experiment),
        }

    def _page(self, subject: Subject, images: np.ndarray, scores: evaluations.Scores, figures: dict[str, Any]) -> page.EvaluatedRun:
        recipe, base = experiments.read_recipe(str(subject.folder.root), self.trust)
        return page.EvaluatedRun(
            name=subject.folder.root.name,
            metrics=figures,
            images=images,
            captions=captions_of(subject.experiment, subject.rows),
            real=subject.rows["image"],
            neighbours=scores.neighbours,
            distances=scores.distances,
            curves=logs.MetricsLog(subject.folder).rows(),
            options=experiments.flatten(subject.experiment),
            differences=experiments.difference(base, subject.experiment),
            recipe=recipe,
            versions=session.versions(),
        )


def captions_of(experiment: experiments.Experiment, rows: dict[str, np.ndarray]) -> list[str]:
    """What each row asks for, to be written below its picture."""
    if "text" in rows:
        return [experiment.data.tokenizer.decode(ids) for ids in rows["text"]]
    return [str(label) for label in rows["label"]]


def _json(figures: dict[str, Any]) -> bytes:
    return (json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
