import dataclasses

import numpy as np
import pytest

from jaxgen.data.scenes import geneval, scene, source
from jaxgen.data.scenes.checker import Reading


def reading(objects, confidence=1.0):
    shown = scene.Scene(tuple(objects), scene.Background("plain", (230, 230, 230)))
    return Reading(shown, (confidence,) * len(shown.objects), 1.0)


def examples(task, count=40):
    made = [source.made("test", index) for index in range(scene.TASKS.index(task), 6 * count, 6)]
    assert {prompt.task for prompt, _ in made} == {task}
    return made


@pytest.mark.parametrize("task", scene.TASKS)
def test_true_scenes_are_correct_and_empty_ones_are_not(task):
    for prompt, shown in examples(task):
        assert geneval.score(reading(shown.objects), prompt)
        assert not geneval.score(reading(()), prompt)


def test_a_swapped_position_is_wrong_and_nothing_else():
    for prompt, shown in examples("position"):
        turned = [dataclasses.replace(thing, x=1 - thing.x, y=1 - thing.y) for thing in shown.objects]
        expected = prompt.relation == "inside"  # which turning the picture round leaves as it is
        assert geneval.score(reading(turned), prompt) == expected
        without = dataclasses.replace(prompt, relation=None)
        assert geneval.score(reading(turned), without)


@pytest.mark.parametrize("task", ["colors", "color_attr"])
def test_another_colour_is_wrong(task):
    for prompt, shown in examples(task):
        named = {group.colour for group in prompt.groups}
        other = next(colour for colour in scene.COLOURS if colour not in named)
        for place in range(len(shown.objects)):
            objects = list(shown.objects)
            objects[place] = dataclasses.replace(objects[place], colour=other)
            assert not geneval.score(reading(objects), prompt)


def test_colours_that_change_places_are_wrong():
    swapped = 0
    for prompt, shown in examples("color_attr"):
        a, b = prompt.groups
        if a.shape != b.shape:
            to = {a.colour: b.colour, b.colour: a.colour}
            objects = [dataclasses.replace(thing, colour=to[thing.colour]) for thing in shown.objects]
            assert not geneval.score(reading(objects), prompt)
            swapped += 1
    assert swapped > 10


def test_one_more_is_wrong_in_counting_and_passed_over_elsewhere():
    for task in scene.TASKS:
        if task == "position":
            continue
        for prompt, shown in examples(task, 10):
            more = [*shown.objects, dataclasses.replace(shown.objects[0], x=0.5, y=0.5)]
            assert geneval.score(reading(more), prompt) == (task != "counting")
            assert not geneval.score(reading(shown.objects[1:]), prompt)


def test_confidence_must_be_higher_in_counting():
    for task in scene.TASKS:
        for prompt, shown in examples(task, 5):
            assert geneval.score(reading(shown.objects, 0.6), prompt) == (task != "counting")
            assert not geneval.score(reading(shown.objects, 0.25), prompt)


def test_the_overall_score_is_the_mean_of_tasks_not_of_pictures():
    correct = np.array([True] * 9 + [False])
    found = geneval.summary(correct, ["counting"] * 9 + ["position"])
    assert found == {"geneval_counting": 1.0, "geneval_position": 0.0, "geneval": 0.5}
