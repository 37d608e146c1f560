import dataclasses
import json

import numpy as np
import pytest

from jaxgen.data.scenes import scene, source

MADE = [source.made(split, index) for split in ("train", "test") for index in range(300)]
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above", None: None}
EVERY = [(colour, shape, count) for colour in scene.COLOURS for shape in scene.SHAPES for count in scene.COUNTS]


def thing(x, y, radius=0.1, shape="circle", colour="red"):
    return scene.Object(shape, colour, x, y, radius)


def changed(shown, place, **fields):
    objects = list(shown.objects)
    objects[place] = dataclasses.replace(objects[place], **fields)
    return dataclasses.replace(shown, objects=tuple(objects))


def other(value, values):
    return next(each for each in values if each != value)


def of_group(shown, group):
    """Place in the scene of an object that the group asks for."""
    return next(i for i, each in enumerate(shown.objects) if group.matches(each))


def test_scenes_and_prompts_survive_json():
    for prompt, shown in MADE:
        assert scene.prompt_from(json.loads(json.dumps(scene.to_data(prompt)))) == prompt
        again = scene.scene_from(json.loads(json.dumps(scene.to_data(shown))))
        assert again == shown and hash(again) == hash(shown)


@pytest.mark.parametrize("a, b, expected", [
    (thing(0.2, 0.5), thing(0.8, 0.5), "left of"),
    (thing(0.8, 0.5), thing(0.2, 0.5), "right of"),
    (thing(0.5, 0.2), thing(0.5, 0.8), "above"),
    (thing(0.5, 0.8), thing(0.5, 0.2), "below"),
    (thing(0.2, 0.4), thing(0.8, 0.6), "left of"),
    (thing(0.4, 0.8), thing(0.6, 0.2), "below"),
    (thing(0.5, 0.5, 0.1), thing(0.51, 0.5, 0.3), "inside"),
    (thing(0.5, 0.4), thing(0.5, 0.588, shape="square"), "on"),
    (thing(0.5, 0.3, shape="triangle"), thing(0.5, 0.448, shape="square"), "on"),
    (thing(0.5, 0.35), thing(0.5, 0.588, shape="square"), "above"),
    (thing(0.5, 0.5), thing(0.53, 0.5), None),
])  # fmt: skip
def test_relations_are_what_their_words_say(a, b, expected):
    assert scene.relation(a, b) == expected


def test_directions_turn_round_with_the_order_of_the_objects():
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(3000):
        a, b = (thing(*rng.uniform(0, 1, 2), rng.uniform(0.1, 0.35), str(rng.choice(scene.SHAPES))) for _ in range(2))
        one, two = scene.relation(a, b), scene.relation(b, a)
        if {one, two} & {"inside", "on"}:
            assert one != two
        else:
            assert OPPOSITE[one] == two
        found.add(one)
    assert found == {*scene.RELATIONS, None}


def test_directions_agree_with_the_centres():
    for _, shown in MADE:
        for a in shown.objects:
            for b in shown.objects:
                # "on" is left out: what is on something is above it as well.
                match scene.relation(a, b):
                    case "left of":
                        assert a.x < b.x
                    case "right of":
                        assert a.x > b.x
                    case "above" | "on":
                        assert a.y < b.y
                    case "below":
                        assert a.y > b.y


def test_what_is_held_out_is_spread_and_leaves_all_parts_in_training():
    kept = [triple for triple in EVERY if scene.heldout(triple)]
    assert len(EVERY) == 96 and len(kept) == 12
    assert all(sum(triple[2] == count for triple in kept) == 3 for count in scene.COUNTS)
    assert all(sum(triple[0] == colour for triple in kept) == 2 for colour in scene.COLOURS)
    assert all(sum(triple[1] == shape for triple in kept) == 3 for shape in scene.SHAPES)
    seen = set(EVERY) - set(kept)
    for left_out in range(3):
        pairs = {triple[:left_out] + triple[left_out + 1 :] for triple in EVERY}
        assert pairs == {triple[:left_out] + triple[left_out + 1 :] for triple in seen}


