"""`mup-transfer`: under μP the best learning rate does not move with width; under the standard parametrization it falls."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxgen import mup
from jaxgen.evaluation import plots
from jaxgen.reproduce import claim, small_runs
from jaxgen.training import rate_optimum, rate_sweep

MUP, STANDARD = mup.Parametrization.MUP, mup.Parametrization.STANDARD
_FIGURE_3 = "best rate 2^-10 at widths 144, 288 and 576 (figure 3)"
_NOT_MEASURED = "not measured there; falls in Tensor Programs V, figure 1"
BARS = {
    ("slope", MUP): claim.Bar("slope of log₂ best rate on log₂ width, μP", _FIGURE_3, low=-0.15, high=0.15),
    ("slope", STANDARD): claim.Bar("slope of log₂ best rate on log₂ width, standard", _NOT_MEASURED, high=-0.5),
    ("ratio", MUP): claim.Bar("loss at the target with the proxy's rate ÷ best, μP", _FIGURE_3, high=1.03),
    ("ratio", STANDARD): claim.Bar("loss at the target with the proxy's rate ÷ best, standard", _NOT_MEASURED, low=1.3),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is trained. Rates are powers of two.

    Attributes:
      exponents: of the whole grid. wide_grid: widths that get all of it; the first is the base.
      narrow_grid: wider ones, which get `around` rates to each side of the previous width's best.
      cosine, published, scenes: widths, at such a narrow grid too, of what is reported without a bar: both parametrizations with
        warm-up and cosine; the start that DiT was published with; both parametrizations on other data.
      seeds: by width, of what is judged; narrow models scatter most, and in slopes the ends weigh most. few_seeds: of what is
        reported.
      extend: rates added at most where the best is at an end.
    """

    exponents: tuple[int, ...] = tuple(range(-11, -3))
    wide_grid: tuple[int, ...] = (64, 128)
    narrow_grid: tuple[int, ...] = (256, 512)
    around: int = 2
    cosine: tuple[int, ...] = (64, 128, 256)
    published: tuple[int, ...] = (64, 128, 256)
    scenes: tuple[int, ...] = (64, 128)
    seeds: tuple[int, ...] = (16, 5, 4, 6)
    few_seeds: int = 2
    extend: int = 4

    @property
    def widths(self) -> tuple[int, ...]:
        return self.wide_grid + self.narrow_grid


def run(place: claim.Workplace, plan: Plan = Plan()) -> claim.Outcome:
    """See the module; raises `claim.InvariantFailed` where both parametrizations differ at the base width."""
    runs = small_runs.SmallRuns(place, small_runs.digits)
    panels: dict[str, dict[int, rate_optimum.Curve]] = {}
    figures, data = [], {}
    with jax.set_mesh(runs.mesh):
        runs.check_base_identity()
        for parametrization in (MUP, STANDARD):
            curves = constant(runs, parametrization, plan)
            panels[str(parametrization)] = curves
            figures.append(_slope(parametrization, curves))
            ratio, transferred = _ratio(runs, parametrization, curves, plan)
            figures.append(ratio)
            data[f"{parametrization}, target at the proxy's rate"] = [rate_optimum.finite(loss) for loss in transferred]
        start, few = panels[str(MUP)][plan.widths[0]], dict.fromkeys((*plan.cosine, *plan.published, *plan.scenes), plan.few_seeds)
        for parametrization in (MUP, STANDARD):
            sweep = functools.partial(runs.sweep, parametrization=parametrization, schedule="cosine")
            panels[f"{parametrization}, warm-up and cosine"] = _narrow(sweep, plan.cosine, start, plan, few)
        published = functools.partial(runs.sweep, parametrization=mup.Parametrization.PUBLISHED)
        panels["standard, published start"] = _narrow(published, plan.published, start, plan, few)
    seconds = runs.cells.seconds
    if plan.scenes:
        other = small_runs.SmallRuns(place, small_runs.scenes)
        with jax.set_mesh(other.mesh):
            for parametrization in (MUP, STANDARD):
                sweep = functools.partial(other.sweep, parametrization=parametrization)
                panels[f"{parametrization}, scenes"] = _narrow(sweep, plan.scenes, start, plan, few)
        seconds += other.cells.seconds
    panels = {name: curves for name, curves in panels.items() if curves}
    return claim.Outcome(
        figures=tuple(figures),
        lines=tuple(_line(name, curves) for name, curves in panels.items()),
        data=data | {"curves": {name: _described(curves) for name, curves in panels.items()}},
        seconds=seconds,
        draw=lambda path: plots.rates(panels, path),
    )


