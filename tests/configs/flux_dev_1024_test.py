"""The FLUX.1-dev recipe: its size, and its tiny variant on eight devices."""

import math
import pathlib

import jax
import numpy as np
import pytest

from jaxgen import experiment as experiments
from jaxgen.data import loader
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sharding
from jaxgen.training import step as steps

RECIPE = str(pathlib.Path(__file__).parents[2] / "configs" / "flux_dev_1024.py")


def test_the_full_size_has_twelve_billion_parameters():
    experiment, _ = experiments.load(RECIPE)
    player = experiment.objective.players(experiment)[0]
    shapes = jax.eval_shape(lambda: player.module.init(jax.random.key(0), *player.inputs())["params"])
    assert abs(sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) / 1e9 - 11.9) < 0.1


@pytest.mark.slow
def test_the_tiny_variant_trains_two_steps_divided_over_devices():
    experiment, _ = experiments.load(f"{RECIPE}:tiny", ("data.batch_size=8", "mesh.data=2", "mesh.fsdp=4"))
    mesh = meshes.build(experiment.mesh, jax.devices())
    with jax.set_mesh(mesh):
        step = steps.build(experiment, mesh)
        state = step.initial(np.uint32(0))
        before = jax.device_get(state.params["model"])
        data = experiment.data
        layout = sharding.batch_sharding(mesh)
        with loader.batches(data.open("train", 0, True), data.features(), data.batch_size, layout, 0, 1) as batches:
            for _ in range(2):
                state, report = step(state, {}, next(batches)[1])
                assert bool(report.finite) and np.isfinite(report.metrics["loss"].value())
        after = jax.device_get(state.params["model"])
    # Behind zero gates only the last layer learns at first, then the gates.
    assert not np.array_equal(before["velocity"]["out"]["kernel"], after["velocity"]["out"]["kernel"])
