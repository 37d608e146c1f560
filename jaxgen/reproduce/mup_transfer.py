"""`mup-transfer`: under μP the best learning rate does not move with width; under the standard parametrization it falls."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxgen import mup
from jaxgen.evaluation import plots
from jaxgen.reproduce import claim, small_runs
from jaxgen.training import rate_optimum

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
      cosine: widths that are also trained with warm-up and cosine, at the narrow grid. scenes: widths on the other data.
      seeds: of what is judged. few_seeds: of what is only reported. extend: rates added at most where the best is at an end.
    """

    exponents: tuple[int, ...] = tuple(range(-11, -3))
    wide_grid: tuple[int, ...] = (64, 128)
    narrow_grid: tuple[int, ...] = (256, 512)
    around: int = 2
    cosine: tuple[int, ...] = (64, 128, 256)
    scenes: tuple[int, ...] = (64, 128)
    seeds: int = 3
    few_seeds: int = 2
    extend: int = 4

    @property
    def widths(self) -> tuple[int, ...]:
        return self.wide_grid + self.narrow_grid


def run(place: claim.Workplace, plan: Plan = Plan()) -> claim.Outcome:
    """See the module; raises `claim.InvariantFailed` where both parametrizations differ at the base width."""
    runs = small_runs.SmallRuns(place, small_runs.digits)
    panels: dict[str, dict[int, rate_optimum.Curve]] = {}
    figures, lines, data = [], [], {}
    with jax.set_mesh(runs.mesh):
        runs.check_base_identity()
        for parametrization in (MUP, STANDARD):
            curves = constant(runs, parametrization, plan)
            panels[str(parametrization)] = curves
            figures.append(_slope(parametrization, curves))
            ratio, transferred = _ratio(runs, parametrization, curves, plan)
            figures.append(ratio)
            at_target = [rate_optimum.finite(loss) for loss in transferred]
            data[str(parametrization)] = _described(curves) | {"target_at_proxy_rate": at_target}
        for parametrization in (MUP, STANDARD):
            for width, curve in panels[str(parametrization)].items():
                lines.append(f"{parametrization}, width {width}: best rate 2^{curve.optimum:.2f}")
        _report(runs, "cosine", plan.cosine, panels, lines, data, plan)
    seconds = runs.cells.seconds
    if plan.scenes:
        other = small_runs.SmallRuns(place, small_runs.scenes)
        with jax.set_mesh(other.mesh):
            _report(other, "constant", plan.scenes, panels, lines, data, plan, "on scenes")
        seconds += other.cells.seconds
    return claim.Outcome(
        figures=tuple(figures),
        lines=tuple(lines),
        data=data,
        seconds=seconds,
        draw=lambda path: plots.rates(panels, path),
    )


def constant(runs: small_runs.SmallRuns, parametrization: mup.Parametrization, plan: Plan) -> dict[int, rate_optimum.Curve]:
    """Loss against constant rate by width, all that is judged."""
    curves: dict[int, rate_optimum.Curve] = {}
    for width in plan.wide_grid:
        curves[width] = runs.sweep(width, parametrization).around(plan.exponents, range(plan.seeds), plan.extend)
    return curves | _narrow(runs, parametrization, "constant", plan.narrow_grid, curves[plan.wide_grid[-1]], plan, plan.seeds)


def _narrow(
    runs: small_runs.SmallRuns,
    parametrization: mup.Parametrization,
    schedule: str,
    widths: Sequence[int],
    before: rate_optimum.Curve,
    plan: Plan,
    seeds: int,
) -> dict[int, rate_optimum.Curve]:
    """Curves at a few rates around the best one of the width before, starting from `before`."""
    curves = {}
    for width in widths:
        centre = round(before.optimum) if math.isfinite(before.optimum) else int(before.exponents[before.best])
        exponents = range(centre - plan.around, centre + plan.around + 1)
        curves[width] = before = runs.sweep(width, parametrization, schedule).around(exponents, range(seeds), plan.extend)
    return curves


def _slope(parametrization: mup.Parametrization, curves: dict[int, rate_optimum.Curve]) -> claim.Figure:
    widths = list(curves)
    value = rate_optimum.slope(widths, [curve.optimum for curve in curves.values()])
    by_seed = [rate_optimum.slope(widths, optima) for optima in zip(*(curve.by_seed for curve in curves.values()), strict=True)]
    return claim.Figure(BARS["slope", parametrization], value, claim.interval(value, by_seed))


def _ratio(
    runs: small_runs.SmallRuns, parametrization: mup.Parametrization, curves: dict[int, rate_optimum.Curve], plan: Plan
) -> tuple[claim.Figure, np.ndarray]:
    """The figure, and the losses at the widest with the best rate of the narrowest [seeds]."""
    bar = BARS["ratio", parametrization]
    rate, target = curves[plan.widths[0]].optimum, curves[plan.widths[-1]]
    if not math.isfinite(rate):
        return claim.Figure(bar, math.nan, (math.nan, math.nan)), np.array([])
    transferred = runs.sweep(plan.widths[-1], parametrization).losses([2.0**rate], range(plan.seeds))[0]
    return claim.Figure(bar, *over_best(transferred, target)), transferred


def over_best(losses: np.ndarray, target: rate_optimum.Curve) -> tuple[float, tuple[float, float]]:
    """Ratio of losses [seeds] to the best of a curve and its interval; at least 1, as they are among what the best is chosen of."""
    logs, best = np.log(losses), np.log(target.losses[target.best])
    best = best if best.mean() < logs.mean() else logs
    ratios = np.exp(logs - best)
    value = float(np.exp(np.mean(logs - best)))
    return value, claim.interval(value, ratios)


def _report(
    runs: small_runs.SmallRuns,
    schedule: str,
    widths: Sequence[int],
    panels: dict[str, dict[int, rate_optimum.Curve]],
    lines: list[str],
    data: dict[str, Any],
    plan: Plan,
    suffix: str = "",
) -> None:
    """Adds what is reported without a bar: another schedule, or other data."""
    for parametrization in (MUP, STANDARD) if widths else ():
        first = runs.sweep(widths[0], parametrization, schedule).around(plan.exponents, range(plan.few_seeds), plan.extend)
        curves = {widths[0]: first} | _narrow(runs, parametrization, schedule, widths[1:], first, plan, plan.few_seeds)
        name = f"{parametrization}, {suffix or schedule}"
        panels[name], data[name] = curves, _described(curves)
        slope = rate_optimum.slope(list(curves), [curve.optimum for curve in curves.values()])
        best = ", ".join(f"2^{curve.optimum:.2f} at {width}" for width, curve in curves.items())
        lines.append(f"{name}: best rate {best}; slope {slope:+.2f}")


def _described(curves: dict[int, rate_optimum.Curve]) -> dict[str, Any]:
    return {str(width): curve.described() for width, curve in curves.items()}


CLAIM = claim.Claim(
    name="mup-transfer",
    says="Under μP the best learning rate of a narrow model is that of a wide one; under the standard parametrization it is not.",
    source="arXiv 2505.15270, figure 3",
    paper="best rate 2^-10 at all widths",
    run=run,
)
