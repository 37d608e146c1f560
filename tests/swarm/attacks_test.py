"""Attacks say what they are meant to say, to whom they are meant to, and leave honest rows alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import types
from jaxgen.swarm import attacks

N = 8
HOSTILE = np.arange(N) >= 6
KEY = jax.random.key(0, impl="threefry2x32")
HONEST = ~HOSTILE
ROWS = {"a": jnp.asarray(np.random.default_rng(0).normal(1, 1, (N, 4))), "b": jnp.asarray(np.arange(float(N)))}
AT_SERVER = [getattr(attacks, path.rpartition(":")[2])() for path in attacks.NAMES.values()]
AT_SERVER = [attack for attack in AT_SERVER if not attack.between_neighbours]


def said(attack, rows=ROWS):
    return attacks.at_server(attack, rows, HOSTILE, KEY)


def honest_mean(name):
    return np.asarray(ROWS[name])[HONEST].mean(0)


@pytest.mark.parametrize("attack", AT_SERVER, ids=lambda attack: type(attack).__name__)
def test_honest_rows_stay_as_they_are(attack):
    found = said(attack)
    for name, rows in ROWS.items():
        np.testing.assert_array_equal(np.asarray(found[name])[HONEST], np.asarray(rows)[HONEST])
        assert found[name].dtype == rows.dtype


@pytest.mark.parametrize(
    "attack, expected",
    [
        (attacks.SignFlip(3.0), lambda rows: -3 * rows[HONEST].mean(0)),
        (attacks.IPM(2.0), lambda rows: -2 * rows[HONEST].mean(0)),
        (attacks.Constant(-300.0), lambda rows: np.full(rows.shape[1:], -300.0)),
        (attacks.ALIE(1.5), lambda rows: rows[HONEST].mean(0) - 1.5 * rows[HONEST].std(0, ddof=1)),
        (attacks.ZeroSum(), lambda rows: -rows[HONEST].sum(0) / 2),
        (attacks.Mimic(2), lambda rows: rows[2]),
        (attacks.Mimic(99), lambda rows: rows[5]),
        (attacks.Duplicate(), lambda rows: rows[5]),
        (attacks.NotFinite("-inf"), lambda rows: np.full(rows.shape[1:], -np.inf)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_said(attack, expected):
    for name, rows in said(attack).items():
        for row in np.asarray(rows)[HOSTILE]:
            np.testing.assert_allclose(row, expected(np.asarray(ROWS[name])), rtol=1e-5)


def test_a_sign_flip_of_ones_own_value():
    np.testing.assert_array_equal(np.asarray(said(attacks.SignFlip(3.0, of="own"))["b"])[HOSTILE], [-18, -21])


def test_a_sum_of_zero_and_noise_around_the_mean():
    np.testing.assert_allclose(np.asarray(said(attacks.ZeroSum())["a"]).sum(0), 0, atol=1e-5)
    many = attacks.at_server(attacks.Gaussian(2.0), jnp.ones((4000, 3)), np.arange(4000) >= 1000, KEY)[1000:]
    assert np.asarray(many).mean() == pytest.approx(1, abs=0.05) and np.asarray(many).std() == pytest.approx(2, abs=0.05)
    capped = np.asarray(said(attacks.Gaussian(5.0, mean=0.0, ceiling=0.0))["a"])[HOSTILE]
    assert (capped <= 0).all() and (capped == 0).any() and (capped < 0).any()


def test_a_little_is_enough_takes_the_quantile_of_its_paper():
    # Of 8 with 2 attackers s = ⌊8/2 + 1⌋ − 2 = 3 supporters are needed: the quantile of 5/8.
    z = 0.31863936
    rows = np.asarray(ROWS["a"])[HONEST]
    np.testing.assert_allclose(np.asarray(said(attacks.ALIE())["a"])[6], rows.mean(0) - z * rows.std(0, ddof=1), rtol=1e-4)


def test_isolation_makes_the_receivers_weighted_mean_its_own_value_and_dissensus_goes_beyond():
    weights = np.random.default_rng(1).dirichlet(np.ones(N))
    view = attacks.View(ROWS, jnp.asarray(HONEST), jnp.asarray(HOSTILE), jnp.asarray(weights))
    heard = np.asarray(attacks.Dissensus()(view, KEY)["a"])
    np.testing.assert_allclose(weights @ heard, heard[0], rtol=1e-5)
    pushed = weights @ np.asarray(attacks.Dissensus(2.0)(view, KEY)["a"])
    plain = weights[HONEST] @ (heard[HONEST] - heard[0])
    np.testing.assert_allclose(pushed - heard[0], -plain, rtol=1e-4)
    with pytest.raises(types.BadInput, match="attack: found 'Dissensus', needed one that needs no neighbours"):
        said(attacks.Dissensus())


def test_every_receiver_is_told_something_else():
    views = attacks.View(ROWS, jnp.asarray(HONEST), jnp.asarray(HOSTILE), jnp.full(N, 1 / N))
    heard = jax.vmap(lambda key: attacks.Gaussian()(views, key)["a"])(jax.random.split(KEY, 3))
    assert not np.allclose(heard[0, 6], heard[1, 6]) and not np.allclose(heard[1, 6], heard[2, 6])


def test_scores_are_forged_by_hostile_sites_alone():
    scores = jnp.arange(1.0, N + 1)
    np.testing.assert_array_equal(attacks.forged_scores(scores, HOSTILE), np.where(HOSTILE, 0, scores))
