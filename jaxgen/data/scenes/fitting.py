"""Fits one drawn shape to a region of a picture: place, radius, turn and colour, by analysis through synthesis."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxgen.data.scenes import render, scene

MAX_TURN = 0.3
"""Radians; a shape turned further is another picture than the one that its name stands for (a square becomes a diamond)."""
MIN_RADIUS = 0.04

_AREA = {"circle": np.pi, "square": 1.76**2, "triangle": 3 * np.sqrt(3.0) * 0.6**2, "cross": 4 * 0.72 - 0.72**2}
_OUTLINE = {"circle": 2 * np.pi, "square": 8 * 0.88, "triangle": 6 * np.sqrt(3.0) * 0.6, "cross": 8.0}
"""Area and length of the outline of a shape of radius 1."""
_ROUGH, _FINE = 2, 4
"""Gauss-Newton steps before the shapes are compared, and after."""
_HOPELESS = 3.0
"""A shape whose energy exceeds the best one's so many times after the rough steps is not refined."""
_STEP = 0.1
"""Of the differences that stand for derivatives, in pixels."""
_LONGEST = 1.0
"""Of a Gauss-Newton step, in pixels, in each parameter."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """A shape as found.

    Attributes:
      shape: one of `scene.SHAPES`.
      place: x, y, radius and turn, float64 [4], as in `scene.Object`.
      colour: float64 [3], out of 255, not clipped.
      energy: sum over the region of the squared distance between picture and fit.
    """

    shape: str
    place: np.ndarray
    colour: np.ndarray
    energy: float

    def coverage(self, resolution: int) -> np.ndarray:
        """Share of each pixel that it covers, float64 [resolution, resolution]."""
        return _coverages(self.shape, self.place[None], resolution)[0]

    def outline(self, resolution: int) -> float:
        """Length of its outline in pixels."""
        return _OUTLINE[self.shape] * float(self.place[2]) * resolution


def best(picture: np.ndarray, base: np.ndarray, region: np.ndarray, centre: tuple[float, float], area: float) -> Fit:
    """The shape that explains a region best.

    Args:
      picture: float64 [R, R, 3].
      base: what lies behind the shape, float64 [R, R, 3].
      region: bool [R, R], the pixels that it has to explain; some of them must be covered.
      centre: x and y to start from, in units of the side.
      area: to start from, as a share of the picture.
    """
    problem = _Problem(picture, base, region)
    rough = []
    for shape in scene.SHAPES:
        place = np.array([*centre, np.sqrt(area / _AREA[shape]), 0.0])
        rough.append(problem.refined(shape, problem.held(place), _ROUGH))
    lowest = min(fit.energy for fit in rough)
    fine = [problem.refined(fit.shape, fit.place, _FINE) for fit in rough if fit.energy <= _HOPELESS * lowest]
    return min(fine, key=lambda fit: fit.energy)


def refined(fit: Fit, picture: np.ndarray, base: np.ndarray, region: np.ndarray) -> Fit:
    """The same shape, fitted further to a region, with another base; arguments as of `best`."""
    return _Problem(picture, base, region).refined(fit.shape, fit.place, _ROUGH)


def _coverages(shape: str, places: np.ndarray, resolution: int) -> np.ndarray:
    """[K, R, R] of places [K, 4]: an object whose numbers are arrays is drawn once for each."""
    x, y, radius, turn = places.T[..., None, None]
    return render.coverage(scene.Object(shape, "", x, y, radius, turn), resolution)


class _Problem:
    """Least squares in alpha: the share of the way from the base to the shape's colour that each pixel has gone.

    Sums are by einsum and not by BLAS, whose threads cost more than they bring for sizes like these.
    """

    def __init__(self, picture: np.ndarray, base: np.ndarray, region: np.ndarray) -> None:
        self.resolution = len(picture)
        self.pixels = np.flatnonzero(region)
        self.base = base.reshape(-1, 3)[self.pixels]
        self.change = picture.reshape(-1, 3)[self.pixels] - self.base

    def refined(self, shape: str, place: np.ndarray, steps: int) -> Fit:
        """After so many Gauss-Newton steps; the colour is eliminated, since the picture is linear in it."""
        free = 3 if shape == "circle" else 4
        unit = 1.0 / self.resolution
        for _ in range(steps):
            # Turning moves the outline by the radius times the angle.
            scale = np.array([unit, unit, unit, unit / place[2]])
            covers = self._covers(shape, place + np.vstack([np.zeros(4), np.diag(_STEP * scale)[:free]]))
            cover = covers[0]
            towards = self._colour(cover) - self.base
            contrast = np.einsum("pc,pc->p", towards, towards) + 1.0
            short = np.einsum("pc,pc->p", self.change, towards) / contrast - cover
            slopes = (covers[1:] - cover) / _STEP
            normal = np.einsum("kp,jp->kj", slopes * contrast, slopes)
            normal += np.eye(free) * (1e-3 * np.trace(normal) / free + 1e-9)
            step = np.linalg.solve(normal, np.einsum("kp,p->k", slopes, contrast * short))
            place = place.copy()
            place[:free] += np.clip(step, -_LONGEST, _LONGEST) * scale[:free]
            place = self.held(place)
        cover = self._covers(shape, place[None])[0]
        colour = self._colour(cover)
        left = self.change - cover[:, None] * (colour - self.base)
        return Fit(shape, place, colour, float(np.einsum("pc,pc->", left, left)))

    @staticmethod
    def held(place: np.ndarray) -> np.ndarray:
        """Within what can be drawn."""
        return np.clip(place, [0.0, 0.0, MIN_RADIUS, -MAX_TURN], [1.0, 1.0, 0.6, MAX_TURN])

    def _covers(self, shape: str, places: np.ndarray) -> np.ndarray:
        return _coverages(shape, places, self.resolution).reshape(len(places), -1)[:, self.pixels]

    def _colour(self, cover: np.ndarray) -> np.ndarray:
        """The colour that explains the region best, given what is covered."""
        return np.einsum("p,pc->c", cover, self.change + cover[:, None] * self.base) / max(float(np.square(cover).sum()), 1e-9)
