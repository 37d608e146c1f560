import dataclasses

import numpy as np
import pytest

from jaxgen.data.scenes import render, scene, source

MADE = [source.made("test", index) for index in range(120)]
PLAIN = scene.Background("plain", (220, 221, 222))
AREA = {"circle": np.pi, "square": 1.76**2, "triangle": 0.75 * np.sqrt(3.0) * 1.2**2, "cross": 2 * (2 * 0.72) - 0.72**2}
"""Of a shape of radius 1: a square of side 1.76, a triangle in a circle of 1.2, a cross of two bars of 2 by 0.72."""


def places(count=20):
    """Centres, radii and turns that keep a shape within the picture."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield *rng.uniform(0.4, 0.6, 2), rng.uniform(0.1, 0.3), rng.uniform(-0.14, 0.14)


def thing(shape, x=0.5, y=0.5, radius=0.2, turn=0.0, colour="red", tint=(0, 0, 0)):
    return scene.Object(shape, colour, x, y, radius, turn, tint)


@pytest.mark.parametrize("shape", scene.SHAPES)
@pytest.mark.parametrize("resolution, tolerance", [(32, 0.04), (64, 0.015), (200, 0.004)])
def test_coverage_is_the_area(shape, resolution, tolerance):
    for place in places():
        each = thing(shape, *place)
        cover = render.coverage(each, resolution)
        assert cover.shape == (resolution, resolution) and cover.min() == 0 and cover.max() == 1
        assert cover.sum() / resolution**2 == pytest.approx(AREA[shape] * each.radius**2, rel=tolerance)


@pytest.mark.parametrize("shape", scene.SHAPES)
def test_the_edge_is_about_one_pixel_wide(shape):
    for place in places():
        cover = render.coverage(thing(shape, *place), 64)
        mixed = ((cover > 0) & (cover < 1)).sum()
        assert 0.5 < mixed / (place[2] * 64 * 2 * np.pi) < 2.5


@pytest.mark.parametrize("shape", scene.SHAPES)
def test_the_centre_of_mass_is_the_centre(shape):
    middle = (np.arange(200) + 0.5) / 200
    for x, y, radius, turn in places():
        cover = render.coverage(thing(shape, x, y, radius, turn), 200)
        assert cover.sum(axis=0) @ middle / cover.sum() == pytest.approx(x, abs=1e-3)
        assert cover.sum(axis=1) @ middle / cover.sum() == pytest.approx(y, abs=1e-3)


@pytest.mark.parametrize("shape", scene.SHAPES)
def test_the_drawn_top_and_bottom_are_those_of_the_scene(shape):
    for x, y, radius, _ in places():
        each = thing(shape, x, y, radius)
        rows = np.flatnonzero(render.coverage(each, 400).max(axis=1) > 0.5)
        assert rows[0] / 400 == pytest.approx(scene.bottom(each, upwards=True), abs=0.006)
        assert (rows[-1] + 1) / 400 == pytest.approx(scene.bottom(each), abs=0.006)


def test_a_turn_turns_the_shape_about_its_centre():
    for shape in scene.SHAPES:
        upright, quarter = (render.coverage(thing(shape, turn=turn), 64) for turn in (0.0, np.pi / 2))
        assert min(abs(np.rot90(upright, k) - quarter).max() for k in (1, 3)) < 1e-9
        turned = render.coverage(thing(shape, turn=0.14), 64)
        assert (np.abs(turned - upright).max() > 0.1) == (shape != "circle")


def test_a_picture_is_the_same_scene_at_every_resolution():
    plain = [shown for _, shown in MADE if shown.background.texture == "plain"]
    assert len(plain) > 60
    for shown in plain:
        small, large = (render.draw(shown, resolution).astype(float) for resolution in (32, 128))
        error = np.abs(small - large.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3)))
        # Only corners, where the distance to the outline is taken along an axis, are more than a little off.
        assert error.mean() < 0.7 and (error > 24).mean() < 0.01


def test_pictures_are_what_readers_expect():
    for resolution in (32, 48):
        picture = render.draw(MADE[0][1], resolution)
        assert picture.dtype == np.uint8 and picture.shape == (resolution, resolution, 3)
        np.testing.assert_array_equal(picture, render.draw(MADE[0][1], resolution))


def test_later_objects_cover_earlier_ones():
    a, b = thing("square", 0.4, 0.4, 0.2, colour="red"), thing("square", 0.5, 0.5, 0.2, colour="blue")
    for objects in ((a, b), (b, a)):
        picture = render.draw(scene.Scene(objects, PLAIN), 40)
        np.testing.assert_array_equal(picture[18, 18], render.colour(objects[-1]))
        np.testing.assert_array_equal(picture[0, 0], PLAIN.colour)


def test_the_centre_has_the_colour_within_the_jitter():
    for _, shown in MADE:
        picture = render.draw(shown, 64)
        for place, each in enumerate(shown.objects):
            hidden = any(render.coverage(later, 64)[int(each.y * 64), int(each.x * 64)] for later in shown.objects[place + 1 :])
            if not hidden:
                found = picture[int(each.y * 64), int(each.x * 64)].astype(int)
                assert np.abs(found - scene.COLOURS[each.colour]).max() <= scene.COLOUR_JITTER
                np.testing.assert_array_equal(found, render.colour(each))


def test_a_tint_stays_within_bytes():
    assert render.colour(thing("circle", colour="yellow", tint=(9, 9, -30))) == (255, 224, 0)


@pytest.mark.parametrize("texture, most", [("striped", 9.0), ("chequered", 9.0), ("speckled", 13.5)])
def test_textures_are_seen_and_keep_the_mean(texture, most):
    for seed in range(40):
        drawn = render.background(dataclasses.replace(PLAIN, texture=texture, seed=seed), 64) - PLAIN.colour
        assert np.abs(drawn).max() <= most + 1e-9 and drawn.std() > 5
        assert abs(drawn.mean()) < 0.6
        # Brightness alone changes.
        assert np.ptp(drawn, axis=-1).max() < 1e-9
    assert (render.background(PLAIN, 64) == PLAIN.colour).all()


@pytest.mark.parametrize("texture", scene.TEXTURES[1:])
def test_a_seed_is_one_texture(texture):
    of = lambda seed: render.background(scene.Background(texture, PLAIN.colour, seed), 32)
    np.testing.assert_array_equal(of(3), of(3))
    assert len({of(seed).tobytes() for seed in range(20)}) == 20
    assert not np.array_equal(render.background(scene.Background("striped", PLAIN.colour, 3), 32), PLAIN.colour)


def test_no_texture_comes_near_a_colour():
    for name in scene.TEXTURES:
        drawn = render.background(scene.Background(name, (210, 210, 210), 1), 32)
        for colour in scene.COLOURS.values():
            assert np.linalg.norm(drawn - colour, axis=-1).min() > 100
