"""Draws prompts, and scenes that satisfy them, from counters: the same on every machine and in every order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from jaxgen.data import hashing
from jaxgen.data.scenes.scene import (
    COLOUR_JITTER,
    COLOURS,
    COUNTS,
    EXTENT,
    GAP,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Background,
    Group,
    Object,
    Prompt,
    Scene,
    bottom,
    heldout,
    satisfies,
    triples,
)

Item = TypeVar("Item")

_AHEAD = 64
_TURN = 0.14
_EDGE = 0.02
_SEVERAL = (0.12, 0.155)
_OUTER = {"circle": (0.28, 0.34), "square": (0.28, 0.34), "triangle": (0.34, 0.37)}
"""Radius of an object that holds another, by shape; a cross has no room within."""
_INNER = (0.118, 0.135)
_PAIR = (0.13, 0.19)


class Draws:
    """Random choices, each from the next counter of a stream of its own.

    Args:
      seed: any integer.
      stream: what the choices are for.
      index: of the example.
    """

    def __init__(self, seed: int, stream: str, index: int) -> None:
        self._drawn = self._forever(seed, f"{stream} {index}")

    @staticmethod
    def _forever(seed: int, stream: str) -> Iterator[float]:
        for start in itertools.count(0, _AHEAD):
            drawn = hashing.draws(seed, stream, np.arange(start, start + _AHEAD)) >> np.uint64(11)
            yield from (drawn / 2.0**53).tolist()

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * next(self._drawn)

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[int(self.uniform(0, len(items)))]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` different items, in drawn order."""
        left = list(items)
        return [left.pop(int(self.uniform(0, len(left)))) for _ in range(count)]


def prompt(draws: Draws, task: str) -> Prompt:
    """A prompt of one of `scene.TASKS`.

    Two groups never share a colour in the scene, nor a shape where the prompt gives no colours, so that each object belongs to one.
    """
    if task == "single_object":
        texture = draws.choice(TEXTURES) if draws.uniform() < 0.25 else None
        size = draws.choice(tuple(SIZES)) if draws.uniform() < 0.5 else None
        return Prompt(task, (Group(draws.choice(SHAPES), size=size),), texture=texture)
    if task == "colors":
        size = draws.choice(tuple(SIZES)) if draws.uniform() < 0.25 else None
        return Prompt(task, (Group(draws.choice(SHAPES), 1, draws.choice(tuple(COLOURS)), size),))
    if task == "counting":
        colour = draws.choice(tuple(COLOURS)) if draws.uniform() < 0.75 else None
        return Prompt(task, (Group(draws.choice(SHAPES), draws.choice(COUNTS[1:]), colour),))
    if task == "two_object":
        return Prompt(task, tuple(Group(shape) for shape in draws.sample(SHAPES, 2)))
    if task == "color_attr":
        first, second = draws.sample(tuple(COLOURS), 2)
        count = draws.choice((1, 1, 2, 3))
        return Prompt(task, (Group(draws.choice(SHAPES), count, first), Group(draws.choice(SHAPES), 1, second)))
    if task != "position":
        raise ValueError(f"task: found {task!r}, needed one of the six")
    relation = draws.choice(RELATIONS)
    first, second = draws.sample(SHAPES, 2)
    if relation == "inside" and second == "cross":
        first, second = second, first
    if relation == "on":
        second = "square"
        first = draws.choice(tuple(shape for shape in SHAPES if shape != "square"))
    colours = draws.sample(tuple(COLOURS), 2) if draws.uniform() < 0.5 else (None, None)
    return Prompt(task, (Group(first, 1, colours[0]), Group(second, 1, colours[1])), relation)


def scene(draws: Draws, of: Prompt, allow_heldout: bool) -> Scene:
    """A scene that satisfies the prompt and nothing more; what the prompt leaves open is drawn.

    Args:
      allow_heldout: False redraws colours that would make a kind that is kept for testing.

    Raises:
      ValueError: no such scene was found, for example because the prompt itself asks for what is held out.
    """
    said = [(group.colour, group.shape, group.count) for group in of.groups if group.colour]
    for _ in range(0 if not allow_heldout and any(map(heldout, said)) else 500):
        named = [group.colour for group in of.groups]
        free = [colour for colour in COLOURS if colour not in named]
        drawn = draws.sample(free, len(named))
        colours = [name or other for name, other in zip(named, drawn, strict=True)]
        objects = _placed(draws, of, colours)
        if objects is None:
            continue
        made = Scene(objects, _background(draws, of))
        if satisfies(made, of) and (allow_heldout or not any(map(heldout, triples(made)))):
            return made
    raise ValueError(f"prompt: found {of}, needed one that some scene satisfies")


