"""Line charts and strips of intervals, as HTML figures with inline SVG; no script, colours from the page's CSS variables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from jaxgen.evaluation.report import markup

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 22, 10, 36
POINTS = 400
HOVERS = 40
COLOURS = 6
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4")


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
      name: in the legend and the tooltips.
      x: finite numbers, ascending.
      y: as many; None or NaN leaves a gap.
      colour: number of the CSS variable `--run-<colour>`, in turn from 0 to 5.
      dash: number of the pattern in `DASHES`, in turn.
      faint: drawn thin and pale, without legend or tooltips (what another line smooths).
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: int = 0
    dash: int = 0
    faint: bool = False

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"y of line {self.name!r}: found {len(self.y)} values, needed {len(self.x)}, one per x")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], about `count` of them."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"range of ticks: found {low} to {high}, needed finite numbers, the lower first")
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(number * step, digits) for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], with their 2 and 5 folds where there are fewer than three; 0 < low < high."""
    if not 0 < low < high < math.inf:
        raise ValueError(f"range of logarithmic ticks: found {low} to {high}, needed positive numbers, the lower first")
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [[factor * 10.0**power for power in powers for factor in factors] for factors in ((1,), (1, 2, 5))]
    tens, fine = ([tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)] for found in every)
    if len(tens) > 6:
        return tens[:: math.ceil(len(tens) / 6)]
    if len(tens) >= 3:
        return tens
    return fine if len(fine) >= 2 else ticks(low, high, 4)


