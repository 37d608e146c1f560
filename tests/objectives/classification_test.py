"""Classification: cross-entropy over rows that count, and the share that is named right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.autoencoders.identity import Identity
from jaxgen.data.folder import Folder
from jaxgen.data.pipeline import Data
from jaxgen.data.synthetic import Synthetic
from jaxgen.encoders.pixel_classifier import PixelClassifier
from jaxgen.experiment import Experiment
from jaxgen.objectives.classification import Classification
from jaxgen.parallel.mesh import MeshShape
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training

COUNT, CLASSES = 6, 3
WEIGHT = jnp.asarray([1, 0.5, 0, 1, 2, 1], jnp.float32)


def experiment(model=PixelClassifier(width=8), source=Synthetic()):
    return Experiment(
        model=model,
        autoencoder=Identity(),
        objective=Classification(),
        data=Data(source=source),
        optimizer=AdamW(),
        training=Training(),
        sampler=None,
        mesh=MeshShape(),
    )


class Logits:
    """Stands in for a network: the first values of a picture are its logits."""

    def apply(self, variables, images):
        return variables["params"] * images.reshape(len(images), -1)[:, :CLASSES]


def loss(images, labels, scale=1.0):
    views = types.Views({}, {}, {}, modules={"model": Logits()})
    batch = {"image": images, "label": labels, "weight": WEIGHT}
    return Classification().loss("model", jnp.float32(scale), views, batch, jax.random.key(0), jnp.int32(0), ())


IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((COUNT, 2, 2, 1)), jnp.float32)
LABELS = jnp.asarray([0, 1, 2, 0, 1, 2])


def test_the_loss_is_the_negative_log_probability_of_the_label_under_the_weights():
    logits = np.asarray(IMAGES.reshape(COUNT, -1)[:, :CLASSES], np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    errors = -np.log(probabilities[np.arange(COUNT), LABELS])
    value, metrics, memory = loss(IMAGES, LABELS)
    assert float(value) == pytest.approx(np.average(errors, weights=WEIGHT), rel=1e-5)
    hits = logits.argmax(axis=1) == np.asarray(LABELS)
    assert float(metrics["accuracy"].value()) == pytest.approx(np.average(hits, weights=WEIGHT))
    assert memory == ()


def test_a_network_that_knows_nothing_loses_the_logarithm_of_the_number_of_classes():
    assert float(loss(IMAGES, LABELS, scale=0.0)[0]) == pytest.approx(np.log(CLASSES), rel=1e-5)


def test_a_row_that_does_not_count_does_not_count():
    other, *_ = loss(IMAGES.at[2].set(50.0), LABELS)
    assert float(other) == pytest.approx(float(loss(IMAGES, LABELS)[0]), rel=1e-6)


def test_pictures_come_as_minus_1_to_1():
    views = types.Views({}, {}, {}, modules={})
    images = jnp.asarray([0, 255], jnp.uint8).reshape(2, 1, 1, 1)
    found = Classification().prepare(views, {"image": images}, jax.random.key(0))["image"]
    np.testing.assert_allclose(found.ravel(), [-1, 1])


def test_the_network_starts_near_an_even_guess_and_names_a_class_for_each_picture():
    model = PixelClassifier(width=16)
    images = jax.random.normal(jax.random.key(1), (5, 4, 4, 1))
    params = model.init(jax.random.key(0), images)["params"]
    boxes = jax.tree.map(lambda box: box.group, params, is_leaf=mup.is_parameter)
    assert boxes == {"in": {"kernel": "input", "bias": "vector"}, "out": {"kernel": "output", "bias": "finite"}}
    assert model.apply({"params": params}, images).shape == (5, 10)


def test_too_few_classes_and_no_labels_are_refused():
    with pytest.raises(types.BadInput, match="model.classes: found 9, needed at least 10"):
        experiment(PixelClassifier(classes=9)).validate()
    with pytest.raises(types.BadInput, match="a source with labels"):
        Classification().check(experiment(source=Folder(path="/nowhere")))
    experiment().validate()
