"""The training runs behind the claims on alignment and on decoupling: small class-conditional transformers on real digits.

Where a generator is aligned, its teacher is an encoder trained on the same pictures without labels, by the ordinary step; what that
costs is told.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import time

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression

from jaxgen import experiment as experiments
from jaxgen import mup, types
from jaxgen.autoencoders.identity import Identity
from jaxgen.data.digits_captioned import DigitsCaptioned
from jaxgen.data.pipeline import Data
from jaxgen.encoders.dinov2 import DINOv2
from jaxgen.encoders.self_supervised import MaskedEncoder
from jaxgen.encoders.teacher import RandomTeacher
from jaxgen.models.transformer import Transformer
from jaxgen.objectives.alignment import TEACHER, Alignment
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.objectives.masked_modelling import MaskedModelling
from jaxgen.parallel.mesh import MeshShape
from jaxgen.reproduce import convergence
from jaxgen.training import coordinate_check, flops, rate_sweep
from jaxgen.training import step as steps
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training

WIDTH, DEPTH, BLOCK, BATCH = 64, 6, 2, 32
SIZE = {"width": WIDTH, "depth": DEPTH, "head_dim": 16, "scaling": mup.Scaling(base_width=WIDTH)}
"""Of all generators. They are aligned behind a third of the blocks, as REPA's SiT-B/2 behind the fourth of twelve."""

ENCODER = MaskedEncoder(tower=DINOv2(width=64, depth=4))
DATA = Data(source=DigitsCaptioned(), batch_size=BATCH, text_length=40)


def generator(model: Transformer, plan: convergence.Plan, aligned: bool = False) -> experiments.Experiment:
    """An experiment with one model, whose teacher, if any, has the shape of `ENCODER`."""
    alignment = Alignment(teacher=RandomTeacher(module=ENCODER), block=BLOCK) if aligned else None
    return _experiment(model, FlowMatching(alignment=alignment), AdamW(warmup_steps=20), plan.steps)


def _experiment(model: object, objective: types.Objective, optimizer: AdamW, count: int) -> experiments.Experiment:
    return experiments.Experiment(
        model=model,
        autoencoder=Identity(),
        objective=objective,
        data=DATA,
        optimizer=optimizer,
        training=Training(steps=count, ema=(0.99,)),
        sampler=None,
        mesh=MeshShape(data=1),
    )


class Encoder:
    """The self-supervised encoder: trained when its weights are first asked for, or its cost, and kept."""

    def __init__(self, runs: convergence.Runs) -> None:
        self._runs = runs
        optimizer = AdamW(learning_rate=4e-3, schedule="cosine", warmup_steps=100, weight_decay=0.05)
        tree = _experiment(ENCODER, MaskedModelling(), optimizer, runs.plan.encoder_steps)
        self._experiment = dataclasses.replace(tree, data=runs.data)

    @functools.cached_property
    def built(self) -> steps.Step:
        return steps.build(self._experiment, self._runs.mesh)

    @functools.cached_property
    def _trained(self) -> tuple[types.PyTree, convergence.Record]:
        start = time.perf_counter()
        state, count = self.built.initial(np.uint32(0)), self._experiment.training.steps
        with self._runs.batches() as batches:
            trained = coordinate_check.trained(self.built, state, {}, batches, count)
            ((_, state, report),) = collections.deque(trained, maxlen=1)
        params, loss = jax.block_until_ready((state.ema["model"]["0.99"], report.metrics["loss"].value()))
        return params, convergence.Record((count,), (float(loss),), time.perf_counter() - start)

    def frozen(self) -> dict[str, types.PyTree]:
        """The frozen networks of a generator aligned with it."""
        return {TEACHER: self._trained[0]}

    @property
    def start(self) -> str:
        """Names its weights in the names of runs."""
        return f"masked encoder {rate_sweep.key(self._experiment, self._experiment.optimizer.learning_rate, 0)}"

    @functools.cached_property
    def seconds(self) -> float:
        """What its training took, compiling included, whenever that was."""
        return self._runs.records.of(self.start, lambda: self._trained[1]).seconds

    @functools.cached_property
    def training_flops(self) -> float:
        """FLOPs of its training."""
        tree = self._experiment
        return flops.per_example(tree, self.built) * tree.data.batch_size * tree.training.steps

    def probes(self) -> dict[str, float]:
        """Share of test digits that a linear classifier of mean features knows: of this encoder, of a random one, of pixels."""
        kinds = {"self-supervised": self._trained[0], "random": self.built.initial(np.uint32(1)).params["model"]}
        of = jax.jit(lambda params, images: ENCODER.apply({"params": params}, images, method="features").mean(axis=1))
        sets = {split: self._runs.pictures(split) for split in ("train", "test")}
        found = {}
        for name, params in kinds.items():
            found[name] = _probe({split: (np.asarray(of(params, images)), labels) for split, (images, labels) in sets.items()})
        found["pixels"] = _probe({split: (images.reshape(len(images), -1), labels) for split, (images, labels) in sets.items()})
        return found


def _probe(sets: dict[str, tuple[np.ndarray, np.ndarray]]) -> float:
    (train, labels), test = sets["train"], sets["test"]
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-6
    classifier = LogisticRegression(max_iter=1000).fit((train - mean) / deviation, labels)
    return float(classifier.score((test[0] - mean) / deviation, test[1]))


def encoder_line(encoder: Encoder) -> str:
    """The encoder's cost and worth in words."""
    known = ", ".join(f"{name} {share:.3f}" for name, share in encoder.probes().items())
    return (
        f"the encoder: {encoder.training_flops:.4g} FLOPs, {encoder.seconds:.0f} s;"
        f" digits known from mean features by a linear classifier: {known}"
    )