def _background(draws: Draws, of: Prompt) -> Background:
    light = draws.uniform(206, 240)
    colour = tuple(int(np.clip(light + draws.uniform(-8, 8), 0, 245)) for _ in range(3))
    texture = of.texture or (draws.choice(TEXTURES[1:]) if draws.uniform() < 0.15 else "plain")
    return Background(texture, colour, int(draws.uniform(0, 2**31)))


def _placed(draws: Draws, of: Prompt, colours: list[str]) -> tuple[Object, ...] | None:
    if of.relation is None:
        return _scattered(draws, of, colours)
    first, second = of.groups
    if of.relation == "inside":
        radius = draws.uniform(*_OUTER[second.shape])
        outer = _object(draws, second, colours[1], *_within(draws, second.shape, radius), radius)
        inner = _object(draws, first, colours[0], outer.x + draws.uniform(-0.02, 0.02), outer.y + draws.uniform(-0.02, 0.02),
                        draws.uniform(*_INNER))  # fmt: skip
        return outer, inner
    radii = draws.uniform(*_PAIR), draws.uniform(*_PAIR)
    if of.relation == "on":
        below = _object(draws, second, colours[1], draws.uniform(0.3, 0.7), draws.uniform(0.65, 0.8), radii[1], upright=True)
        above = _object(draws, first, colours[0], below.x + draws.uniform(-0.05, 0.05), 0.0, radii[0], upright=True)
        # A little over the edge, so that no pixel of the background shows between.
        y = bottom(below, upwards=True) - (bottom(above) - above.y) + 0.008
        return below, _moved(above, above.x, y)
    angle = draws.uniform(-0.35, 0.35) + {"right of": 0.0, "below": 0.5, "left of": 1.0, "above": 1.5}[of.relation] * math.pi
    far = draws.uniform(0.42, 0.5)
    middle = draws.uniform(0.45, 0.55), draws.uniform(0.45, 0.55)
    dx, dy = 0.5 * far * math.cos(angle), 0.5 * far * math.sin(angle)
    pair = (
        _object(draws, first, colours[0], middle[0] + dx, middle[1] + dy, radii[0]),
        _object(draws, second, colours[1], middle[0] - dx, middle[1] - dy, radii[1]),
    )
    return pair if _clear(pair) else None


def _scattered(draws: Draws, of: Prompt, colours: list[str]) -> tuple[Object, ...] | None:
    """Anywhere, apart from one another."""
    objects: list[Object] = []
    total = of.counts()
    for group, colour in zip(of.groups, colours, strict=True):
        for _ in range(group.count):
            usual = (SIZES["small"][0], SIZES["large"][1]) if total == 1 else _PAIR if total == 2 else _SEVERAL
            radius = draws.uniform(*(SIZES[group.size] if group.size else usual))
            for _ in range(30):
                thing = _object(draws, group, colour, *_within(draws, group.shape, radius), radius)
                if _clear((*objects, thing)):
                    objects.append(thing)
                    break
            else:
                return None
    return tuple(objects)


def _within(draws: Draws, shape: str, radius: float) -> tuple[float, float]:
    margin = min(EXTENT[shape] * radius + _EDGE, 0.5)
    return draws.uniform(margin, 1 - margin), draws.uniform(margin, 1 - margin)


def _object(draws: Draws, group: Group, colour: str, x: float, y: float, radius: float, upright: bool = False) -> Object:
    turn = 0.0 if upright else draws.uniform(-_TURN, _TURN)
    tint = tuple(int(draws.uniform(-COLOUR_JITTER, COLOUR_JITTER)) for _ in range(3))
    return Object(group.shape, colour, x, y, radius, turn, tint)


def _moved(thing: Object, x: float, y: float) -> Object:
    return Object(thing.shape, thing.colour, x, y, thing.radius, thing.turn, thing.tint)


def _clear(objects: Sequence[Object]) -> bool:
    """Whether all lie within the picture and apart from one another."""
    for i, a in enumerate(objects):
        reach = EXTENT[a.shape] * a.radius
        if min(a.x, a.y) < reach or max(a.x, a.y) > 1 - reach:
            return False
        for b in objects[:i]:
            if math.hypot(a.x - b.x, a.y - b.y) < reach + EXTENT[b.shape] * b.radius + GAP:
                return False
    return True
