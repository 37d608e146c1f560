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
    """The plan of a scene, int32 [LENGTH]: for each object, from above and left, its kind, its cell and its radius; then 0."""
    found = []
    for cell, thing in sorted(((_cell(thing), thing) for thing in shown.objects), key=lambda pair: pair[0]):
        kind = 1 + _KINDS.index((thing.colour, thing.shape))
        found += [kind, _FIRST_CELL + cell, _FIRST_RADIUS + int(np.digitize(thing.radius, RADII))]
    return np.array(found + [0] * (LENGTH - len(found)), np.int32)


def _cell(thing: scene.Object) -> int:
    row, column = (min(max(int(CELLS * place), 0), CELLS - 1) for place in (thing.y, thing.x))
    return CELLS * row + column
