"""The report's pictures: samples by caption beside real ones, and samples beside their nearest training pictures."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from jaxgen.evaluation.report import markup

if TYPE_CHECKING:
    from jaxgen.evaluation.report.page import EvaluatedRun

# Captions shown at once and in the fold below; samples shown beside their neighbours, of each kind.
SHOWN, FOLDED = 40, 120
NEIGHBOURHOODS = 8
# Captions that are looked at when a varied choice is made.
_CANDIDATES = 2000
# Pictures that would take more than this together are reduced and compressed with loss, to keep the page at a few MB.
LOSSLESS_BYTES = 3_000_000
REDUCED_SIDE = 128
# On the page the shorter side is at least this long, in CSS pixels.
_SIDE = 72

_WORDS = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W_]+")


class Pictures:
    """Pictures as `<img>` elements that hold their own data: PNG, or reduced JPEG where PNG would take too much.

    Args:
      count: how many the page will show.
      shape: the largest of them, [H, W, C].
    """

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        self.lossy = count * math.prod(shape) > LOSSLESS_BYTES

    def element(self, image: np.ndarray, description: str) -> str:
        """The `<img>` of one uint8 picture [H, W, 1 or 3]; `description` is for readers who do not see it."""
        picture = Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image))
        data = io.BytesIO()
        if self.lossy:
            picture.thumbnail((REDUCED_SIDE, REDUCED_SIDE), Image.Resampling.LANCZOS)
            picture.save(data, "JPEG", quality=82, optimize=True)
        else:
            picture.save(data, "PNG", optimize=True)
        kind = "jpeg" if self.lossy else "png"
        width, height = displayed(image.shape)
        crisp = ' class="crisp"' if width > picture.width else ""
        text = base64.b64encode(data.getvalue()).decode()
        return (
            f'<img{crisp} src="data:image/{kind};base64,{text}" width="{width}" height="{height}" '
            f'decoding="async" alt="{markup.escaped(description)}">'
        )

    def note(self) -> str:
        """What the reader has to know about how faithful the pictures are."""
        if self.lossy:
            return f"To keep this file small, pictures are shown at most {REDUCED_SIDE} pixels wide and compressed with loss."
        return "Pictures are shown as they were drawn, pixel for pixel."


def displayed(shape: Sequence[int]) -> tuple[int, int]:
    """Width and height on the page, in CSS pixels, of a picture [H, W, …].

    Small ones grow by a whole factor, so that each of their pixels is an equal square.
    """
    height, width = shape[:2]
    shorter, longer = min(height, width), max(height, width)
    scale = math.ceil(_SIDE / shorter) if shorter < _SIDE else min(1.0, REDUCED_SIDE / longer)
    return round(width * scale), round(height * scale)


def needed(runs: Sequence[EvaluatedRun]) -> Pictures:
    """The `Pictures` for a page that shows these runs."""
    rows = min(len(runs[0].captions), SHOWN + FOLDED)
    count = rows * (1 + len(runs)) + sum(2 * min(NEIGHBOURHOODS, len(run.images)) * (1 + run.neighbours.shape[1]) for run in runs)
    return Pictures(count, max((run.images.shape[1:] for run in runs), key=math.prod))


def varied(captions: Sequence[str], count: int) -> list[int]:
    """Up to `count` indices, ascending, spread over all and chosen so that together they use the most frequent words.

    Each choice is the caption with the most frequent words that none before it had; so classes and languages, whose
    words recur, all come up. Chinese characters count as words.
    """
    candidates = list(_spread(len(captions), min(len(captions), _CANDIDATES)))
    words = {i: set(_WORDS.findall(captions[i].lower())) for i in candidates}
    frequency: dict[str, int] = {}
    for found in words.values():
        for word in found:
            frequency[word] = frequency.get(word, 0) + 1
    chosen: list[int] = []
    new = dict(words)
    while candidates and len(chosen) < count:
        best = max(candidates, key=lambda i: max((frequency[word] for word in new[i]), default=0))
        candidates.remove(best)
        chosen.append(best)
        covered = words[best]
        new = {i: new[i] - covered for i in candidates}
    return sorted(chosen)


def by_caption(runs: Sequence[EvaluatedRun], pictures: Pictures) -> str:
    """A card a caption: the caption, the test picture that it belongs to, and each run's sample; the rest folded."""
    first = runs[0]
    chosen = varied(first.captions, SHOWN)
    rest = [i for i in _spread(len(first.captions), len(first.captions)) if i not in set(chosen)]
    names = "".join(f"<li>{markup.run_label(run.name, place)}</li>" for place, run in enumerate(runs))
    body = f'<ul class="runs inline">{names}</ul>{_cards(runs, chosen, pictures)}'
    if rest:
        folded = sorted(rest[:FOLDED])
        total = "" if len(rest) <= FOLDED else f" (of {len(rest)} others, spread over all)"
        body += f"<details><summary>{len(folded)} more captions{total}</summary>{_cards(runs, folded, pictures)}</details>"
    return body


