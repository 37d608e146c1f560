"""Draws a scene: antialiased shapes on a plain or textured background, at any resolution."""

from __future__ import annotations

import numpy as np

from jaxgen.data import hashing
from jaxgen.data.scenes.scene import COLOURS, Background, Object, Scene

_AMPLITUDE = 9.0
"""Of textures, out of 255: seen, and well below any colour's distance from the background."""


def draw(scene: Scene, resolution: int) -> np.ndarray:
    """The scene as uint8 [resolution, resolution, 3]."""
    picture = background(scene.background, resolution)
    for thing in scene.objects:
        cover = coverage(thing, resolution)[..., None]
        picture += cover * (np.asarray(colour(thing), np.float64) - picture)
    return np.rint(picture.clip(0, 255)).astype(np.uint8)


def colour(thing: Object) -> tuple[int, int, int]:
    """Red, green and blue of an object, out of 255."""
    return tuple(min(max(base + shift, 0), 255) for base, shift in zip(COLOURS[thing.colour], thing.tint, strict=True))


def coverage(thing: Object, resolution: int) -> np.ndarray:
    """Share of each pixel that the object covers, float64 [resolution, resolution]."""
    y, x = _grid(resolution)
    x, y = (x - thing.x) / thing.radius, (y - thing.y) / thing.radius
    cos, sin = np.cos(thing.turn), np.sin(thing.turn)
    distance = _DISTANCES[thing.shape](cos * x + sin * y, cos * y - sin * x)
    return np.clip(0.5 - distance * thing.radius * resolution, 0.0, 1.0)


def background(of: Background, resolution: int) -> np.ndarray:
    """The background alone, float64 [resolution, resolution, 3]."""
    picture = np.empty((resolution, resolution, 3))
    picture[:] = of.colour
    if of.texture != "plain":
        picture += _AMPLITUDE * _TEXTURES[of.texture](of.seed, resolution)[..., None]
    return picture


def _grid(resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """y and x of the centres of pixels."""
    places = (np.arange(resolution) + 0.5) / resolution
    return places[:, None], places[None, :]


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 1.0


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.88


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Equilateral, its tip up (y grows downwards); the circle within has radius 0.6, the one around it 1.2.
    slanted = 0.5 * np.sqrt(3.0) * np.abs(x) - 0.5 * y
    return np.maximum(slanted, y) - 0.6


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 1.0, y - 0.36), np.maximum(x - 0.36, y - 1.0))


def _striped(seed: int, resolution: int) -> np.ndarray:
    period, phase, angle = _drawn(seed, (5.0, 7.0), (0.0, 1.0), (0.0, np.pi))
    y, x = _grid(resolution)
    return np.sin(2 * np.pi * (period * (np.cos(angle) * x + np.sin(angle) * y) + phase))


def _chequered(seed: int, resolution: int) -> np.ndarray:
    period, across, down = _drawn(seed, (3.0, 4.5), (0.0, 1.0), (0.0, 1.0))
    y, x = _grid(resolution)
    wave = np.sin(2 * np.pi * (period * x + across)) * np.sin(2 * np.pi * (period * y + down))
    return np.tanh(4.0 * wave)


def _speckled(seed: int, resolution: int) -> np.ndarray:
    draws = hashing.draws(seed, "speckles", np.arange(resolution * resolution)) >> np.uint64(11)
    return (draws / 2.0**53 * 2 - 1).reshape(resolution, resolution) * 1.5


def _drawn(seed: int, *ranges: tuple[float, float]) -> list[float]:
    draws = hashing.draws(seed, "texture", np.arange(len(ranges))) >> np.uint64(11)
    return [low + (high - low) * float(draw) / 2.0**53 for draw, (low, high) in zip(draws, ranges)]


_DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle, "cross": _cross}
"""How far a point lies outside of a shape of radius 1 around the origin; negative within."""
_TEXTURES = {"striped": _striped, "chequered": _chequered, "speckled": _speckled}
"""Between about -1 and 1, [resolution, resolution]."""
