import collections
import dataclasses
import itertools

import numpy as np
import pytest
from scipy import ndimage

from jaxgen.data.scenes import checker, layout, render, scene

GREY = scene.Background("plain", (225, 225, 225))


def samples(count, stream="checker"):
    """Prompts, the six tasks in turn, each with a scene that satisfies it."""
    made = []
    for index in range(count):
        draws = layout.Draws(7, stream, index)
        prompt = layout.prompt(draws, scene.TASKS[index % len(scene.TASKS)])
        made.append((prompt, layout.scene(draws, prompt, True)))
    return made


SAMPLES = samples(150)


def pictures(of, resolution=32):
    return [render.draw(shown, resolution) for _, shown in of]


def rounded(values):
    return np.rint(values).clip(0, 255).astype(np.uint8)


def blurred(picture, sigma):
    return rounded(ndimage.gaussian_filter(picture.astype(float), (sigma, sigma, 0)))


def faded(picture, contrast):
    mean = picture.mean(axis=(0, 1))
    return rounded(mean + contrast * (picture - mean))


def noisy(picture, deviation, seed=0):
    return rounded(picture + np.random.default_rng(seed).normal(0, deviation, picture.shape))


def off_colour(shown, by=10):
    """Every channel of every object so much farther from the palette."""
    tints = [tuple(each + (by if each >= 0 else -by) for each in thing.tint) for thing in shown.objects]
    objects = tuple(dataclasses.replace(thing, tint=tint) for thing, tint in zip(shown.objects, tints, strict=True))
    return dataclasses.replace(shown, objects=objects)


def mixed(drawn):
    return [rounded((one + other.astype(float)) / 2) for one, other in zip(drawn, [*drawn[7:], *drawn[:7]], strict=True)]


def accepted(drawn, of):
    """Share of pictures that are accepted, each for its own prompt."""
    readings = [checker.read(picture) for picture in drawn]
    return np.mean([checker.accepts(reading, prompt) for reading, (prompt, _) in zip(readings, of, strict=True)])


def pairs(read, shown):
    """Objects as read and as drawn, the nearest of each."""
    return [(min(read.objects, key=lambda each: np.hypot(each.x - thing.x, each.y - thing.y)), thing) for thing in shown.objects]


def drawn_objects(*objects):
    return render.draw(scene.Scene(objects, GREY), 32)


@pytest.mark.parametrize("resolution", [32, 64])
def test_what_is_drawn_is_read(resolution):
    of = SAMPLES[: 150 if resolution == 32 else 48]
    for (prompt, shown), picture in zip(of, pictures(of, resolution), strict=True):
        reading = checker.read(picture)
        assert checker.accepts(reading, prompt)
        assert min(reading.confidences) > 0.9 and reading.background_confidence > 0.99
        assert len(reading.scene.objects) == len(reading.confidences) == len(shown.objects)
        assert reading.scene.background.texture == shown.background.texture
        for read, thing in pairs(reading.scene, shown):
            assert (read.shape, read.colour) == (thing.shape, thing.colour)
            assert max(abs(read.x - thing.x), abs(read.y - thing.y), abs(read.radius - thing.radius)) < 0.01


def test_another_prompt_is_refused():
    readings = [checker.read(picture) for picture in pictures(SAMPLES)]
    wrong = [
        checker.accepts(reading, prompt)
        for (i, reading), (j, (prompt, _)) in itertools.product(enumerate(readings), enumerate(SAMPLES))
        if i != j and not scene.satisfies(SAMPLES[i][1], prompt)
    ]
    assert len(wrong) > 10_000 and np.mean(wrong) <= 0.001


@pytest.mark.parametrize("change", [
    pytest.param(lambda picture: blurred(picture, 1.0), id="blurred"),
    pytest.param(lambda picture: faded(picture, 0.5), id="half contrast"),
    pytest.param(lambda picture: faded(picture, 0.7), id="low contrast"),
])  # fmt: skip
def test_degraded_pictures_are_refused(change):
    assert accepted(map(change, pictures(SAMPLES)), SAMPLES) <= 0.05


def test_two_pictures_in_one_are_refused():
    assert accepted(mixed(pictures(SAMPLES)), SAMPLES) <= 0.05


@pytest.mark.parametrize("change", [
    pytest.param(lambda shown: noisy(render.draw(shown, 32), 6), id="noise"),
    pytest.param(lambda shown: blurred(render.draw(shown, 32), 0.35), id="soft edges"),
    pytest.param(lambda shown: render.draw(off_colour(shown), 32), id="off colour"),
    pytest.param(lambda shown: noisy(blurred(render.draw(off_colour(shown), 32), 0.35), 6), id="all three"),
])  # fmt: skip
def test_small_errors_are_forgiven(change):
    assert accepted([change(shown) for _, shown in SAMPLES], SAMPLES) >= 0.95


def test_errors_lower_the_confidence_step_by_step():
    picture = drawn_objects(scene.Object("square", "blue", 0.4, 0.6, 0.2, 0.1))
    for curve in (
        [blurred(picture, sigma) for sigma in (0.5, 0.7, 1.0)],
        [faded(picture, contrast) for contrast in (0.9, 0.8, 0.7)],
    ):
        found = [1.0, *(checker.read(each).confidences[0] for each in curve)]
        assert found == sorted(found, reverse=True) and found[-1] < checker.THRESHOLD


@pytest.mark.parametrize("colour", [(214, 39, 40), (20, 20, 20), (120, 120, 120)])
def test_something_more_in_the_picture_is_refused(colour):
    prompt = scene.Prompt("single_object", (scene.Group("circle"),))
    picture = drawn_objects(scene.Object("circle", "green", 0.3, 0.3, 0.18))
    assert checker.accepts(checker.read(picture), prompt)
    picture[22:24, 22:25] = colour
    assert not checker.accepts(checker.read(picture), prompt)