def nearest(run: EvaluatedRun, place: int, pictures: Pictures) -> str:
    """The samples closest to a training picture, then samples taken at random, each beside its neighbours."""
    if not len(run.images) or not run.neighbours.shape[1]:
        return ""
    closest = np.where(np.isfinite(run.distances[:, 0]), run.distances[:, 0], np.inf)
    suspicious = np.argsort(closest, kind="stable")[:NEIGHBOURHOODS]
    others = np.setdiff1d(np.arange(len(run.images)), suspicious)
    chance = np.sort(np.random.default_rng(0).permutation(others)[:NEIGHBOURHOODS])
    sizes = _sizes(run.images.shape[1:], 1 + run.neighbours.shape[1])
    parts = [f'<h3 class="of-run">{markup.run_label(run.name, place)}</h3>']
    for title, chosen in (("Closest to a training picture", suspicious), ("Taken at random", chance)):
        if len(chosen):
            strips = "".join(_neighbourhood(run, int(i), pictures) for i in chosen)
            parts.append(f'<h4>{title}</h4><div class="neighbourhoods{sizes}>{strips}</div>')
    return "".join(parts)


def _spread(total: int, count: int) -> Iterator[int]:
    """`count` different numbers below `total`, any first few of them spread over all."""
    step = max(round(total * 0.6180339887), 1)
    while math.gcd(step, total) > 1:
        step += 1
    return (i * step % total for i in range(count))


def _sizes(shape: Sequence[int], across: int) -> str:
    """The end of a class attribute and a style: how wide a box of `across` pictures wants to be."""
    width = displayed(shape)[0]
    return f'{" small" if min(shape[:2]) < _SIDE else ""}" style="--across:{min(across, 6)};--width:{width}px"'


def _cards(runs: Sequence[EvaluatedRun], chosen: Sequence[int], pictures: Pictures) -> str:
    first = runs[0]
    places = [{caption: i for i, caption in reversed(list(enumerate(run.captions)))} for run in runs]
    cards = []
    for i in chosen:
        caption = first.captions[i]
        shown = [
            f'<span class="picture">{pictures.element(first.real[i], f"Real picture for: {caption}")}<small>real</small></span>'
        ]
        for place, run in enumerate(runs):
            # The same number where the runs were given the same captions, else the first sample of this caption.
            same = i < len(run.captions) and run.captions[i] == caption
            at = i if same else places[place].get(caption)
            sample = (
                '<span class="none">no sample</span>'
                if at is None
                else pictures.element(run.images[at], f"Sample of {run.name} for: {caption}")
            )
            name = markup.run_label(run.name, place)
            shown.append(f'<span class="picture" title="{markup.escaped(run.name)}">{sample}<small>{name}</small></span>')
        cards.append(f'<li>{markup.caption(caption)}<div class="row">{"".join(shown)}</div></li>')
    return f'<ul class="captions{_sizes(first.real.shape[1:], 1 + len(runs))}>{"".join(cards)}</ul>'


def _neighbourhood(run: EvaluatedRun, i: int, pictures: Pictures) -> str:
    caption = run.captions[i]
    sample = pictures.element(run.images[i], f"Sample of {run.name} for: {caption}")
    shown = [f'<span class="picture sample">{sample}<small>sample</small></span>']
    for rank, (image, distance) in enumerate(zip(run.neighbours[i], run.distances[i]), 1):
        text = markup.number(float(distance))
        element = pictures.element(image, f"Nearest training picture {rank}, at distance {text}")
        shown.append(f'<span class="picture">{element}<small>{text}</small></span>')
    return f'<div class="neighbourhood">{markup.caption(caption)}<div class="row">{"".join(shown)}</div></div>'
