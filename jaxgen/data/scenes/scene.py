"""What a scene holds and what a prompt says of one: plain descriptions, as JSON too.

A `Scene` is drawn (`render`), a `Prompt` is worded (`wording`); `satisfies` says whether the one is what the other asks for.
Lengths are in units of the picture's side: x grows to the right, y downwards, both from 0 to 1.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "green": (30, 150, 60),
    "blue": (40, 80, 220),
    "yellow": (250, 215, 20),
    "purple": (140, 50, 170),
    "orange": (250, 130, 20),
}
"""By name, as red, green and blue out of 255; a drawn object is within `COLOUR_JITTER` of it in each channel."""
COLOUR_JITTER = 10

SHAPES = ("circle", "square", "triangle", "cross")
COUNTS = (1, 2, 3, 4)
SIZES: dict[str, tuple[float, float]] = {"small": (0.115, 0.135), "large": (0.19, 0.23)}
"""Range of an object's radius by the word for it; between the two ranges no word fits."""
RELATIONS = ("left of", "right of", "above", "below", "inside", "on")
"""Of the first group to the second. "on" touches it from above, "above" does not."""
TEXTURES = ("plain", "striped", "chequered", "speckled")
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""The six of GenEval (Ghosh et al., arXiv 2310.11513), by its own names."""

EXTENT = {"circle": 1.0, "square": 1.25, "triangle": 1.2, "cross": 1.06}
"""Farthest point of a shape from its centre, in radii."""
GAP = 0.05
"""Smallest room between two objects that do not touch; "on" leaves less than half of it."""


@dataclasses.dataclass(frozen=True)
class Object:
    """One shape: its centre, its radius (that of a circle; other shapes have about the same area), its turn in radians."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    turn: float = 0.0
    tint: tuple[int, int, int] = (0, 0, 0)

    @property
    def size(self) -> str | None:
        """The word for its radius; None where none fits."""
        return next((name for name, (low, high) in SIZES.items() if low - 0.01 <= self.radius <= high + 0.01), None)


@dataclasses.dataclass(frozen=True)
class Background:
    """Attributes:
    texture: one of `TEXTURES`. colour: its mean. seed: of the texture's period, direction and phase.
    """

    texture: str
    colour: tuple[int, int, int]
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Scene:
    """Objects, drawn in this order, on a background."""

    objects: tuple[Object, ...]
    background: Background


@dataclasses.dataclass(frozen=True)
class Group:
    """So many objects alike. What is None is not said."""

    shape: str
    count: int = 1
    colour: str | None = None
    size: str | None = None

    def matches(self, thing: Object) -> bool:
        """Whether the object is of this kind."""
        return (
            thing.shape == self.shape
            and (self.colour is None or thing.colour == self.colour)
            and (self.size is None or thing.size == self.size)
        )


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What is asked for.

    Attributes:
      task: one of `TASKS`.
      groups: one or two; of two, each object belongs to exactly one.
      relation: of the first group to the second, one of `RELATIONS`, or None.
      texture: of the background, where it is said.
    """

    task: str
    groups: tuple[Group, ...]
    relation: str | None = None
    texture: str | None = None

    def counts(self) -> int:
        """Number of objects asked for."""
        return sum(group.count for group in self.groups)


def satisfies(scene: Scene, prompt: Prompt) -> bool:
    """Whether the scene is what the prompt asks for and holds no object besides."""
    return (
        has_groups(scene, prompt)
        and (prompt.relation is None or related(scene, prompt))
        and (prompt.texture is None or scene.background.texture == prompt.texture)
    )


def has_groups(scene: Scene, prompt: Prompt) -> bool:
    """Whether kind, colour, size and number of objects are exactly those of the prompt, wherever they are."""
    counts = [sum(map(group.matches, scene.objects)) for group in prompt.groups]
    return len(scene.objects) == prompt.counts() and counts == [group.count for group in prompt.groups]


def related(scene: Scene, prompt: Prompt) -> bool:
    """Whether every object of the first group stands in the prompt's relation to every one of the second."""
    first, second = ([thing for thing in scene.objects if group.matches(thing)] for group in prompt.groups)
    return bool(first and second) and all(relation(a, b) == prompt.relation for a in first for b in second)


def relation(a: Object, b: Object) -> str | None:
    """The relation of a to b; None where none is clear.

    Left, right, above and below as in GenEval: the offset of the centres, shortened by a tenth of both sizes, points more
    than half along the axis.
    """
    dx, dy = a.x - b.x, a.y - b.y
    if a.radius < b.radius and math.hypot(dx, dy) + 0.8 * a.radius < b.radius:
        return "inside"
    touching = bottom(b, upwards=True) - bottom(a)
    if abs(touching) < GAP / 2 and abs(dx) < b.radius:
        return "on"
    shrink = 0.1 * 2 * (a.radius + b.radius)
    rx, ry = (math.copysign(max(abs(d) - shrink, 0.0), d) for d in (dx, dy))
    norm = math.hypot(rx, ry)
    if norm < 1e-3:
        return None
    # Of the two that may be true on a diagonal the stronger counts.
    if abs(rx) >= abs(ry):
        return "left of" if rx < 0 else "right of"
    return "above" if ry < 0 else "below"


def bottom(thing: Object, upwards: bool = False) -> float:
    """y of the lowest point of an object that is not turned; of its highest where `upwards`."""
    up, down = {"circle": (1.0, 1.0), "square": (0.88, 0.88), "triangle": (1.2, 0.6), "cross": (1.0, 1.0)}[thing.shape]
    return thing.y - up * thing.radius if upwards else thing.y + down * thing.radius


def triples(scene: Scene) -> set[tuple[str, str, int]]:
    """The (colour, shape, count) of each kind in the scene."""
    counted = collections.Counter((thing.colour, thing.shape) for thing in scene.objects)
    return {(colour, shape, count) for (colour, shape), count in counted.items()}


def heldout(triple: tuple[str, str, int]) -> bool:
    """Whether the (colour, shape, count) is kept for testing: twelve of 96, three of each count, two of each colour."""
    colour, shape, count = triple
    i, j = list(COLOURS).index(colour), SHAPES.index(shape)
    return (i + j) % 2 == 0 and count == COUNTS[(i // 2 + j) % len(COUNTS)]


def to_data(node: Any) -> Any:
    """A scene or prompt as JSON-ready data."""
    return dataclasses.asdict(node)


def scene_from(data: Mapping[str, Any]) -> Scene:
    """The inverse of `to_data`."""
    objects = tuple(Object(**{**thing, "tint": tuple(thing["tint"])}) for thing in data["objects"])
    background = data["background"]
    return Scene(objects, Background(**{**background, "colour": tuple(background["colour"])}))


def prompt_from(data: Mapping[str, Any]) -> Prompt:
    """The inverse of `to_data`."""
    return Prompt(**{**data, "groups": tuple(Group(**group) for group in data["groups"])})
