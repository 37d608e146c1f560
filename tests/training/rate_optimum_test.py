"""The vertex of a parabola is found, also beside runs that were not finite, and never where the best rate is at an end."""

import math

import numpy as np
import pytest

from jaxgen.training import rate_optimum

INFINITE = math.inf


def curve(exponents, vertex, seeds=1, steepness=0.3):
    """exp of a parabola in log₂ of the rate, moved a little for each seed."""
    return rate_optimum.Curve.of(
        {e: [math.exp(steepness * (e - vertex - 0.1 * seed) ** 2 - 1) for seed in range(seeds)] for e in exponents}
    )


@pytest.mark.parametrize("exponents", [range(-9, -2), (-8, -6.5, -6, -5.1, -2)], ids=["even", "uneven"])
@pytest.mark.parametrize("vertex", [-6.2, -6.0, -5.7])
def test_the_vertex_of_a_parabola(exponents, vertex):
    found = curve(exponents, vertex)
    assert found.interior
    assert found.optimum == pytest.approx(vertex, abs=1e-9)


def test_seeds_have_vertices_of_their_own_and_the_optimum_is_that_of_their_mean():
    found = curve(range(-9, -2), -6.2, seeds=3)
    np.testing.assert_allclose(found.by_seed, [-6.2, -6.1, -6.0], atol=1e-9)
    assert found.optimum == pytest.approx(-6.1, abs=1e-9)


@pytest.mark.parametrize("exponents", [(-8, -7, -6), (-9, -7, -6)], ids=["even", "uneven"])
def test_a_seed_moves_the_optimum_as_the_derivative_says(exponents):
    random = np.random.default_rng(0)
    losses = np.array([[1.3], [1.0], [1.2]]) * np.exp(1e-4 * random.normal(size=(3, 8)))
    found = rate_optimum.Curve.of(dict(zip(exponents, losses, strict=True)))
    for seed, vertex in enumerate(found.by_seed):
        alone = rate_optimum.Curve.of(dict(zip(exponents, losses[:, [seed]], strict=True)))
        assert vertex - found.optimum == pytest.approx(alone.optimum - found.optimum, rel=2e-3, abs=1e-7)
    assert np.ptp(found.by_seed) > 1e-5
    assert found.by_seed.mean() == pytest.approx(found.optimum)


@pytest.mark.parametrize("vertex, best", [(-20, 0), (5, 6)])
def test_a_best_rate_at_an_end_is_no_optimum(vertex, best):
    found = curve(range(-9, -2), vertex)
    assert found.best == best and not found.interior
    assert math.isnan(found.optimum)


@pytest.mark.parametrize(
    "losses, optimum",
    [
        ([1.2, 1.0, INFINITE], -7.5),
        ([INFINITE, 1.0, 1.2], -6.5),
        ([INFINITE, 1.0, INFINITE], -7.0),
    ],
)
def test_beside_a_run_that_was_not_finite_the_vertex_is_the_limit_of_growing_losses(losses, optimum):
    found = rate_optimum.Curve.of({e: [loss] for e, loss in zip((-8, -7, -6), losses, strict=True)})
    assert found.optimum == optimum
    assert np.isnan(found.by_seed).all()
    large = rate_optimum.Curve.of({e: [min(loss, 1e300)] for e, loss in zip((-8, -7, -6), losses, strict=True)})
    assert large.optimum == pytest.approx(optimum, abs=1e-3)


def test_a_seed_without_a_valley_still_counts():
    found = rate_optimum.Curve.of({-8: [2.0, 1.0], -7: [1.0, 1.1], -6: [2.0, 1.2]})
    assert found.best == 1 and np.isfinite(found.by_seed).all()
    assert found.by_seed[1] < found.optimum < found.by_seed[0]


def test_rates_come_in_any_order_and_infinity_is_null_in_json():
    found = rate_optimum.Curve.of({-6: [3.0], -8: [INFINITE], -7: [2.0]})
    assert found.exponents.tolist() == [-8, -7, -6]
    assert found.described()["losses"] == [[None], [2.0], [3.0]]


def test_the_slope_is_the_exponent_of_width():
    widths = (64, 128, 512)
    assert rate_optimum.slope(widths, [-7 - 0.8 * math.log2(w) for w in widths]) == pytest.approx(-0.8)
    assert math.isnan(rate_optimum.slope(widths, [-7, math.nan, -7]))
    assert math.isnan(rate_optimum.slope((64,), [-7]))
