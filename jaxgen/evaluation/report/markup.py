"""Pieces of HTML for the evaluation report: escaped text, numbers in few digits, sections and tables."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

MISSING = "–"
_HAN, _KANA = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]"), re.compile(r"[\u3040-\u30ff]")


def escaped(text: object) -> str:
    """`text` for use between tags and inside quoted attributes."""
    return html.escape(str(text), quote=True)


def caption(text: str, tag: str = "p") -> str:
    """A caption as an element that takes the direction of its script and, for Chinese, Chinese glyphs."""
    language = ' lang="zh-Hans"' if _HAN.search(text) and not _KANA.search(text) else ""
    shown = escaped(text) if text.strip() else '<span class="muted">(no caption)</span>'
    return f'<{tag} class="caption" dir="auto"{language}>{shown}</{tag}>'


def is_number(value: Any) -> bool:
    """Whether `value` is a figure: not a bool, not text; NaN is one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def number(value: Any) -> str:
    """A figure in about three digits; "–" for None, NaN and what is no figure."""
    if not is_number(value) or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if isinstance(value, int) or size >= 1000:
        text = f"{value:,.0f}"
    elif size == 0:
        text = "0"
    elif size < 1e-3:
        text = f"{value:.2e}"
    else:
        text = f"{value:.{3 if size < 1 else 2 if size < 10 else 1}f}"
    return text.replace("-", "−", 1) if value < 0 else text


def interval(bounds: Any) -> str:
    """[low, high] in the digits of `number`; "" where there is none."""
    if not isinstance(bounds, Sequence) or len(bounds) != 2 or not all(finite(bound) for bound in bounds):
        return ""
    return f"[{number(bounds[0])}, {number(bounds[1])}]"


def value(found: Any) -> str:
    """An option's value as in JSON, text without its quotes."""
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=str)


def run_label(name: str, place: int) -> str:
    """A run's name behind a dot in its colour."""
    return f'<span class="run"><i style="background:var(--run-{place % 6})"></i>{escaped(name)}</span>'


def section(anchor: str, title: str, introduction: str, body: str) -> str:
    """A section under a heading; `introduction` is plain text, `body` HTML."""
    lead = f'<p class="lead">{escaped(introduction)}</p>' if introduction else ""
    heading = f'<h2 id="{anchor}-title">{escaped(title)}</h2>'
    return f'<section id="{anchor}" aria-labelledby="{anchor}-title">{heading}{lead}{body}</section>'


def table(caption_text: str, heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table in a box that scrolls by itself, the first cell of a row its head; `heads` and `rows` are HTML."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    body = "".join(f'<tr><th scope="row">{cells[0]}</th>{"".join(f"<td>{cell}</td>" for cell in cells[1:])}</tr>' for cells in rows)
    label = escaped(caption_text)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table class="{kind}">'
        f"<caption>{label}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
