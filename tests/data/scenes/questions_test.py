import dataclasses

import pytest

from jaxgen.data.scenes import questions, scene, source
from jaxgen.data.scenes.checker import Reading

MADE = [source.made("test", index) for index in range(180)]


def reading(shown, objects=None, confidence=1.0):
    shown = shown if objects is None else dataclasses.replace(shown, objects=tuple(objects))
    return Reading(shown, (confidence,) * len(shown.objects), 1.0)


def test_true_scenes_answer_every_question_yes():
    for prompt, shown in MADE:
        graph = questions.graph(prompt)
        assert questions.score(graph, questions.answers(reading(shown), graph)) == 1.0


def test_the_graph_asks_all_that_the_prompt_says():
    prompt = scene.Prompt(
        "position", (scene.Group("circle", 2, "red", "small"), scene.Group("cross", 1, "blue")), "above", "striped"
    )
    graph = questions.graph(prompt)
    asked = [(question.category, question.parents) for question in graph]
    assert asked == [
        ("global", ()), ("entity", ()), ("attribute", (1,)), ("attribute", (1,)), ("other", (1,)),
        ("entity", ()), ("attribute", (5,)), ("other", (5,)), ("relation", (1, 5)),
    ]  # fmt: skip
    assert len({question.text for question in graph}) == len(graph)
    assert all(question.text.endswith("?") for question in graph)


def test_removing_an_entity_zeroes_all_that_depends_on_it():
    for prompt, shown in MADE:
        graph = questions.graph(prompt)
        for group in prompt.groups:
            left = [thing for thing in shown.objects if thing.shape != group.shape]
            raw = questions.answers(reading(shown, left), graph)
            counted = questions.counted(graph, raw)
            gone = {i for i, q in enumerate(graph) if q.category == "entity" and q.groups[0].shape == group.shape}
            for i, question in enumerate(graph):
                if i in gone or gone & set(question.parents):
                    assert not counted[i]


def test_a_no_reaches_through_the_graph_in_order():
    one = scene.Group("circle")
    graph = (
        questions.Question("entity", "a", (), (one,)),
        questions.Question("attribute", "b", (0,), (one,)),
        questions.Question("attribute", "c", (1,), (one,)),
        questions.Question("entity", "d", (), (one,)),
    )
    assert questions.counted(graph, (False, True, True, True)) == (False, False, False, True)
    assert questions.score(graph, (False, True, True, True)) == 0.25
    assert questions.by_category(graph, (False, True, True, True)) == {"entity": 0.5, "attribute": 1.0}


def test_categories_are_scored_before_the_zeroing():
    for prompt, shown in MADE[:60]:
        graph = questions.graph(prompt)
        raw = questions.answers(reading(shown, shown.objects[1:]), graph)
        for category, share in questions.by_category(graph, raw).items():
            kept = [c for q, c in zip(graph, questions.counted(graph, raw), strict=True) if q.category == category]
            assert share >= sum(kept) / len(kept)


@pytest.mark.parametrize("change, category", [
    (lambda thing: dataclasses.replace(thing, colour="orange" if thing.colour != "orange" else "red"), "attribute"),
    (lambda thing: dataclasses.replace(thing, x=thing.x + 2, y=thing.y + 2), "relation"),
])  # fmt: skip
def test_a_change_is_a_no_in_its_category(change, category):
    seen = 0
    for prompt, shown in MADE:
        graph = questions.graph(prompt)
        if category not in {question.category for question in graph} or prompt.relation in ("right of", "below"):
            continue
        if category == "attribute" and not prompt.groups[0].colour:
            continue
        objects = [change(thing) if prompt.groups[0].matches(thing) else thing for thing in shown.objects]
        raw = questions.answers(reading(shown, objects), graph)
        assert questions.by_category(graph, raw)[category] < 1
        seen += 1
    assert seen > 10


def test_objects_that_the_checker_is_not_sure_of_are_not_there():
    prompt, shown = MADE[0]
    graph = questions.graph(prompt)
    assert not any(questions.counted(graph, questions.answers(reading(shown, confidence=0.1), graph)))
