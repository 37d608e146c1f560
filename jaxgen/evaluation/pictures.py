"""Sheets of captioned pictures, in English and Chinese, as PNG.

The font is the first found of: a Chinese font of the system, Noto Sans SC out of the optional package `zhplot`,
Pillow's own. A character that the font lacks is written as its code point (U+6570), never as an empty box.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SMALLEST_SIDE = 96
LINES = 3
BACKGROUND, FRAME, INK = (255, 255, 255), (208, 208, 208), (48, 48, 48)

FONT_FOLDERS = (
    pathlib.Path("/usr/share/fonts"),
    pathlib.Path("/usr/local/share/fonts"),
    pathlib.Path("~/.local/share/fonts").expanduser(),
    pathlib.Path("~/.fonts").expanduser(),
    pathlib.Path("/System/Library/Fonts"),
    pathlib.Path("/Library/Fonts"),
)
# File name and index within a collection, best first. In the Noto collection 2 is simplified Chinese, 0 Japanese.
FONT_FILES = (
    ("NotoSansCJK-Regular.ttc", 2),
    ("NotoSansCJKsc-Regular.otf", 0),
    ("NotoSansSC-Regular.otf", 0),
    ("NotoSansSC-Regular.ttf", 0),
    ("SourceHanSansSC-Regular.otf", 0),
    ("SourceHanSansCN-Regular.otf", 0),
    ("wqy-microhei.ttc", 0),
    ("wqy-zenhei.ttc", 0),
    ("Hiragino Sans GB.ttc", 0),
)

# What may stand alone in a line: a word, or one Chinese character, kana or full-width sign, with the punctuation that
# must not be parted from it.
_HAN = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_OPENING, _CLOSING = "（《「『“‘", "，。、：；！？）》」』”’…"
_UNIT = re.compile(rf"[{_OPENING}]*(?:[{_HAN}]|[^\s{_HAN}]+)[{_CLOSING}]*|\s+")


class Writable(Protocol):
    """A path, local or remote (`pathlib.Path`, `upath.UPath`)."""

    def write_bytes(self, data: bytes) -> int:
        """Writes the whole file."""


@functools.cache
def font_source() -> tuple[pathlib.Path, int] | None:
    """The Chinese-capable font file that captions are set in and its index in the file; None for Pillow's own font."""
    found: dict[str, pathlib.Path] = {}
    for folder in FONT_FOLDERS:
        if folder.is_dir():
            for path in sorted(folder.rglob("*.[to]t[fc]")):
                found.setdefault(path.name, path)
    for name, index in FONT_FILES:
        if name in found:
            return found[name], index
    # Located without importing it: its import changes Matplotlib's settings and the environment.
    spec = importlib.util.find_spec("zhplot")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = pathlib.Path(folder) / "fonts" / "NotoSansSC-Regular.ttf"
        if path.is_file():
            return path, 0
    return None


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    source = font_source()
    if source is None:
        return ImageFont.load_default(size)
    return ImageFont.truetype(str(source[0]), size, index=source[1])


@functools.cache
def _has(size: int, character: str) -> bool:
    """Whether the font draws `character` itself, not what it draws for U+FFFF, which no font can have."""
    font = _font(size)
    mask, stand_in = font.getmask(character), font.getmask("\uffff")
    return mask.size != stand_in.size or bytes(mask) != bytes(stand_in)


def _legible(text: str, size: int) -> str:
    """`text` on one line, with the code point for each character that the font lacks."""
    return " ".join("".join(c if c.isspace() or _has(size, c) else f" U+{ord(c):04X} " for c in text).split())


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """`text` in at most LINES lines no wider than `width` pixels, an ellipsis where it goes on."""
    font = _font(size)
    lines, line = [], ""
    for unit in _UNIT.findall(_legible(text, size)):
        if font.getlength((line + unit).rstrip()) <= width:
            line = line + unit if line else unit.lstrip()
            continue
        lines += [line.rstrip()] if line else []
        line = unit.lstrip()
        while font.getlength(line) > width and len(line) > 1:  # a word longer than the line is broken where it must be
            fits = max((n for n in range(1, len(line)) if font.getlength(line[:n]) <= width), default=1)
            lines.append(line[:fits])
            line = line[fits:]
    lines += [line.rstrip()] if line.rstrip() else []
    if len(lines) <= LINES:
        return lines
    last = lines[LINES - 1]
    while last and font.getlength(last + "…") > width:
        last = last[:-1]
    return [*lines[: LINES - 1], last.rstrip() + "…"]


def grid(images: np.ndarray, captions: Sequence[str] = (), columns: int | None = None, scale: int | None = None) -> Image.Image:
    """A sheet of `images`, row by row on white, each with its caption wrapped below in up to three lines.

    Args:
      images: [N, H, W, 3] or [N, H, W, 1] uint8, N at least 1.
      captions: N texts; none leaves the captions out.
      columns: pictures in a row; None makes the sheet about square.
      scale: whole factor by which each pixel is repeated, without smoothing; None brings the shorter side of a
        picture to at least 96 pixels.

    Raises:
      ValueError: another shape or dtype, another number of captions, columns or scale below 1.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8 or not images.size:
        raise ValueError(f"images: found {images.dtype} {images.shape}, needed uint8 [N, H, W, 1 or 3], not empty")
    if len(captions) not in (0, len(images)):
        raise ValueError(f"captions: found {len(captions)}, needed {len(images)}, one per image, or none")
    count, height, width, _ = images.shape
    columns = min(count, math.ceil(math.sqrt(count))) if columns is None else columns
    scale = math.ceil(SMALLEST_SIDE / min(height, width)) if scale is None else scale
    for name, value in (("columns", columns), ("scale", scale)):
        if value < 1:
            raise ValueError(f"{name}: found {value}, needed at least 1")
    columns = min(columns, count)
    rows = math.ceil(count / columns)

    pixels = np.broadcast_to(images, (*images.shape[:-1], 3)).repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = height * scale, width * scale
    size = min(max(width // 8, 12), 22)
    margin = max(width // 10, 10)
    leading = sum(_font(size).getmetrics())
    texts = [_wrapped(caption, size, width) for caption in captions]
    # A row is as tall as its longest caption.
    deepest = [max((len(text) for text in texts[r * columns : (r + 1) * columns]), default=0) for r in range(rows)]
    tops = np.cumsum([margin] + [height + (lines > 0) * margin // 2 + lines * leading + margin for lines in deepest])

    sheet = Image.new("RGB", (margin + columns * (width + margin), int(tops[-1])), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for i in range(count):
        left, top = margin + (i % columns) * (width + margin), int(tops[i // columns])
        # The frame lies outside the picture, so that white pictures have an edge and no pixel is covered.
        draw.rectangle((left - 1, top - 1, left + width, top + height), outline=FRAME)
        sheet.paste(Image.fromarray(np.ascontiguousarray(pixels[i])), (left, top))
        for line, text in enumerate(texts[i] if texts else ()):
            draw.text((left, top + height + margin // 2 + line * leading), text, fill=INK, font=_font(size))
    return sheet


def save(image: Image.Image, path: Writable) -> None:
    """Writes `image` to `path` as PNG in one piece, since object stores do not append."""
    data = io.BytesIO()
    image.save(data, format="PNG")
    path.write_bytes(data.getvalue())