@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 128, 128), (255, 150, 200), (150, 90, 40), (0, 200, 200)])
def test_a_colour_without_a_name_is_not_accepted(colour):
    cover = render.coverage(scene.Object("circle", "red", 0.5, 0.5, 0.2), 32)[..., None]
    reading = checker.read(rounded(225 + cover * (np.array(colour) - 225.0)))
    assert not checker.accepts(reading, scene.Prompt("single_object", (scene.Group("circle"),)))


def test_a_shape_half_erased_is_not_accepted():
    for shape in scene.SHAPES:
        picture = drawn_objects(scene.Object(shape, "red", 0.5, 0.5, 0.2))
        prompt = scene.Prompt("colors", (scene.Group(shape, 1, "red"),))
        assert checker.accepts(checker.read(picture), prompt)
        picture[:, :15] = GREY.colour
        assert not checker.accepts(checker.read(picture), prompt)


def test_mixed_colours_where_two_objects_meet_are_no_third_object():
    """Between red and yellow lies orange, between red and blue purple."""
    for outer, inner in (("yellow", "red"), ("red", "yellow"), ("blue", "red"), ("orange", "yellow")):
        for x in np.linspace(0.48, 0.52, 5):
            things = scene.Object("square", outer, 0.5, 0.5, 0.3, 0.1), scene.Object("circle", inner, x, 0.5, 0.115)
            reading = checker.read(drawn_objects(*things))
            assert [each.colour for each in reading.scene.objects] == [outer, inner]
            assert scene.relation(*reading.scene.objects[::-1]) == "inside"


def test_reading_is_deterministic_and_leaves_the_picture_alone():
    for picture in pictures(SAMPLES[:6]):
        before = picture.copy()
        assert checker.read(picture) == checker.read(picture)
        np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("picture", [
    pytest.param(np.full((32, 32, 3), 220, np.uint8), id="blank"),
    pytest.param(np.full((32, 32, 3), (214, 39, 40), np.uint8), id="all red"),
    pytest.param(np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8), id="noise"),
    pytest.param(blurred(np.random.default_rng(0).integers(0, 2, (32, 32, 3)) * 255, 2.0), id="clouds"),
])  # fmt: skip
def test_a_picture_of_nothing_is_read_and_satisfies_no_prompt(picture):
    reading = checker.read(picture)
    assert len(reading.scene.objects) == len(reading.confidences) <= 16
    assert all(0 <= each <= 1 for each in (*reading.confidences, reading.background_confidence))
    assert not any(checker.accepts(reading, prompt) for prompt, _ in SAMPLES)


@pytest.mark.parametrize("picture", [
    np.zeros((16, 16, 3), np.uint8), np.zeros((32, 48, 3), np.uint8), np.zeros((32, 32, 1), np.uint8),
    np.zeros((32, 32, 3), np.float32), np.zeros((32, 32), np.uint8),
])  # fmt: skip
def test_bad_pictures_are_refused(picture):
    with pytest.raises(ValueError, match="picture: found"):
        checker.read(picture)


@pytest.mark.slow
def test_the_bounds_hold_on_thousands_of_pictures(capsys):
    of, many = samples(5000, "proof"), {}
    drawn = pictures(of)
    readings = [checker.read(picture) for picture in drawn]
    many["true, 32 x 32"] = np.mean([checker.accepts(r, prompt) for r, (prompt, _) in zip(readings, of, strict=True)])
    many["true, 64 x 64"] = accepted(pictures(of[:500], 64), of[:500])
    others = [(i, (i + step) % len(of)) for i in range(len(of)) for step in (1, 6, 12, 18)]
    others = [(i, j) for i, j in others if not scene.satisfies(of[i][1], of[j][0])]
    many["another prompt"] = np.mean([checker.accepts(readings[i], of[j][0]) for i, j in others])
    part, drawn = of[:1200], drawn[:1200]
    for deviation in (2, 4, 6, 8, 12):
        many[f"noise {deviation}"] = accepted([noisy(each, deviation, seed) for seed, each in enumerate(drawn)], part)
    for sigma in (0.3, 0.5, 0.7, 1.0):
        many[f"blur {sigma}"] = accepted([blurred(each, sigma) for each in drawn], part)
    for contrast in (0.9, 0.7, 0.5):
        many[f"contrast {contrast}"] = accepted([faded(each, contrast) for each in drawn], part)
    many["mixed"] = accepted(mixed(drawn), part)
    many["off colour"] = accepted([render.draw(off_colour(shown), 32) for _, shown in part], part)
    tables = {name: collections.Counter() for name in ("shape", "colour", "count")}
    for reading, (_, shown) in zip(readings, of, strict=True):
        tables["count"][len(shown.objects), len(reading.scene.objects)] += 1
        for read, thing in pairs(reading.scene, shown):
            tables["shape"][thing.shape, read.shape] += 1
            tables["colour"][thing.colour, read.colour] += 1
    surest = [min(*reading.confidences, reading.background_confidence) for reading in readings]
    with capsys.disabled():
        print("\n", *(f"{name:16} {share:.4f}\n" for name, share in many.items()))
        print(f"lowest confidence of true renders: {min(surest):.3f}; as drawn and as read: {tables}")
    assert many["true, 32 x 32"] == many["true, 64 x 64"] == 1
    assert many["another prompt"] <= 0.01
    assert all(drawn == read for table in tables.values() for drawn, read in table)
    assert max(many[name] for name in ("blur 1.0", "contrast 0.5", "mixed")) <= 0.05
    assert min(many[name] for name in ("noise 6", "blur 0.3", "contrast 0.9", "off colour")) >= 0.9
