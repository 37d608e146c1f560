import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import types
from jaxgen.objectives.timesteps import LogitNormal, Uniform

KEY = jax.random.key(0, impl="threefry2x32")
COUNT = 20_000
BATCH = 8
QUANTILES = np.array([0.1, 0.25, 0.5, 0.75, 0.9])


def first_of_batches(distribution):
    """COUNT independent draws: the first time of as many batches. That all of one batch are right proves nothing of each."""
    return np.asarray(jax.jit(jax.vmap(lambda key: distribution(key, BATCH)[0]))(jax.random.split(KEY, COUNT)))


def spread(q):
    """Standard error of an empirical quantile in units of probability."""
    return 4 * np.sqrt(q * (1 - q) / COUNT)


def test_uniform_times_have_the_quantiles_of_a_uniform():
    t = first_of_batches(Uniform())
    below = np.array([(t < q).mean() for q in QUANTILES])
    assert t.min() >= 0 and t.max() <= 1
    assert np.all(np.abs(below - QUANTILES) < spread(QUANTILES))


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (-1.0, 0.5), (math.log(3), 2.0)])
def test_logit_normal_times_have_the_quantiles_of_a_normal_in_the_logit(mean, std):
    t = first_of_batches(LogitNormal(mean, std))
    normal = statistics.NormalDist(mean, std)
    below = np.array([(t < 1 / (1 + math.exp(-normal.inv_cdf(q)))).mean() for q in QUANTILES])
    assert np.all(np.abs(below - QUANTILES) < spread(QUANTILES))


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (-1.0, 0.5)])
def test_a_batch_has_one_time_in_each_equal_part_of_the_distribution(mean, std):
    normal = statistics.NormalDist(mean, std)
    t = np.asarray(LogitNormal(mean, std)(KEY, 64))
    parts = [int(64 * normal.cdf(math.log(x / (1 - x)))) for x in t.tolist()]
    assert sorted(parts) == list(range(64)) and parts != sorted(parts)
    assert sorted(np.floor(64 * np.asarray(Uniform()(KEY, 64))).astype(int)) == list(range(64))


def test_times_of_a_huge_batch_are_strictly_inside():
    for distribution in (Uniform(), LogitNormal()):
        t = distribution(KEY, 1 << 20)
        assert 0 < t.min() and t.max() < 1


@pytest.mark.parametrize("distribution", [Uniform(), LogitNormal()], ids=["uniform", "logit_normal"])
def test_times_are_float32_and_differ(distribution):
    t = distribution(KEY, 8)
    assert t.dtype == jnp.float32 and len(set(t.tolist())) == 8


def test_a_deviation_that_is_not_positive_is_refused():
    with pytest.raises(types.BadInput, match="std"):
        LogitNormal(std=0.0).validate()


def test_half_of_ddt_s_times_lie_in_the_middle_half_and_more():
    # logit t normal: P(1/4 < t < 3/4) = 2 Φ(ln 3) - 1, here over 1e5 draws.
    t = np.asarray(jax.jit(jax.vmap(lambda key: LogitNormal()(key, 4)[0]))(jax.random.split(KEY, 100_000)))
    assert abs(t.mean() - 0.5) < 0.01
    assert abs(((t > 0.25) & (t < 0.75)).mean() - 0.728) < 0.01
