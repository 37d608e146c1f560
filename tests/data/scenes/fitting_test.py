import numpy as np
import pytest

from jaxgen.data.scenes import fitting, render, scene

BASE = np.full((32, 32, 3), 225.0)
EVERYWHERE = np.ones((32, 32), bool)


def painted(thing):
    return BASE + render.coverage(thing, 32)[..., None] * (np.array(render.colour(thing)) - BASE)


def places(count=12):
    rng = np.random.default_rng(0)
    return [(*rng.uniform(0.35, 0.65, 2), rng.uniform(0.11, 0.3), rng.uniform(-0.2, 0.2)) for _ in range(count)]


@pytest.mark.parametrize("shape", scene.SHAPES)
def test_place_and_colour_are_found_from_a_start_a_pixel_off(shape):
    for x, y, radius, turn in places():
        thing = scene.Object(shape, "purple", x, y, radius, turn)
        picture = painted(thing)
        area = render.coverage(thing, 32).mean()
        fit = fitting.best(picture, BASE, EVERYWHERE, (x + 0.03, y - 0.03), 1.15 * area)
        assert fit.shape == shape
        np.testing.assert_allclose(fit.place[:3], (x, y, radius), atol=0.003)
        if shape != "circle":
            assert abs(fit.place[3] - turn) < 0.03
        np.testing.assert_allclose(fit.colour, render.colour(thing), atol=3)
        assert np.square(painted(thing) - BASE).sum() > 1000 * fit.energy


def test_what_lies_outside_of_the_region_does_not_count():
    picture = painted(scene.Object("cross", "red", 0.5, 0.5, 0.25))
    region = EVERYWHERE.copy()
    region[:, 20:] = False
    clean = fitting.best(picture, BASE, region, (0.5, 0.5), 0.15)
    picture[:, 20:] = 0
    assert np.array_equal(fitting.best(picture, BASE, region, (0.5, 0.5), 0.15).place, clean.place)
    np.testing.assert_allclose(clean.place[:3], (0.5, 0.5, 0.25), atol=0.003)


@pytest.mark.parametrize("shape", scene.SHAPES)
def test_outline_is_how_fast_the_area_grows_with_a_wider_edge(shape):
    """The soft band of a drawn edge is a pixel wide, and alpha (1 - alpha) sums to a sixth of its length, but for the corners."""
    thing = scene.Object(shape, "red", 0.503, 0.501, 0.3, 0.1)
    cover = render.coverage(thing, 256)
    fit = fitting.Fit(shape, np.array([thing.x, thing.y, thing.radius, thing.turn]), np.zeros(3), 0.0)
    assert 6 * (cover * (1 - cover)).sum() == pytest.approx(fit.outline(256), rel=0.03)
    np.testing.assert_array_equal(fit.coverage(256), cover)


def test_a_fit_never_leaves_what_can_be_drawn():
    noise = np.random.default_rng(0).uniform(0, 255, (32, 32, 3))
    for centre in ((0.02, 0.02), (0.98, 0.5)):
        place = fitting.best(noise, BASE, EVERYWHERE, centre, 0.001).place
        assert np.isfinite(place).all() and (place[:2] >= 0).all() and (place[:2] <= 1).all()
        assert place[2] >= fitting.MIN_RADIUS and abs(place[3]) <= fitting.MAX_TURN
