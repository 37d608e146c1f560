"""Wider is better: at one rate, no logged loss rises with width, on crops of real photographs (arXiv 2203.03466, §3.3)."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jaxgen import experiment as experiments
from jaxgen import mup
from jaxgen.data import loader
from jaxgen.nn.modulation import Gates
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sharding
from jaxgen.training import coordinate_check, traced_rate
from jaxgen.training import step as steps
from jaxgen.training.optimizer import AdamW

pytestmark = pytest.mark.slow
RECIPE = str(pathlib.Path(__file__).parents[2] / "configs" / "own_pictures.py")
SMALL = ("data.batch_size=16", "data.text_length=32", "model.text_length=32", "model.depth=2", "model.head_dim=16")
WIDTHS, BASE_WIDTH = (32, 64, 128), 32
COUNT, LOGGED, SEEDS = 60, 10, range(2)
"""Steps, and over how many of them a logged loss is the mean."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder, draws = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(320):
        photograph = load_sample_images().images[number % 2]
        side = int(draws.integers(60, 200))
        top, left = (int(draws.integers(0, size - side)) for size in photograph.shape[:2])
        Image.fromarray(photograph[top : top + side, left : left + side]).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(("a temple", "a flower")[number % 2])
    # Patches of 192 numbers, so that width is what limits; of digits' four numbers the narrowest network knows enough.
    tree, _ = experiments.load(RECIPE, [f"data.source.path={folder}", "mesh.data=1", "model.patch=8", *SMALL])
    training = dataclasses.replace(tree.training, steps=COUNT, ema=())
    return dataclasses.replace(tree, optimizer=traced_rate.TracedRate(AdamW(clip_norm=None)), training=training)


def rises(tree, parametrization, rates):
    """The largest rise of a logged loss from one width to the next, as a share, by rate; losses are means over seeds."""
    mesh = meshes.build(tree.mesh, jax.devices()[:1])
    examples, logged = tree.data.open("train", 0, shuffle=True), {rate: [] for rate in rates}
    for width in WIDTHS:
        scaling = mup.Scaling(BASE_WIDTH, parametrization)
        wide = dataclasses.replace(tree, model=tree.model.clone(width=width, gates=Gates.ZERO, scaling=scaling))
        with jax.set_mesh(mesh):
            built = steps.build(wide, mesh)
            for rate in rates:
                curves = [_curve(built, wide.data, examples, sharding.batch_sharding(mesh), rate, seed) for seed in SEEDS]
                logged[rate].append(np.mean(curves, axis=0).reshape(-1, LOGGED).mean(axis=1))
    print(parametrization, {rate: np.round(rows, 3).tolist() for rate, rows in logged.items()})
    return {rate: float((np.divide(rows[1:], rows[:-1]) - 1).max()) for rate, rows in logged.items()}


def _curve(built, data, examples, layout, rate, seed):
    state, frozen = traced_rate.with_rate(built.initial(np.uint32(seed)), rate), built.load_frozen(np.uint32(seed))
    with loader.batches(examples, data.features(), data.batch_size, layout, 0, 1) as batches:
        found = [report.metrics["loss"] for _, _, report in coordinate_check.trained(built, state, frozen, batches, COUNT)]
    return [float(mean.value()) for mean in jax.device_get(found)]


def test_no_logged_loss_rises_with_width(tree):
    found = rises(tree, mup.Parametrization.MUP, (2.0**-8, 2.0**-6))
    print("largest rise by rate", found)
    assert max(found.values()) <= 0.01


def test_under_the_standard_parametrization_it_does(tree):
    (found,) = rises(tree, mup.Parametrization.STANDARD, (2.0**-6,)).values()
    print("largest rise", found)
    assert found > 0.3
