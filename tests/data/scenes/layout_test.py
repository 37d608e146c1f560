import math

import numpy as np
import pytest
from scipy import ndimage

from jaxgen.data.scenes import layout, render, scene


def drawn(task, index, allow_heldout=True, stream="layout"):
    draws = layout.Draws(0, f"{stream} {task}", index)
    prompt = layout.prompt(draws, task)
    try:
        return prompt, layout.scene(draws, prompt, allow_heldout)
    except ValueError:
        assert not allow_heldout
        return prompt, None


MADE = [drawn(task, index) for task in scene.TASKS for index in range(200)]


def covers(shown, resolution):
    return [render.coverage(thing, resolution) for thing in shown.objects]


def related(word):
    return [shown for prompt, shown in MADE if prompt.relation == word]


def test_scenes_satisfy_their_prompts():
    assert all(scene.satisfies(shown, prompt) for prompt, shown in MADE)


def test_nothing_leaves_the_picture():
    for _, shown in MADE:
        for cover in covers(shown, 128):
            assert max(cover[[0, -1]].max(), cover[:, [0, -1]].max()) < 0.5


def test_objects_are_apart_unless_one_is_on_or_inside_another():
    for prompt, shown in MADE:
        if prompt.relation in ("on", "inside"):
            continue
        for i, a in enumerate(shown.objects):
            for b in shown.objects[:i]:
                reach = scene.EXTENT[a.shape] * a.radius + scene.EXTENT[b.shape] * b.radius
                assert math.hypot(a.x - b.x, a.y - b.y) >= reach + scene.GAP


def test_no_object_reaches_farther_than_its_extent():
    y, x = np.indices((256, 256)) / 256 + 1 / 512
    for _, shown in MADE[::20]:
        for thing, cover in zip(shown.objects, covers(shown, 256), strict=True):
            reach = np.hypot(x - thing.x, y - thing.y)[cover > 0.5].max()
            assert 0.9 < reach / (scene.EXTENT[thing.shape] * thing.radius) < 1.01


def test_what_is_inside_is_wholly_inside():
    assert related("inside")
    for shown in related("inside"):
        outer, inner = covers(shown, 64)
        assert outer[inner > 0].min() == 1


def test_what_is_on_something_touches_it_and_hides_little_of_it():
    assert related("on")
    for shown in related("on"):
        below, above = covers(shown, 128)
        assert ndimage.label(np.maximum(below, above) > 0.5)[1] == 1
        assert np.minimum(below, above).sum() < 0.1 * min(below.sum(), above.sum())


def test_held_out_kinds_are_drawn_only_where_they_are_allowed():
    allowed = [scene.heldout(triple) for _, shown in MADE for triple in scene.triples(shown)]
    assert 0.05 < np.mean(allowed) < 0.25
    refused = 0
    for task in scene.TASKS:
        for index in range(150):
            prompt, shown = drawn(task, index, allow_heldout=False)
            asked = [(group.colour, group.shape, group.count) for group in prompt.groups if group.colour]
            assert (shown is None) == any(map(scene.heldout, asked))
            refused += shown is None
            assert shown is None or not any(map(scene.heldout, scene.triples(shown)))
    assert refused > 10


def test_every_held_out_kind_can_be_asked_for():
    for triple in [(c, s, n) for c in scene.COLOURS for s in scene.SHAPES for n in scene.COUNTS if scene.heldout((c, s, n))]:
        colour, shape, count = triple
        prompt = scene.Prompt("counting", (scene.Group(shape, count, colour),))
        with pytest.raises(ValueError, match="prompt: found .* needed"):
            layout.scene(layout.Draws(0, "refused", 0), prompt, False)
        assert scene.triples(layout.scene(layout.Draws(0, "allowed", 0), prompt, True)) == {triple}


def test_what_no_scene_satisfies_is_refused():
    crowd = scene.Prompt("counting", (scene.Group("square", 4, size="large"),))
    with pytest.raises(ValueError, match="some scene satisfies"):
        layout.scene(layout.Draws(0, "crowd", 0), crowd, True)
    with pytest.raises(ValueError, match="task"):
        layout.prompt(layout.Draws(0, "task", 0), "style")


def test_a_scene_is_a_function_of_its_counters():
    for task in scene.TASKS:
        several = [drawn(task, index) for index in range(20)]
        assert [drawn(task, index) for index in reversed(range(20))] == several[::-1]
        assert len({shown for _, shown in several}) == 20
        assert all(drawn(task, index, stream="another")[1] != several[index][1] for index in range(20))


def test_draws_are_uniform_choices_and_samples():
    numbers = layout.Draws(0, "numbers", 0)
    values = [numbers.uniform(2, 4) for _ in range(4000)]
    assert min(values) >= 2 and max(values) < 4 and abs(np.mean(values) - 3) < 0.05 and abs(np.std(values) - 2 / 12**0.5) < 0.03
    assert len(set(values)) == len(values)
    counts = np.bincount([numbers.choice(range(5)) for _ in range(5000)])
    assert len(counts) == 5 and counts.min() > 850
    samples = [tuple(numbers.sample("abc", 2)) for _ in range(600)]
    assert len(set(samples)) == 6 and all(a != b for a, b in samples)


def test_everything_that_can_be_drawn_is():
    groups = [group for prompt, _ in MADE for group in prompt.groups]
    things = [thing for _, shown in MADE for thing in shown.objects]
    assert {group.shape for group in groups} == {thing.shape for thing in things} == set(scene.SHAPES)
    assert {group.colour for group in groups} == {*scene.COLOURS, None} and {thing.colour for thing in things} == set(scene.COLOURS)
    assert {group.count for group in groups} == set(scene.COUNTS)
    assert {len(shown.objects) for _, shown in MADE} == set(scene.COUNTS)
    assert {group.size for group in groups} == {thing.size for thing in things} == {*scene.SIZES, None}
    assert {prompt.relation for prompt, _ in MADE} == {*scene.RELATIONS, None}
    assert {prompt.texture for prompt, _ in MADE} == {*scene.TEXTURES, None}
    unsaid = {shown.background.texture for prompt, shown in MADE if prompt.texture is None}
    assert unsaid == set(scene.TEXTURES)


def test_tasks_ask_what_their_names_say():
    for prompt, _ in MADE:
        count, said = prompt.counts(), [group.colour is not None for group in prompt.groups]
        match prompt.task:
            case "single_object":
                assert count == 1 and said == [False]
            case "two_object":
                assert [group.count for group in prompt.groups] == [1, 1] and not any(said)
            case "counting":
                assert len(said) == 1 and count > 1
            case "colors":
                assert count == 1 and said == [True]
            case "position":
                assert [group.count for group in prompt.groups] == [1, 1] and len(set(said)) == 1
            case "color_attr":
                assert said == [True, True]
        assert (prompt.relation is not None) == (prompt.task == "position")


def test_each_object_belongs_to_one_group():
    for prompt, shown in MADE:
        assert all(sum(group.matches(thing) for group in prompt.groups) == 1 for thing in shown.objects)


def test_colours_stand_out_from_the_background():
    for _, shown in MADE:
        for thing in shown.objects:
            assert np.linalg.norm(np.subtract(render.colour(thing), shown.background.colour)) > 100
