import numpy as np
import pytest

from jaxgen.data import text
from jaxgen.data.scenes import layout, scene, wording
from jaxgen.data.scenes.scene import Group, Prompt

PROMPTS = [layout.prompt(layout.Draws(3, task, i), task) for task in scene.TASKS for i in range(100)]


@pytest.mark.parametrize("code", ["en", "zh"])
def test_there_are_enough_wordings(code):
    language = wording.LANGUAGES[code]
    assert len(set(language.seen)) >= 30 and len(set(language.heldout)) >= 8
    assert not set(language.seen) & set(language.heldout)
    assert all(template.count("{}") == 1 for template in language.seen + language.heldout)


@pytest.mark.parametrize("code", ["en", "zh"])
def test_prompts_that_differ_are_said_differently_and_fit(code):
    (form,) = wording.LANGUAGES[code].forms
    said = {form(prompt): (prompt.groups, prompt.relation, prompt.texture) for prompt in PROMPTS}
    for prompt in PROMPTS:
        assert said[form(prompt)] == (prompt.groups, prompt.relation, prompt.texture)
    templates = wording.LANGUAGES[code].seen + wording.LANGUAGES[code].heldout
    longest = max(text.BYTES.needed(template.format(each)) for template in templates for each in said)
    assert longest <= wording.longest((code,), text.BYTES) <= 64


@pytest.mark.parametrize(
    "prompt, english, chinese",
    [
        (Prompt("single_object", (Group("circle"),)), "a circle", "一个圆形"),
        (Prompt("colors", (Group("cross", 1, "orange", "small"),)), "a small orange cross", "一个小橙色十字形"),
        (Prompt("colors", (Group("square", 1, "orange"),)), "an orange square", "一个橙色正方形"),
        (Prompt("counting", (Group("cross", 3),)), "three crosses", "三个十字形"),
        (
            Prompt("color_attr", (Group("circle", 2, "red"), Group("square", 1, "blue"))),
            "two red circles and a blue square",
            "两个红色圆形和一个蓝色正方形",
        ),
        (
            Prompt("position", (Group("circle"), Group("square")), "left of"),
            "a circle left of a square",
            "正方形左边的圆形",
        ),
        (
            Prompt("single_object", (Group("triangle"),), texture="striped"),
            "a triangle on a striped background",
            "条纹背景上的一个三角形",
        ),
    ],
)
def test_examples(prompt, english, chinese):
    assert wording.english(prompt) == english
    assert wording.chinese(prompt) == chinese


def test_training_is_said_in_words_alone_and_what_it_never_says_is_spelled():
    tokenizer = text.Tokenizer(wording.words(("en", "zh")))
    counts = {}
    for language in wording.LANGUAGES.values():
        for kept, templates in (("seen", language.seen), ("heldout", language.heldout)):
            said = [template.format(form(prompt)) for template in templates for prompt in PROMPTS for form in language.forms]
            ids = np.concatenate([np.extract(mask, found) for found, mask in (tokenizer.encode(each, 28) for each in said)])
            counts.setdefault(kept, []).append(int(((ids >= text.FIRST_BYTE) & (ids < text.FIRST_WORD)).sum()))
            assert all(tokenizer.decode(tokenizer.encode(each, 28)[0]) == each for each in said[:50])
    assert counts["seen"] == [0, 0] and min(counts["heldout"]) > 0


def test_words_are_those_of_the_languages_asked_for():
    english, both = wording.words(("en",)), wording.words(("en", "zh"))
    assert all(word.isascii() for word in english) and set(english) < set(both) and len(set(both)) == len(both)
