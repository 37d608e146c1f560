"""The toy of the sheet at its full size: ten skewed sites, thirty rounds, three seeds, and the constants it was measured with.

Measured by another implementation, accuracy at round 30, Dirichlet 0.1: FedAvg 94.4, DSL 60.4, M-DSL 82.6 with 4.8 uploads of 10;
two hostile sites flipping three times: 51.7, 63.9, 88.4; with N(0, 1) noise: 70.9, 58.8, 88.5 (seeds differ by up to 11 points).
Here M-DSL has 89.0 and DSL 77.9 (sixteen seeds: DSL alone differs from 54 to 91 between them, so what is said of it is the mean of
more than three); under flips M-DSL 86.6 and FedAvg 18.9, under noise 93.2 and 48.1, with models that are not finite 91.6, with
forged scores 80.8, and 8.4 where those are believed.
"""

import dataclasses
import functools
import pathlib
import sys

import jax
import numpy as np
import pytest

from jaxgen.swarm.attacks import Gaussian, NotFinite, SignFlip
from jaxgen.swarm.move import Particle
from jaxgen.swarm.partitions import Dirichlet
from jaxgen.swarm.selection import Threshold
from jaxgen.swarm.settings import DSL, FedAvg, Swarm

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from toy import Running, experiment  # noqa: E402

pytestmark = pytest.mark.slow

SEEDS, MORE_SEEDS = range(3), range(16)
RELEASED = Particle(0.2, 1.0, 2.0, draws="element")
OPTIONS = {"partition": Dirichlet(0.1), "shared": 100}
FEDAVG = FedAvg(**OPTIONS)
DSL_ = DSL(move=RELEASED, **OPTIONS)
MDSL = Swarm(move=RELEASED, select=Threshold(age_limit=0), **OPTIONS)
HOSTILE = (3, 7)
FLIP = {"hostile": HOSTILE, "attack": SignFlip(3.0, of="own")}
NOISE = {"hostile": HOSTILE, "attack": Gaussian(1.0, mean=0.0)}
NAN = {"hostile": HOSTILE, "attack": NotFinite()}


@functools.cache
def ran(swarm, alpha=0.1, seeds=SEEDS):
    """The finished runs, one a seed."""
    found = []
    for seed in seeds:
        tree = experiment(dataclasses.replace(swarm, partition=Dirichlet(alpha)), seed=seed)
        found.append(Running(tree, step=found[0].step if found else None).run(30))
    return found


def accuracy(swarm, alpha=0.1, seeds=SEEDS):
    """Mean test accuracy in percent."""
    values = [100 * run.accuracy() for run in ran(swarm, alpha, seeds)]
    print(type(swarm).__name__, alpha, type(swarm.attack).__name__, swarm.forged, np.round(values, 1), "mean", np.mean(values))
    return np.mean(values)


def uploads(swarm):
    return np.mean([run.chosen().sum(axis=1).mean() for run in ran(swarm)])


def hostile(swarm, after=0):
    """How often hostile sites uploaded, from round `after` on."""
    return sum(int(run.chosen()[after:, list(HOSTILE)].sum()) for run in ran(swarm))


def attacked(swarm, attack):
    return dataclasses.replace(swarm, **attack)


def test_several_are_far_better_than_one_on_skewed_data():
    found = accuracy(MDSL, seeds=MORE_SEEDS)
    assert found - accuracy(DSL_, seeds=MORE_SEEDS) >= 10 and found >= 72
    assert uploads(MDSL) <= 7


@pytest.mark.parametrize("alpha", [1.0, 100.0])
def test_several_are_no_worse_than_one_on_even_data(alpha):
    assert accuracy(MDSL, alpha) >= accuracy(DSL_, alpha) - 1


def test_sites_that_flip_are_never_chosen_and_ruin_the_mean_of_all():
    swarm = attacked(MDSL, FLIP)
    assert accuracy(swarm) - accuracy(attacked(FEDAVG, FLIP)) >= 20
    assert hostile(swarm, after=1) == 0


def test_noise_harms_the_mean_of_all_more():
    assert accuracy(attacked(MDSL, NOISE)) - accuracy(attacked(FEDAVG, NOISE)) >= 10


def test_models_that_are_not_finite_never_enter_and_end_the_mean_of_all():
    swarm = attacked(MDSL, NAN)
    assert accuracy(swarm) >= 72 and hostile(swarm) == 0
    for run in ran(swarm):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(run.state.params)))
    assert not any(run.rows[-1]["finite"] for run in ran(attacked(FEDAVG, NAN)))


def test_forged_scores_are_found_out_by_scoring_what_came():
    forged = attacked(MDSL, FLIP | {"forged": 0.0})
    assert accuracy(forged) - accuracy(attacked(FEDAVG, FLIP)) >= 20
    assert hostile(forged, after=1) == 0


@pytest.mark.parametrize("swarm", [MDSL, DSL_], ids=["mdsl", "dsl"])
def test_believed_forged_scores_keep_the_best_position_at_its_start(swarm):
    believed = attacked(swarm, FLIP | {"forged": 0.0, "rescore": False})
    found = accuracy(believed)
    rounds = 30 * len(SEEDS)
    assert hostile(believed) == (2 * rounds if swarm is MDSL else rounds)
    assert found <= 25
    for run in ran(believed):
        scores = [row["swarm/score"] for row in run.rows]
        assert max(scores) == min(scores)
