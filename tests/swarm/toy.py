"""The toy of the sheet: 10 classes of 3 prototypes each, smooth 8 × 8 pictures under pixel noise; and runs of swarms on it."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.autoencoders.identity import Identity
from jaxgen.data import loader, order
from jaxgen.data.pipeline import Data
from jaxgen.encoders.pixel_classifier import PixelClassifier
from jaxgen.mup import Scaling
from jaxgen.objectives.classification import Classification
from jaxgen.parallel.mesh import MeshShape
from jaxgen.swarm import mdsl, sites
from jaxgen.swarm.partitions import Dirichlet
from jaxgen.swarm.settings import Swarm, SwarmExperiment
from jaxgen.training.optimizer import SGD
from jaxgen.training.settings import Training

SIDE, CLASSES, MODES, TESTED = 8, 10, 3, 1500


@functools.cache
def pictures(split, count):
    """float32 [count, 8, 8, 1] and labels int32 [count]; the splits share prototypes."""
    random = np.random.default_rng(1)
    prototypes = random.standard_normal((CLASSES * MODES, SIDE, SIDE))
    for _ in range(2):
        around = np.pad(prototypes, ((0, 0), (1, 1), (1, 1)), mode="wrap")
        prototypes = (prototypes + around[:, :-2, 1:-1] + around[:, 2:, 1:-1] + around[:, 1:-1, :-2] + around[:, 1:-1, 2:]) / 5
    prototypes *= 0.9 / prototypes.std(axis=(1, 2), keepdims=True)
    random = np.random.default_rng({"train": 2, "test": 3}[split])
    which = random.integers(0, CLASSES * MODES, count)
    drawn = prototypes[which] + random.standard_normal((count, SIDE, SIDE))
    return drawn[..., None].astype(np.float32), (which // MODES).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Toy:
    """A source of these pictures, in float32."""

    count: int = 3000

    classes = CLASSES

    def features(self, data):
        return {
            "image": jax.ShapeDtypeStruct((SIDE, SIDE, 1), np.float32),
            "label": jax.ShapeDtypeStruct((), np.int32),
            "weight": jax.ShapeDtypeStruct((), np.float32),
            "index": jax.ShapeDtypeStruct((), np.int32),
        }

    def open(self, data, split, seed, shuffle):
        return _Examples(split, self.count if split == "train" else TESTED, seed, shuffle)


class _Examples:
    def __init__(self, split, count, seed, shuffle):
        self._images, self._labels = pictures(split, count)
        self._order = order.permuted(count, seed) if shuffle else order.stored(count)
        self.fingerprint = f"toy-{split}-{count}"

    def __len__(self):
        return len(self._labels)

    def rows(self, numbers):
        places = self._order(numbers)
        fields = {"image": self._images[places], "label": self._labels[places]}
        return fields | {"weight": np.ones(len(places), np.float32), "index": places.astype(np.int32)}


@dataclasses.dataclass(frozen=True)
class ToyClassification(Classification):
    """Pictures as they are: they have unit noise, not bytes."""

    def prepare(self, views, batch, key):
        return batch


@dataclasses.dataclass(frozen=True)
class NoisyClassification(ToyClassification):
    """With noise drawn for every picture, as a generative objective draws it: the loss is another for other draws."""

    def prepare(self, views, batch, key):
        return batch | {"image": batch["image"] + 3 * jax.random.normal(key, batch["image"].shape)}


def experiment(swarm, rounds=30, seed=0, **changes):
    """The sheet's toy: 32 hidden units, 20 steps of SGD a round, rate 0.1, batches of 32."""
    options = {
        "model": PixelClassifier(),
        "autoencoder": Identity(),
        "objective": ToyClassification(),
        "data": Data(source=Toy(), batch_size=32),
        "optimizer": SGD(learning_rate=0.1, clip_norm=None),
        "training": Training(steps=rounds * swarm.local_steps, log_every=swarm.local_steps, ema=()),
        "sampler": None,
        "mesh": MeshShape(data=1),
        "seed": seed,
        "swarm": swarm,
    }
    return SwarmExperiment(**(options | changes))


def small(swarm=Swarm(), rounds=6, seed=0, **changes):
    """A swarm of four sites, eight hidden units and two local steps: properties do not need more."""
    swarm = dataclasses.replace(swarm, sites=4, local_steps=2, shared=24, partition=Dirichlet(0.3))
    options = {"model": PixelClassifier(width=8, scaling=Scaling(base_width=8)), "data": Data(source=Toy(600), batch_size=8)}
    return experiment(swarm, rounds, seed, **(options | changes))


class Running:
    """A swarm with its data, as the ordinary loop would drive it.

    Attributes:
      rows: metrics of the ends of rounds, as floats.
    """

    def __init__(self, tree, devices=1, step=None):
        tree.validate()
        self.experiment = tree
        self.mesh = mdsl.make_mesh(tree, jax.devices()[:devices])
        examples = sites.HeldExamples(tree.data.open("train", tree.seed, shuffle=False))
        self.divided = sites.divide(tree.swarm, tree.data, examples, tree.seed)
        with jax.set_mesh(self.mesh):
            self.step = mdsl.build(tree, self.mesh, self.divided) if step is None else step.with_data(self.divided)
            self.state = self.step.initial(np.uint32(tree.seed))
            self.frozen = self.step.load_frozen(np.uint32(tree.seed))
        self.done, self.rows = 0, []

    def batches(self, start):
        size = self.experiment.swarm.sites * self.experiment.data.batch_size
        features = self.experiment.data.features()
        return loader.batches(self.divided.examples, features, size, self.step.batch_layout, start, 2)

    def run(self, rounds, change=lambda batch: batch):
        """Trains so many rounds more; `change` sees every batch. Returns itself."""
        length = self.experiment.swarm.local_steps
        end = self.done + rounds * length
        with jax.set_mesh(self.mesh), self.batches(self.done) as batches:
            for number, batch in batches:
                self.state, report = self.step(self.state, self.frozen, change(batch))
                self.done = number + 1
                if self.done % length == 0:
                    values = {name: float(mean.value()) for name, mean in jax.device_get(report.metrics).items()}
                    self.rows.append(values | {"finite": bool(report.finite)})
                if self.done == end:
                    break
        return self

    def score(self, params):
        """Loss on the bank of parameters by player."""
        networks = {name: tree for name, tree in self.frozen.items() if name != "swarm"}
        with jax.set_mesh(self.mesh):
            return self._scored(params, networks, self.frozen["swarm"]["bank"], self.state.seed)

    @functools.cached_property
    def _scored(self):
        return jax.jit(mdsl.Scorer(self.experiment).score)

    def accuracy(self):
        """On the test pictures, of the best position."""
        images, labels = pictures("test", TESTED)
        logits = self.experiment.model.apply({"params": jax.device_get(self.state.params["model"])}, jnp.asarray(images))
        return float(np.mean(np.argmax(logits, -1) == labels))

    def chosen(self):
        """Who uploaded, bool [rounds, sites]."""
        return np.array([[row[f"site/{i}/uploads"] > 0 for i in range(self.experiment.swarm.sites)] for row in self.rows])


def leaf(tree, site):
    """One site's part of a tree with a leading axis of sites."""
    return jax.tree.map(lambda rows: rows[site], tree)
