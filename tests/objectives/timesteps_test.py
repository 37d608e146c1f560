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
QUANTILES = np.array([0.1, 0.25, 0.5, 0.75, 0.9])


def spread(q):
    """Standard error of an empirical quantile in units of probability."""
    return 4 * np.sqrt(q * (1 - q) / COUNT)


def test_uniform_times_have_the_quantiles_of_a_uniform():
    t = np.asarray(Uniform()(KEY, COUNT))
    below = np.array([(t < q).mean() for q in QUANTILES])
    assert t.min() >= 0 and t.max() <= 1
    assert np.all(np.abs(below - QUANTILES) < spread(QUANTILES))


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (-1.0, 0.5), (math.log(3), 2.0)])
def test_logit_normal_times_have_the_quantiles_of_a_normal_in_the_logit(mean, std):
    t = np.asarray(LogitNormal(mean, std)(KEY, COUNT))
    normal = statistics.NormalDist(mean, std)
    below = np.array([(t < 1 / (1 + math.exp(-normal.inv_cdf(q)))).mean() for q in QUANTILES])
    assert np.all(np.abs(below - QUANTILES) < spread(QUANTILES))


@pytest.mark.parametrize("distribution", [Uniform(), LogitNormal()], ids=["uniform", "logit_normal"])
def test_times_are_float32_and_differ(distribution):
    t = distribution(KEY, 8)
    assert t.dtype == jnp.float32 and len(set(t.tolist())) == 8


def test_a_deviation_that_is_not_positive_is_refused():
    with pytest.raises(types.BadInput, match="std"):
        LogitNormal(std=0.0).validate()
