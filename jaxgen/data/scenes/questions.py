"""A graph of yes-or-no questions on a prompt, as DPG-Bench has it (Hu et al., arXiv 2403.05135), answered by the checker.

Whether there is such a shape is asked first (entity), then its colour and size (attribute), number (other) and relation; a question
counts as no where one that it depends on does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxgen.data.scenes import checker, scene

CATEGORIES = ("global", "entity", "attribute", "relation", "other")
_NUMBERS = ("one", "two", "three", "four")


@dataclasses.dataclass(frozen=True)
class Question:
    """Attributes:
    category: one of `CATEGORIES`. text: in English. parents: places of the questions that it depends on.
    groups: what it is about: of the prompt's groups, with what is asked of them and nothing else.
    relation, texture: asked for, or None. exact: whether there must be exactly as many.
    """

    category: str
    text: str
    parents: tuple[int, ...] = ()
    groups: tuple[scene.Group, ...] = ()
    relation: str | None = None
    texture: str | None = None
    exact: bool = False


def graph(prompt: scene.Prompt) -> tuple[Question, ...]:
    """The questions on a prompt; parents come before what depends on them."""
    found: list[Question] = []
    if prompt.texture:
        found.append(Question("global", f"Is the background {prompt.texture}?", texture=prompt.texture))
    entities = []
    for group in prompt.groups:
        shape = scene.Group(group.shape)
        entity = len(found)
        entities.append(entity)
        found.append(Question("entity", f"Is there a {group.shape}?", (), (shape,)))
        for name in ("colour", "size"):
            value = getattr(group, name)
            if value:
                asked = dataclasses.replace(shape, **{name: value})
                found.append(Question("attribute", f"Is there a {group.shape} that is {value}?", (entity,), (asked,)))
        said = " ".join(word for word in (group.size, group.colour, group.shape) if word)
        number = _NUMBERS[group.count - 1]
        found.append(Question("other", f"Is the number of each {said} exactly {number}?", (entity,), (group,), exact=True))
    if prompt.relation:
        a, b = prompt.groups
        text = f"Is the {a.shape} {prompt.relation} the {b.shape}?"
        found.append(Question("relation", text, tuple(entities), (a, b), relation=prompt.relation))
    return tuple(found)


def answers(reading: checker.Reading, questions: Sequence[Question]) -> tuple[bool, ...]:
    """Yes or no to each question by itself, from the objects that the checker is sure of."""
    sure = [thing for thing, c in zip(reading.scene.objects, reading.confidences, strict=True) if c >= checker.THRESHOLD]
    return tuple(_answer(question, sure, reading.scene.background.texture) for question in questions)


def counted(questions: Sequence[Question], raw: Sequence[bool]) -> tuple[bool, ...]:
    """The answers with no for every question whose parent counts as no."""
    found: list[bool] = []
    for question, answer in zip(questions, raw, strict=True):
        found.append(answer and all(found[parent] for parent in question.parents))
    return tuple(found)


def score(questions: Sequence[Question], raw: Sequence[bool]) -> float:
    """Share of questions that count as yes."""
    return sum(counted(questions, raw)) / len(questions)


def by_category(questions: Sequence[Question], raw: Sequence[bool]) -> dict[str, float]:
    """Share of yes by category, each question by itself."""
    found = {}
    for category in CATEGORIES:
        part = [answer for question, answer in zip(questions, raw, strict=True) if question.category == category]
        if part:
            found[category] = sum(part) / len(part)
    return found


def _answer(question: Question, things: Sequence[scene.Object], texture: str) -> bool:
    if question.texture:
        return texture == question.texture
    matching = [[thing for thing in things if group.matches(thing)] for group in question.groups]
    if question.relation:
        first, second = matching
        return any(scene.relation(a, b) == question.relation for a in first for b in second)
    (found,), (group,) = matching, question.groups
    return len(found) == group.count if question.exact else bool(found)
