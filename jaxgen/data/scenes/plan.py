"""Plans of scenes: what stands where, in ids that a model writes down before it draws."""

from __future__ import annotations

import numpy as np

from jaxgen.data.scenes import scene

OBJECTS = max(scene.COUNTS)
"""In a scene at most."""
CELLS = 8
"""Rows and columns of the grid that centres are given on."""
RADII = (0.125, 0.16, 0.21)
"""Bounds between the steps in which radii are given."""

_KINDS = [(colour, shape) for colour in scene.COLOURS for shape in scene.SHAPES]
_FIRST_CELL = 1 + len(_KINDS)
_FIRST_RADIUS = _FIRST_CELL + CELLS**2

LENGTH = 3 * OBJECTS + 1
IDS = _FIRST_RADIUS + len(RADII) + 1


def ids(shown: scene.Scene) -> np.ndarray:
    """The plan of a scene, int32 [LENGTH]: each object's kind, cell and radius, then 0.

    Kinds come in the order in which they are drawn, which is that of the words for them unless one is to cover the other; objects
    of a kind from above and left.
    """
    kinds = [_KINDS.index((thing.colour, thing.shape)) for thing in shown.objects]
    rows = [(kinds.index(kind), _cell(thing), kind, thing.radius) for kind, thing in zip(kinds, shown.objects, strict=True)]
    found = []
    for _, cell, kind, radius in sorted(rows):
        found += [1 + kind, _FIRST_CELL + cell, _FIRST_RADIUS + int(np.digitize(radius, RADII))]
    return np.array(found + [0] * (LENGTH - len(found)), np.int32)


def _cell(thing: scene.Object) -> int:
    row, column = (min(max(int(CELLS * place), 0), CELLS - 1) for place in (thing.y, thing.x))
    return CELLS * row + column