def test_triples_count_each_kind():
    objects = (thing(0.1, 0.1), thing(0.5, 0.5), thing(0.9, 0.9, shape="cross"), thing(0.9, 0.1, colour="blue"))
    background = scene.Background("plain", (220, 220, 220))
    assert scene.triples(scene.Scene(objects, background)) == {("red", "circle", 2), ("red", "cross", 1), ("blue", "circle", 1)}


def test_one_more_or_one_less_does_not_satisfy():
    for prompt, shown in MADE:
        assert scene.satisfies(shown, prompt)
        for place, each in enumerate(shown.objects):
            less = shown.objects[:place] + shown.objects[place + 1 :]
            assert not scene.satisfies(dataclasses.replace(shown, objects=less), prompt)
            more = (*shown.objects, dataclasses.replace(each, x=each.x + 0.01))
            assert not scene.satisfies(dataclasses.replace(shown, objects=more), prompt)
        named = {group.shape for group in prompt.groups}
        stray = dataclasses.replace(shown.objects[0], shape=other(None, [s for s in scene.SHAPES if s not in named]))
        assert not scene.satisfies(dataclasses.replace(shown, objects=(*shown.objects, stray)), prompt)


def test_another_attribute_does_not_satisfy_where_it_is_said():
    said = dict.fromkeys(("shape", "colour", "size", "texture"), 0)
    for prompt, shown in MADE:
        for group in prompt.groups:
            place = of_group(shown, group)
            assert not scene.satisfies(changed(shown, place, shape=other(group.shape, scene.SHAPES)), prompt)
            said["shape"] += 1
            if group.colour:
                assert not scene.satisfies(changed(shown, place, colour=other(group.colour, scene.COLOURS)), prompt)
                said["colour"] += 1
            if group.size:
                middle = np.mean(scene.SIZES[other(group.size, scene.SIZES)])
                assert not scene.satisfies(changed(shown, place, radius=middle), prompt)
                said["size"] += 1
        if prompt.texture:
            background = dataclasses.replace(shown.background, texture=other(prompt.texture, scene.TEXTURES))
            assert not scene.satisfies(dataclasses.replace(shown, background=background), prompt)
            said["texture"] += 1
    assert min(said.values()) > 15


def test_what_is_not_said_does_not_matter():
    free = 0
    for prompt, shown in MADE:
        if prompt.texture is None:
            background = dataclasses.replace(shown.background, texture=other(shown.background.texture, scene.TEXTURES))
            assert scene.satisfies(dataclasses.replace(shown, background=background), prompt)
        if prompt.task == "single_object":
            assert scene.satisfies(changed(shown, 0, colour=other(shown.objects[0].colour, scene.COLOURS)), prompt)
            free += 1
    assert free > 50


def test_objects_that_change_places_do_not_satisfy_a_relation():
    seen = set()
    for prompt, shown in MADE:
        if prompt.relation is None:
            continue
        a, b = shown.objects
        swapped = (dataclasses.replace(a, x=b.x, y=b.y, radius=b.radius), dataclasses.replace(b, x=a.x, y=a.y, radius=a.radius))
        assert not scene.satisfies(dataclasses.replace(shown, objects=swapped), prompt)
        assert scene.satisfies(dataclasses.replace(shown, objects=swapped), dataclasses.replace(prompt, relation=None))
        apart = changed(shown, 0, x=a.x + 5.0, y=a.y - 5.0)
        if prompt.relation in ("inside", "on"):
            assert not scene.satisfies(apart, prompt)
        seen.add(prompt.relation)
    assert seen == set(scene.RELATIONS)


def test_the_lowest_and_highest_points_match_across_shapes():
    for shape in scene.SHAPES:
        each = thing(0.5, 0.5, 0.2, shape)
        assert scene.bottom(each, upwards=True) < each.y < scene.bottom(each)
        reach = max(scene.bottom(each) - each.y, each.y - scene.bottom(each, upwards=True))
        assert reach <= scene.EXTENT[shape] * each.radius + 1e-12


def test_a_radius_between_the_sizes_has_no_word():
    assert [thing(0, 0, radius).size for radius in (0.12, 0.16, 0.2)] == ["small", None, "large"]
    for size, (low, high) in scene.SIZES.items():
        assert {thing(0, 0, radius).size for radius in (low, high)} == {size}
