"""Reads a picture of a scene: which objects it shows and how sure that is, without knowing what was asked for.

Background, then pixels of pure palette colours, then one shape fitted to each connected patch of them (`fitting`), then a look
at what the fitted scene leaves unexplained.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from jaxgen.data.scenes import fitting, scene, textures

THRESHOLD = 0.5
"""Confidence that `accepts` asks of every object and of the background."""

_PALETTE = np.array(list(scene.COLOURS.values()), np.float64)
_NAMES = tuple(scene.COLOURS)
_CORE = 70.0
"""Distance to a palette colour within which a pixel belongs to that colour's patch."""
_SHOWN = 40.0
"""Distance from the background or from the fitted scene above which a pixel is not explained by it; textures stay below 24."""
_SMALLEST = 3
"""Pixels of a patch that is worth a fit, at 32 x 32."""

_MOST = 16
"""Objects that are fitted; a picture of noise has a hundred patches, and all that is left of it counts as clutter."""

# Confidence is one half where an error is this large, and falls with its fourth power.
_ROUGHNESS = 0.1
"""Squared error of the fit, relative to the contrast, for each pixel of outline."""
_DRAWN, _SOFT = 1 / 6, 0.32
"""Width of an edge, as the integral across it of a (1 - a) with a from 0 to 1, in pixels: as drawn, where no error begins, and
where it is too soft. It is about 0.25 after a Gaussian blur of half a pixel and 0.45 after one of a whole pixel."""
_OFF_COLOUR = 30.0
"""Distance of a colour from what is drawn under its name."""
_CLUTTER = 2.5
"""Unexplained pixels outside of the objects, at 32 x 32."""
_STRONG = 120.0
"""Distance from the background of a pixel that counts as one whole unexplained pixel."""
_SQUARE = np.ones((3, 3), bool)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a picture shows.

    Attributes:
      scene: objects, the largest patches first, and the background (its texture's seed means nothing).
      confidences: one per object, in [0, 1]: whether it has that shape with clean edges, and that colour.
      background_confidence: in [0, 1]: whether nothing else is in the picture.
    """

    scene: scene.Scene
    confidences: tuple[float, ...]
    background_confidence: float

    def objects(self, confidence: float) -> tuple[scene.Object, ...]:
        """Those that are surer than `confidence`, the surest first."""
        order = sorted(range(len(self.confidences)), key=lambda i: -self.confidences[i])
        return tuple(self.scene.objects[i] for i in order if self.confidences[i] > confidence)


def accepts(reading: Reading, prompt: scene.Prompt, confidence: float = THRESHOLD) -> bool:
    """Whether the picture shows exactly what the prompt asks for, all of it surer than `confidence`."""
    surest = min((*reading.confidences, reading.background_confidence))
    return surest > confidence and scene.satisfies(reading.scene, prompt)


def read(picture: np.ndarray) -> Reading:
    """Reads a picture, uint8 [R, R, 3] with R at least 32.

    Raises:
      ValueError: another shape or dtype.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[0] < 32 or picture.shape != (len(picture), len(picture), 3):
        raise ValueError(f"picture: found {picture.dtype} {picture.shape}, needed uint8 [R, R, 3], R at least 32")
    pixels = picture.astype(np.float64)
    resolution = len(pixels)
    colour = _background(pixels)
    base = np.broadcast_to(colour, pixels.shape)
    fits = _fits(pixels, base)

    covers = [fit.coverage(resolution) for fit in fits]
    model = _composed(base, fits, covers)
    left = np.square(pixels - model).sum(axis=-1)
    owner = np.full((resolution, resolution), -1)
    # The last drawn lies on top: the edge between an object and one within it is the inner one's.
    for i, cover in enumerate(covers):
        owner[ndimage.binary_dilation(cover > 0, _SQUARE)] = i
    objects, confidences = [], []
    for i, (fit, cover) in enumerate(zip(fits, covers, strict=True)):
        thing, off = _named(fit)
        objects.append(thing)
        own = owner == i
        if not own.any():
            confidences.append(0.0)
            continue
        towards = fit.colour - _composed(base, fits[:i], covers[:i])[own]
        contrast = np.square(towards).sum(axis=-1).mean() + 1.0
        outline = fit.outline(resolution)
        roughness = left[own].sum() / contrast / outline
        alpha = (((pixels[own] - fit.colour) * towards).sum(axis=-1) / contrast + 1).clip(-0.25, 1.25)
        # Within, alpha says how well the colour is fitted; only about the outline does it say how soft the edge is.
        edge = ~ndimage.binary_erosion(cover == 1, _SQUARE)[own]
        softness = (alpha * (1 - alpha))[edge].sum() / outline
        errors = roughness / _ROUGHNESS, max(softness - _DRAWN, 0.0) / (_SOFT - _DRAWN), off / _OFF_COLOUR
        confidences.append(min(map(_confidence, errors)))
    alone = owner < 0
    extra = np.maximum(np.sqrt(left[alone]) - _SHOWN, 0.0) / (_STRONG - _SHOWN)
    clutter = np.square(extra).sum() * (32 / resolution) ** 2
    texture = textures.name(pixels, alone)
    background = scene.Background(texture, tuple(int(round(float(c))) for c in colour))
    return Reading(scene.Scene(tuple(objects), background), tuple(confidences), _confidence(clutter / _CLUTTER))


def _confidence(error: float) -> float:
    """1 without error, 1/2 at 1; 0.9 at 0.58 and 0.3 at 1.24."""
    return 1.0 / (1.0 + float(error) ** 4)


def _named(fit: fitting.Fit) -> tuple[scene.Object, float]:
    """The fit as an object of the nearest colour, and how far it is from what is drawn under that name."""
    nearest = int(np.square(_PALETTE - fit.colour).sum(axis=-1).argmin())
    tint = np.rint(fit.colour - _PALETTE[nearest])
    off = np.linalg.norm(np.maximum(np.abs(fit.colour - _PALETTE[nearest]) - scene.COLOUR_JITTER, 0.0))
    x, y, radius, turn = map(float, fit.place)
    return scene.Object(fit.shape, _NAMES[nearest], x, y, radius, turn, tuple(map(int, tint))), float(off)


def _background(pixels: np.ndarray) -> np.ndarray:
    """Mean colour [3] of the background, which fills more than half of the picture."""
    flat = pixels.reshape(-1, 3)
    colour = np.median(flat, axis=0)
    for _ in range(2):
        near = flat[np.square(flat - colour).sum(axis=-1) < _SHOWN**2]
        colour = near.mean(axis=0) if len(near) else colour
    return colour


def _composed(base: np.ndarray, fits: list[fitting.Fit], covers: list[np.ndarray]) -> np.ndarray:
    model = np.array(base)
    for fit, cover in zip(fits, covers, strict=True):
        model += cover[..., None] * (fit.colour - model)
    return model


@dataclasses.dataclass(frozen=True)
class _Patch:
    """Connected pixels near one palette colour."""

    core: np.ndarray
    size: int
    inner: int
    """Pixels whose four neighbours belong to it too: the mixed pixels along an edge between two objects have none."""


def _patches(pixels: np.ndarray) -> list[_Patch]:
    """The thickest first."""
    distances = np.square(pixels[:, :, None] - _PALETTE).sum(axis=-1)
    nearest = distances.argmin(axis=-1)
    pure = distances.min(axis=-1) < _CORE**2
    found = []
    for number in np.unique(nearest[pure]):
        labels, count = ndimage.label(pure & (nearest == number))
        for label in range(1, count + 1):
            core = labels == label
            found.append(_Patch(core, int(core.sum()), int(ndimage.binary_erosion(core).sum())))
    smallest = _SMALLEST * (len(pixels) / 32) ** 2
    return sorted((patch for patch in found if patch.size >= smallest), key=lambda patch: (-patch.inner, -patch.size))


def _fits(pixels: np.ndarray, base: np.ndarray) -> list[fitting.Fit]:
    """One for each patch that those before it do not explain."""
    patches = _patches(pixels)
    fits: list[fitting.Fit] = []
    covers: list[np.ndarray] = []
    settled = False
    for number, patch in enumerate(patches):
        if len(fits) == _MOST:
            break
        if not patch.inner and not settled:
            fits, covers = _settled(pixels, base, fits, covers)
            settled = True
        behind = _composed(base, fits, covers)
        distance = np.sqrt(np.square(pixels - behind).sum(axis=-1))
        if np.median(distance[patch.core]) < (_SHOWN if patch.inner else _CORE):
            continue
        others = np.any([np.zeros_like(patch.core), *(other.core for other in patches[number + 1 :] if other.inner)], axis=0)
        region, start, area = _start(pixels, behind, patch, others, distance > _SHOWN)
        fits.append(fitting.best(pixels, behind, region, start, area))
        covers.append(fits[-1].coverage(len(pixels)))
    return fits if settled else _settled(pixels, base, fits, covers)[0]


def _start(
    pixels: np.ndarray, behind: np.ndarray, patch: _Patch, others: np.ndarray, shown: np.ndarray
) -> tuple[np.ndarray, tuple[float, float], float]:
    """The region that a patch's shape has to explain, and its centre and area by moments."""
    resolution = len(pixels)
    rows, columns = np.flatnonzero(patch.core.any(axis=1)), np.flatnonzero(patch.core.any(axis=0))
    box = np.zeros_like(patch.core)
    box[max(rows[0] - 3, 0) : rows[-1] + 4, max(columns[0] - 3, 0) : columns[-1] + 4] = True
    near = ndimage.binary_dilation(patch.core, _SQUARE)
    region = patch.core | (box & (near | ~shown) & ~ndimage.binary_dilation(others, _SQUARE))

    towards = np.median(pixels[patch.core], axis=0) - behind
    alpha = ((pixels - behind) * towards).sum(axis=-1) / np.maximum(np.square(towards).sum(axis=-1), 1.0)
    weight = np.where(near, alpha.clip(0, 1), 0.0)
    weight[ndimage.binary_fill_holes(patch.core)] = 1.0
    places = (np.arange(resolution) + 0.5) / resolution
    total = weight.sum()
    centre = float(weight.sum(axis=0) @ places / total), float(weight.sum(axis=1) @ places / total)
    return region, centre, float(total) / resolution**2


def _settled(
    pixels: np.ndarray, base: np.ndarray, fits: list[fitting.Fit], covers: list[np.ndarray]
) -> tuple[list[fitting.Fit], list[np.ndarray]]:
    """The fits refined where they meet, now that each knows what the others cover."""
    fits, covers = list(fits), list(covers)
    wide = [ndimage.binary_dilation(cover > 0, _SQUARE) for cover in covers]
    for i in range(len(fits)):
        if not any((wide[i] & wide[j]).any() for j in range(len(fits)) if j != i):
            continue
        above = np.zeros(pixels.shape[:2], bool)
        for cover in covers[i + 1 :]:
            above |= cover > 0
        region = wide[i] & ~above
        if (covers[i][region] > 0.5).any():
            fits[i] = fitting.refined(fits[i], pixels, _composed(base, fits[:i], covers[:i]), region)
            covers[i] = fits[i].coverage(len(pixels))
    return fits, covers