def constant(runs: small_runs.SmallRuns, parametrization: mup.Parametrization, plan: Plan) -> dict[int, rate_optimum.Curve]:
    """Loss against constant rate by width, all that is judged."""
    curves: dict[int, rate_optimum.Curve] = {}
    seeds = dict(zip(plan.widths, plan.seeds, strict=True))
    for width in plan.wide_grid:
        curves[width] = runs.sweep(width, parametrization).around(plan.exponents, range(seeds[width]), plan.extend)
    sweep = functools.partial(runs.sweep, parametrization=parametrization)
    return curves | _narrow(sweep, plan.narrow_grid, curves[plan.wide_grid[-1]], plan, seeds)


def _narrow(
    sweep: Callable[[int], rate_sweep.Sweep], widths: Sequence[int], before: rate_optimum.Curve, plan: Plan, seeds: dict[int, int]
) -> dict[int, rate_optimum.Curve]:
    """Curves at a few rates around the best one of the width before, starting from `before`."""
    curves = {}
    for width in widths:
        centre = round(before.optimum) if math.isfinite(before.optimum) else int(before.exponents[before.best])
        exponents = range(centre - plan.around, centre + plan.around + 1)
        curves[width] = before = sweep(width).around(exponents, range(seeds[width]), plan.extend)
    return curves


def _slope(parametrization: mup.Parametrization, curves: dict[int, rate_optimum.Curve]) -> claim.Figure:
    widths = list(curves)
    value = rate_optimum.slope(widths, [curve.optimum for curve in curves.values()])
    by_seed = [curve.by_seed for curve in curves.values()]
    interval = claim.interval_of_sum(value, rate_optimum.slope_weights(widths), by_seed)
    return claim.Figure(BARS["slope", parametrization], value, interval)


def _ratio(
    runs: small_runs.SmallRuns, parametrization: mup.Parametrization, curves: dict[int, rate_optimum.Curve], plan: Plan
) -> tuple[claim.Figure, np.ndarray]:
    """The figure, and the losses at the widest with the best rate of the narrowest [seeds]."""
    bar = BARS["ratio", parametrization]
    rate, target = curves[plan.widths[0]].optimum, curves[plan.widths[-1]]
    if not (math.isfinite(rate) and target.interior):
        return claim.Figure(bar, math.nan, (math.nan, math.nan)), np.array([])
    transferred = runs.sweep(plan.widths[-1], parametrization).losses([2.0**rate], range(plan.seeds[-1]))[0]
    return claim.Figure(bar, *over_best(transferred, target)), transferred


def over_best(losses: np.ndarray, target: rate_optimum.Curve) -> tuple[float, tuple[float, float]]:
    """Ratio of losses [seeds] to the best of a curve and its interval; at least 1, as they are among what the best is chosen of."""
    logs, best = np.log(losses), np.log(target.losses[target.best])
    best = best if best.mean() < logs.mean() else logs
    ratios = np.exp(logs - best)
    value = float(np.exp(np.mean(logs - best)))
    return value, claim.interval(value, ratios)


def _line(name: str, curves: dict[int, rate_optimum.Curve]) -> str:
    slope = rate_optimum.slope(list(curves), [curve.optimum for curve in curves.values()])
    best = ", ".join(f"2^{curve.optimum:.2f} at {width}" for width, curve in curves.items())
    return f"{name}: best rate {best}; slope {slope:+.2f}"


def _described(curves: dict[int, rate_optimum.Curve]) -> dict[str, Any]:
    return {str(width): curve.described() for width, curve in curves.items()}


CLAIM = claim.Claim(
    name="mup-transfer",
    says="Under μP the best learning rate of a narrow model is that of a wide one; under the standard parametrization it is not.",
    source="arXiv 2505.15270, figure 3",
    paper="best rate 2^-10 at all widths",
    run=run,
)
