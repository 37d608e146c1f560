"""Costs are convex, their gradients are those of their values, and the wind's are those of its law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import types
from jaxgen.swarm import costs
from jaxgen.swarm.costs import Backlog, Quadratic, Tracking, Wind

GROUPS = (
    Quadratic((0.07, 0.09), (2.0, 1.0), (50.0, 20.0), (200.0, 120.0)),
    Tracking((1.0, 2.0), (30.0, 9.0), (0.0, 0.0), (50.0, 50.0), spread=3.0),
    Backlog((100.0,), (1.0,), (64.0,), spread=0.2),
    Wind((1.0, 2.0), (5.0, 5.0), (30.0, 10.0), (160.0, 80.0), (0.0, 0.0), (160.0, 80.0)),
)
LOW, HIGH = costs.box(GROUPS)


def drawn(rounds=4):
    return jax.tree.map(jnp.asarray, costs.draw(GROUPS, np.random.default_rng(0), rounds))


def test_gradients_are_those_of_the_values_and_rise():
    with jax.enable_x64(True):
        given = drawn()
        inside = LOW + (HIGH - LOW) * np.linspace(0.05, 0.95, 4)[:, None]
        value = jax.jit(lambda theta: costs.value(GROUPS, theta, given))
        slope = costs.gradient(GROUPS, jnp.asarray(inside), given)
        step = 1e-4
        np.testing.assert_allclose(slope, (value(inside + step) - value(inside - step)) / (2 * step), rtol=1e-6, atol=1e-6)
        later = costs.gradient(GROUPS, jnp.asarray(np.minimum(inside + 1, HIGH)), given)
        assert (later >= slope - 1e-9).all()


def test_the_cost_of_wind_is_the_mean_over_winds_that_blow():
    station = GROUPS[3]
    scale, shape = 11.0, 2.4
    speed = scale * np.random.default_rng(1).weibull(shape, 400_000)[:, None]
    rated = np.array(station.rated_power)
    power = np.where((speed < 3) | (speed > 25), 0, np.minimum((speed - 3) / 10, 1) * rated)
    theta = np.array([70.0, 30.0])
    price, under, over = (np.array(getattr(station, name)) for name in ("price", "under", "over"))
    expected = price * theta + (under * np.maximum(power - theta, 0) + over * np.maximum(theta - power, 0)).mean(0)
    found = station.value(jnp.asarray(theta), (jnp.full(2, scale), jnp.full(2, shape)))
    np.testing.assert_allclose(found, expected, rtol=5e-3)


def test_agents_are_numbered_one_group_after_the_other():
    assert costs.agents(GROUPS) == 7 and LOW.tolist() == [50, 20, 0, 0, 1, 0, 0]
    theta = jnp.asarray((LOW + HIGH) / 2)
    whole = costs.value(GROUPS, theta, jax.tree.map(lambda x: x[0], drawn()))
    np.testing.assert_allclose(whole[:2], GROUPS[0].value(theta[:2], ()), rtol=1e-6)
    np.testing.assert_allclose(whole[4], drawn()[2][0, 0] / theta[4], rtol=1e-6)


@pytest.mark.parametrize(
    "cost, said",
    [
        (Quadratic((1.0,), (0.0,), (-5.0,), (10.0,)), "low: found -5.0, needed a capacity of 0 or more"),
        (Quadratic((1.0,), (0.0,), (5.0,), (5.0,)), "high: found 5.0, needed a capacity above low=5.0"),
        (Quadratic((1.0, 2.0), (0.0,), (5.0,), (6.0,)), "quadratic: found (1.0, 2.0), needed 1 values"),
        (Quadratic((0.0,), (0.0,), (5.0,), (6.0,)), "quadratic: found 0.0, needed a positive number"),
        (Tracking((1.0,), (1.0,), (5.0,), (6.0,), spread=-1.0), "spread: found -1.0"),
        (Wind((1.0,), (1.0,), (1.0,), (10.0,), (0.0,), (11.0,)), "high: found 11.0, needed at most rated_power=10.0"),
        (Wind((1.0,), (1.0,), (1.0,), (10.0,), (0.0,), (9.0,), cut_in=14.0), "cut_in, rated, cut_out: found (14.0, 13.0, 25.0)"),
    ],
)
def test_costs_that_make_no_sense_are_refused(cost, said):
    with pytest.raises(types.BadInput) as complaint:
        cost.validate()
    assert str(complaint.value).startswith(said)
