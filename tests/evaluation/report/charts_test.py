import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from jaxgen.evaluation.report import charts

RANGES = [(0.0, 1.0), (0.33, 1.19), (0.0, 3000.0), (-2.0, 7.0), (1e-9, 3e-9), (4e6, 4.0001e6), (0.1, 0.30000000000000004)]


def svg(figure):
    """The drawing of a figure, its legend left out."""
    (found,) = re.findall(r'<svg viewBox="0 0 420 .*?</svg>', figure)
    return ElementTree.fromstring(found)


def curves(figure):
    """For each curve its strokes, each a list of points."""
    found = []
    for path in svg(figure).iter("path"):
        strokes = path.get("d").split("M")[1:]
        found.append([[tuple(map(float, point.split())) for point in stroke.split("L")][1:] for stroke in strokes])
    return found


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_ticks_are_round_even_and_within_the_range(low, high):
    ticks = charts.ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-9 * abs(low) <= tick <= high + 1e-9 * abs(high) for tick in ticks)
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert f"{steps[0]:.5e}"[:7] in ("1.00000", "2.00000", "5.00000")
    # Multiples of the step, not only as far apart.
    assert all(abs(tick / steps[0] - round(tick / steps[0])) < 1e-3 for tick in ticks)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_ticks_of_no_range_are_refused(low, high):
    with pytest.raises(ValueError, match="range"):
        charts.ticks(low, high)


@pytest.mark.parametrize(("low", "high"), [(1e-6, 1.0), (0.04, 0.5), (0.3, 0.34), (1.0, 1e30), (3.0, 4.0)])
def test_logarithmic_ticks_are_a_few_within_the_range(low, high):
    ticks = charts.log_ticks(low, high)
    assert 2 <= len(ticks) <= 8 and ticks == sorted(set(ticks))
    assert low * (1 - 1e-9) <= ticks[0] and ticks[-1] <= high * (1 + 1e-9)


@pytest.mark.parametrize(
    ("value", "label"), [(0, "0"), (0.05, "0.05"), (2500.0, "2,500"), (20000, "20k"), (3e6, "3M"), (1e-5, "1e-5"), (-0.5, "-0.5")]
)
def test_tick_labels_are_short(value, label):
    assert charts.tick_label(value) == label


def test_short_series_are_kept_whole():
    assert charts.downsampled([1.0, None, 2.0], 3) == [0, 1, 2]


def test_downsampling_keeps_ends_extremes_and_gaps():
    y = list(np.random.default_rng(0).normal(size=10_000))
    y[1234], y[7777] = 50.0, -60.0
    y[5000] = None
    kept = charts.downsampled(y, 400)
    assert len(kept) <= 400 and kept == sorted(set(kept))
    assert {0, 1234, 5000, 7777, 9999} <= set(kept)


def test_downsampling_keeps_the_extremes_of_every_stretch():
    """So the drawn curve covers the same heights everywhere, not just at its peak."""
    y = list(np.random.default_rng(1).normal(size=6000))
    kept = set(charts.downsampled(y, 302))
    for start in range(0, 6000, 60):
        stretch = range(start, start + 60)
        assert {min(stretch, key=y.__getitem__), max(stretch, key=y.__getitem__)} <= kept


@pytest.mark.parametrize("log", [False, True])
def test_points_lie_within_the_plot(log):
    rng = np.random.default_rng(0)
    lines = [charts.Line(str(i), range(5000), list(np.exp(3 * rng.normal(size=5000))), i, i) for i in range(3)]
    figure = charts.line_chart("Loss", lines, log=log)
    points = [point for strokes in curves(figure) for stroke in strokes for point in stroke]
    x, y = np.array(points).T
    assert x.min() >= charts.LEFT and x.max() <= charts.WIDTH - charts.RIGHT
    assert y.min() >= charts.TOP and y.max() <= charts.HEIGHT - charts.BOTTOM
    # Nothing of the plot is wasted.
    assert y.min() == charts.TOP and y.max() > charts.HEIGHT - charts.BOTTOM - 2
    for circle in svg(figure).iter("circle"):
        assert 0 <= float(circle.get("cx")) <= charts.WIDTH and 0 <= float(circle.get("cy")) <= charts.HEIGHT
    assert len(points) <= 3 * (charts.POINTS + 1)


