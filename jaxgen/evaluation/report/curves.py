"""The report's curves: what a run logged while it trained, as charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxgen.evaluation.report import charts, markup

if TYPE_CHECKING:
    from jaxgen.evaluation.report.page import EvaluatedRun

# Name in the log: title, unit.
KNOWN = {
    "loss": ("Loss", ""),
    "learning_rate": ("Learning rate", ""),
    "gradient_norm": ("Gradient norm", ""),
    "time/step": ("Time a step", "seconds"),
    "time/input_wait": ("Wait for input a step", "seconds"),
    "perf/images_per_second": ("Images a second", ""),
    "perf/mfu": ("Model FLOPs utilisation", ""),
}
BUCKETS = "loss_by_time/"
# Ratio of largest to smallest value from which a scale is logarithmic, and the kinds that never are.
_LOG_FROM = 10.0
_LINEAR = ("learning_rate", "perf/images_per_second", "perf/mfu")
# Logged points that a smoothed line averages are this share of all; shorter logs are drawn as they are.
_WINDOW_SHARE = 0.04
_SMOOTHED = ("loss", BUCKETS, "gradient_norm")


def drawn(runs: Sequence[EvaluatedRun]) -> str:
    """Charts of everything that a run logged; names without a known title come last, folded."""
    names = list(dict.fromkeys(name for run in runs for row in run.curves for name in row if name != "step"))
    buckets = sorted(name for name in names if name.startswith(BUCKETS))
    main = [_single(name, runs) for name in KNOWN if name in names]
    main[1:1] = _bucketed(buckets, runs)
    others = [_single(name, runs) for name in names if name not in KNOWN and name not in buckets]
    main, others = [chart for chart in main if chart], [chart for chart in others if chart]
    if not main and not others:
        return '<p class="muted">No log of the training was found.</p>'
    body = f'<div class="charts">{"".join(main)}</div>'
    if others:
        count = f"{len(others)} other logged {'value' if len(others) == 1 else 'values'}"
        body += f'<details><summary>{count}</summary><div class="charts">{"".join(others)}</div></details>'
    return body


def smoothed(values: Sequence[float | None], window: int) -> list[float | None]:
    """Mean over `window` (odd) points around each, of those that are there; gaps stay gaps."""
    there = [value if markup.finite(value) else None for value in values]
    found: list[float | None] = []
    for i, value in enumerate(there):
        near = [other for other in there[max(i - window // 2, 0) : i + window // 2 + 1] if other is not None]
        found.append(None if value is None else sum(near) / len(near))
    return found


def _bucketed(names: Sequence[str], runs: Sequence[EvaluatedRun]) -> list[str]:
    """One chart of all buckets for one run; for several, a chart a bucket, since runs × buckets in one could not be read."""
    if len(runs) > 1:
        return [_single(name, runs) for name in names]
    series = [
        line
        for place, name in enumerate(names)
        for line in _lines(name, runs[0], f"t {name.removeprefix(BUCKETS).replace('-', ' to ')}", place, place)
    ]
    series.sort(key=lambda line: not line.faint)
    return [charts.line_chart("Loss by noise level", series, "t = 1 is noise", _log(names, runs))]


def _single(name: str, runs: Sequence[EvaluatedRun]) -> str:
    title, unit = KNOWN.get(name, (name, ""))
    if name.startswith(BUCKETS):
        title, unit = f"Loss at t {name.removeprefix(BUCKETS).replace('-', ' to ')}", "t = 1 is noise"
    series = [line for place, run in enumerate(runs) for line in _lines(name, run, run.name, place, place)]
    # Pale lines lie below all others.
    return charts.line_chart(title, sorted(series, key=lambda line: not line.faint), unit, _log([name], runs))


def _lines(name: str, run: EvaluatedRun, label: str, colour: int, dash: int) -> list[charts.Line]:
    rows = [row for row in run.curves if markup.finite(row.get("step"))]
    x = [row["step"] for row in rows]
    y = [row.get(name) if markup.finite(row.get(name)) else None for row in rows]
    window = round(len(y) * _WINDOW_SHARE) // 2 * 2 + 1
    if window < 3 or not name.startswith(_SMOOTHED):
        return [charts.Line(label, x, y, colour, dash)]
    return [charts.Line(label, x, y, colour, faint=True), charts.Line(label, x, smoothed(y, window), colour, dash)]


def _log(names: Sequence[str], runs: Sequence[EvaluatedRun]) -> bool:
    values = [row[name] for run in runs for row in run.curves for name in names if markup.finite(row.get(name))]
    return bool(values) and not set(names) & set(_LINEAR) and min(values) > 0 and max(values) / min(values) > _LOG_FROM
