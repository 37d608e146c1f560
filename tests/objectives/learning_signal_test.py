"""What alignment teaches a small DDT on real digits: tokens that say more of what the teacher sees (arXiv 2504.05741)."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxgen.models.ddt import DDT
from jaxgen.reproduce import aligned_runs, claim, convergence
from jaxgen.training import coordinate_check
from jaxgen.training import step as steps

pytestmark = pytest.mark.slow
SEEDS, LAST = range(3), 40
UNFELT = 1e-4
"""A weight at which the generator learns by its own loss alone, while Adam's updates of the projector are as large as ever."""


def test_tokens_of_an_aligned_ddt_say_more_of_what_the_teacher_sees(tmp_path):
    plan = convergence.Plan(steps=240)
    tree = aligned_runs.generator(DDT(**aligned_runs.SIZE, encoder_depth=4), plan, aligned=True)
    tree = dataclasses.replace(tree, optimizer=dataclasses.replace(tree.optimizer, learning_rate=2.0**-8))
    runs = convergence.Runs(claim.Workplace(jax.devices()[:1], tmp_path), plan, tree)
    found = {}
    with jax.set_mesh(runs.mesh):
        for weight in (tree.objective.alignment.weight, UNFELT):
            term = dataclasses.replace(tree.objective.alignment, weight=weight)
            built = steps.build(dataclasses.replace(tree, objective=dataclasses.replace(tree.objective, alignment=term)), runs.mesh)
            found[weight] = np.array([_last(built, runs, plan.steps, seed) for seed in SEEDS])
    aligned, alone = found.values()
    print("cosine and flow loss by seed, aligned and not:", aligned.round(4).tolist(), alone.round(4).tolist())
    more = aligned[:, 0] - alone[:, 0]
    assert (more > 0).all() and more.mean() > 0.01


def _last(built, runs, count, seed):
    """Means over the last steps of the cosine to the teacher's features and of the loss of denoising."""
    state, frozen, kept = built.initial(np.uint32(seed)), built.load_frozen(np.uint32(0)), []
    with runs.batches() as batches:
        for done, _, report in coordinate_check.trained(built, state, frozen, batches, count):
            if done > count - LAST:
                kept.append(report.metrics)
    cosines, losses = ([float(m[name].value()) for m in jax.device_get(kept)] for name in ("alignment", "loss_denoising"))
    return np.mean(cosines), np.mean(losses)