def test_larger_values_are_drawn_higher_and_later_steps_further_right():
    ((((x0, y0), (x1, y1)),),) = curves(charts.line_chart("Loss", [charts.Line("a", [1, 2], [3.0, 5.0])]))
    assert x1 > x0 and y1 < y0


def test_a_logarithmic_scale_makes_equal_ratios_equal_distances():
    (((a, b, c),),) = curves(charts.line_chart("Loss", [charts.Line("a", [1, 2, 3], [1.0, 10.0, 100.0])], log=True))
    assert a[1] - b[1] == pytest.approx(b[1] - c[1], abs=0.2)


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_a_missing_value_leaves_a_gap(missing):
    (strokes,) = curves(charts.line_chart("Loss", [charts.Line("a", range(5), [1.0, 2.0, missing, 3.0, 4.0])]))
    assert [len(stroke) for stroke in strokes] == [2, 2]


def test_what_has_no_logarithm_leaves_a_gap():
    (strokes,) = curves(charts.line_chart("Rate", [charts.Line("a", range(4), [1.0, 0.0, 2.0, 30.0])], log=True))
    assert [len(stroke) for stroke in strokes] == [1, 2]


@pytest.mark.parametrize("y", [[], [None, None], [math.nan]])
def test_nothing_to_draw_is_no_figure(y):
    assert charts.line_chart("Loss", [charts.Line("a", range(len(y)), y)]) == ""


@pytest.mark.parametrize("log", [False, True])
def test_constants_and_single_points_are_drawn(log):
    for y in ([2.0], [2.0, 2.0]):
        assert len(curves(charts.line_chart("Loss", [charts.Line("a", range(len(y)), y)], log=log))) == 1


def test_colours_and_dashes_come_from_the_line():
    lines = [charts.Line("a", [0, 1], [0.0, 1.0], 1, 0), charts.Line("b", [0, 1], [1.0, 2.0], 7, 1)]
    styles = [path.get("style") for path in svg(charts.line_chart("Loss", lines)).iter("path")]
    assert "--run-1)" in styles[0] and "dasharray" not in styles[0]
    assert "--run-1)" in styles[1] and f"dasharray:{charts.DASHES[1]}" in styles[1]


def test_names_are_told_to_readers_who_hover_or_do_not_see():
    figure = charts.line_chart("Loss <b>", [charts.Line('run "1" & <i>', [0, 20], [1.0, 0.25])])
    drawing = svg(figure)
    assert drawing.get("role") == "img"
    assert 'run "1" & <i>' in drawing.get("aria-label") and "0.250 at 20" in drawing.get("aria-label")
    assert any(title.text == 'run "1" & <i>, step 20: 0.250' for title in drawing.iter("title"))
    assert "<i>" not in figure and "<b>" not in figure


def test_faint_lines_have_no_legend():
    lines = [charts.Line("raw", [0, 1], [0.0, 1.0], faint=True), charts.Line("mean", [0, 1], [0.2, 0.8])]
    figure = charts.line_chart("Loss", lines)
    assert "mean</li>" in figure and "raw" not in figure and len(curves(figure)) == 2


def test_a_line_needs_a_value_for_each_x():
    with pytest.raises(ValueError, match="line 'a': found 1 values, needed 2"):
        charts.Line("a", [0, 1], [1.0])


def test_a_strip_orders_values_and_references():
    drawing = ElementTree.fromstring(charts.interval_strip("Recall", [(0.8, 0.7, 0.85)], [("R", 0.9), ("G", 0.5)]))
    (circle,) = drawing.iter("circle")
    at = {text.text: float(text.get("x")) for text in drawing.iter("text")}
    assert at["G"] < float(circle.get("cx")) < at["R"]
    (bar,) = [line for line in drawing.iter("line") if line.get("class") is None]
    assert at["G"] < float(bar.get("x1")) < float(circle.get("cx")) < float(bar.get("x2")) < at["R"]