def downsampled(y: Sequence[float | None], limit: int = POINTS) -> list[int]:
    """Indices, ascending and at most `limit`, that keep the ends, the extremes and the gaps (None) of `y`.

    Each of equal stretches gives its lowest, its highest and, where it has one, a missing value.
    """
    count = len(y)
    if count <= limit:
        return list(range(count))
    kept = {0, count - 1}
    stretches = max((limit - 2) // 3, 1)
    for number in range(stretches):
        stretch = range(number * count // stretches, (number + 1) * count // stretches)
        there = [i for i in stretch if y[i] is not None]
        if there:
            kept |= {min(there, key=lambda i: y[i]), max(there, key=lambda i: y[i])}
        if len(there) < len(stretch):
            kept.add(next(i for i in stretch if y[i] is None))
    return sorted(kept)


def line_chart(title: str, series: Sequence[Line], unit: str = "", log: bool = False, x_name: str = "step") -> str:
    """A figure: title, legend and lines over round ticks; "" where no line has a point.

    Args:
      title: says what is drawn.
      series: the lines, the first drawn lowest.
      unit: of the values, shown behind the title.
      log: logarithmic values; those that are not positive are left out.
      x_name: of the horizontal axis.
    """
    series = [dataclasses.replace(line, y=[_drawable(value, log) for value in line.y]) for line in series]
    values = [value for line in series for value in line.y if value is not None]
    if not values:
        return ""
    xs = [x for line in series for x in line.x]
    across = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, log=False, count=4)
    up = _Axis(min(values), max(values), HEIGHT - BOTTOM, TOP, log, count=5)

    grid = []
    for tick in up.ticks:
        y = up.place(tick)
        grid.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        grid.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{tick_label(tick)}</text>')
    for tick in across.ticks:
        x = across.place(tick)
        grid.append(f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        grid.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick_label(tick)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    grid.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{markup.escaped(x_name)}</text>')

    drawn = "".join(_drawn(line, across, up, x_name) for line in series)
    named = [line for line in series if not line.faint and any(value is not None for value in line.y)]
    ends = "; ".join(f"{line.name}: {_last(line)}" for line in named)
    kind = ", logarithmic scale" if log else ""
    label = markup.escaped(f"Line chart of {title}{kind} against {x_name}. Last values: {ends}.")
    small = "".join(f" <small>{markup.escaped(text)}</small>" for text in (unit, "log scale" if log else "") if text)
    return (
        f'<figure class="chart"><figcaption>{markup.escaped(title)}{small}</figcaption>'
        f"{_legend(named)}"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f'<g class="grid">{"".join(grid)}</g>{drawn}</svg></figure>'
    )


def interval_strip(
    title: str, rows: Sequence[tuple[float, float, float]], references: Sequence[tuple[str, float]], log: bool = False
) -> str:
    """A small picture of values with their intervals, one below the other, and reference values as upright lines.

    Args:
      title: for readers who do not see it.
      rows: (value, low, high) of each run, in the order of the runs' colours; all finite.
      references: (letter, value), written above its line.
      log: logarithmic scale, for positive values.
    """
    width, pitch, top = 240, 14, 18
    height = top + pitch * len(rows) + 4
    every = [number for row in rows for number in row] + [value for _, value in references]
    axis = _Axis(min(every), max(every), 10, width - 10, log, count=4)
    marks, taken = [], -math.inf
    for letter, value in sorted(references, key=lambda pair: pair[1]):
        x = axis.place(value)
        # Two letters at one place would cover each other.
        at = max(x, taken + 9)
        taken = at
        marks.append(f'<line class="reference" x1="{x}" x2="{x}" y1="{top - 5}" y2="{height - 2}"/>')
        marks.append(f'<text x="{min(at, width - 6)}" y="10" text-anchor="middle">{markup.escaped(letter)}</text>')
    for number, (value, low, high) in enumerate(rows):
        y = top + pitch * number + pitch // 2
        colour = f"var(--run-{number % COLOURS})"
        marks.append(f'<line x1="{axis.place(low)}" x2="{axis.place(high)}" y1="{y}" y2="{y}" style="stroke:{colour}"/>')
        marks.append(f'<circle cx="{axis.place(value)}" cy="{y}" r="4.5" style="fill:{colour}"/>')
    label = markup.escaped(title)
    return f'<svg class="strip" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(marks)}</svg>'


def tick_label(value: float) -> str:
    """A tick in few characters: 0.05, 2,500, 20k, 3M, 1e-5."""
    size = abs(value)
    if size >= 1e10 or 0 < size < 1e-3:
        digits, power = f"{value:.3e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= max(scale, 1e4):
            return f"{value / scale:g}{letter}"
    return f"{value:,.10g}"


@dataclasses.dataclass
class _Axis:
    """Where a number lies, in units of the drawing."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    count: int

    def __post_init__(self) -> None:
        if self.low == self.high:
            # A constant gets room on both sides.
            room = abs(self.low) / 2 or 1.0
            self.low, self.high = self.low - room, self.high + room
        elif not self.log and 0 < self.low < 0.25 * self.high:
            self.low = 0.0
        self.ticks = log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, self.count)

    def place(self, value: float) -> float:
        low, high, value = (
            (math.log(number) for number in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def _drawable(value: float | None, log: bool) -> float | None:
    return None if value is None or not math.isfinite(value) or (log and value <= 0) else float(value)


def _drawn(line: Line, across: _Axis, up: _Axis, x_name: str) -> str:
    kept = downsampled(line.y)
    path, pen_down = [], False
    for i in kept:
        if line.y[i] is not None:
            # A point without neighbours is a line to itself, which round caps make a dot.
            x, y = across.place(line.x[i]), up.place(line.y[i])
            path.append(f"L{x} {y}" if pen_down else f"M{x} {y}L{x} {y}")
        pen_down = line.y[i] is not None
    pattern = DASHES[line.dash % len(DASHES)]
    style = f"stroke:var(--run-{line.colour % COLOURS})" + (f";stroke-dasharray:{pattern}" if pattern and not line.faint else "")
    curve = f'<path class="{"faint" if line.faint else "line"}" d="{"".join(path)}" style="{style}"/>'
    if line.faint:
        return curve
    there = [i for i in range(len(line.y)) if line.y[i] is not None]
    hovers = "".join(
        f'<circle cx="{across.place(line.x[i])}" cy="{up.place(line.y[i])}" r="6">'
        f"<title>{markup.escaped(f'{line.name}, {x_name} {line.x[i]:,.10g}: {markup.number(line.y[i])}')}</title></circle>"
        for i in there[:: math.ceil(len(there) / HOVERS) or 1]
    )
    return f'<g class="series"><title>{markup.escaped(f"{line.name}: {_last(line)}")}</title>{curve}{hovers}</g>'


def _last(line: Line) -> str:
    x, y = [(x, y) for x, y in zip(line.x, line.y) if y is not None][-1] if any(y is not None for y in line.y) else (0, None)
    return f"{markup.number(y)} at {x:,.10g}"


def _legend(series: Sequence[Line]) -> str:
    entries = []
    for line in series:
        pattern = DASHES[line.dash % len(DASHES)]
        style = f"stroke:var(--run-{line.colour % COLOURS})" + (f";stroke-dasharray:{pattern}" if pattern else "")
        swatch = f'<svg viewBox="0 0 26 8" aria-hidden="true"><path class="line" d="M2 4L24 4" style="{style}"/></svg>'
        entries.append(f"<li>{swatch}{markup.escaped(line.name)}</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'
