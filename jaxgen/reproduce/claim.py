"""What a claim is: statements with bars, figures with intervals over seeds, and the verdict that follows from them."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

SHARE = 0.95


class Verdict(enum.StrEnum):
    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    INCONCLUSIVE = "inconclusive"


class InvariantFailed(AssertionError):
    """Something that our own code guarantees was found false: no verdict on the paper follows."""


@dataclasses.dataclass(frozen=True)
class Bar:
    """What a figure has to be for the claim to hold, fixed before it is measured.

    Attributes:
      name: of the figure. paper: the paper's figure, in words. low, high: the bar, both included.
    """

    name: str
    paper: str
    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        if self.low == -math.inf:
            return f"≤ {self.high:g}"
        return f"≥ {self.low:g}" if self.high == math.inf else f"{self.low:g} … {self.high:g}"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A measured figure beside its bar.

    Attributes:
      value: NaN where it could not be measured. interval: 95 % over seeds; the value twice where nothing is random.
    """

    bar: Bar
    value: float
    interval: tuple[float, float]

    @property
    def verdict(self) -> Verdict:
        """Holds where the whole interval keeps the bar, does not hold where all of it breaks it, otherwise inconclusive."""
        low, high = self.interval
        # Written so that an interval with a number missing decides nothing.
        if low >= self.bar.low and high <= self.bar.high:
            return Verdict.HOLDS
        if low > self.bar.high or high < self.bar.low:
            return Verdict.DOES_NOT_HOLD
        return Verdict.INCONCLUSIVE


def interval(value: float, by_seed: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a figure over seeds: Student's t with the spread of the same figure computed seed by seed.

    Resampling two or three seeds would give intervals that are far too narrow. (NaN, NaN) from fewer than two, or where one is
    missing; an infinite value (a run that was not finite) is infinite on both sides where it is so for all seeds.
    """
    values = np.asarray(by_seed, float)
    if len(values) >= 2 and np.all(values == math.inf):
        return math.inf, math.inf
    if len(values) < 2 or not np.all(np.isfinite(values)):
        return math.nan, math.nan
    half = stats.t.ppf((1 + SHARE) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(value - half), float(value + half)


def interval_of_sum(value: float, weights: Sequence[float], by_seed: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95 % interval of a weighted sum of means over seeds, each mean with seeds of its own (Welch and Satterthwaite).

    Args:
      value: the sum. weights: of the means. by_seed: of each mean, the values that it is taken over.
    """
    groups = [np.asarray(values, float) for values in by_seed]
    if min(map(len, groups)) < 2 or not all(np.all(np.isfinite(group)) for group in groups):
        return math.nan, math.nan
    variances = np.array([weight**2 * group.var(ddof=1) / len(group) for weight, group in zip(weights, groups, strict=True)])
    if not variances.any():
        return float(value), float(value)
    freedom = variances.sum() ** 2 / sum(v**2 / (len(group) - 1) for v, group in zip(variances, groups, strict=True))
    half = stats.t.ppf((1 + SHARE) / 2, freedom) * math.sqrt(variances.sum())
    return float(value - half), float(value + half)


def combined(verdicts: Sequence[Verdict]) -> Verdict:
    """Holds where all do, does not hold where one does not, otherwise inconclusive."""
    if Verdict.DOES_NOT_HOLD in verdicts:
        return Verdict.DOES_NOT_HOLD
    return Verdict.HOLDS if verdicts and set(verdicts) == {Verdict.HOLDS} else Verdict.INCONCLUSIVE


@dataclasses.dataclass(frozen=True)
class Workplace:
    """Where a claim runs.

    Attributes:
      devices: to train on.
      folder: of everything that claims keep, a `upath.UPath`; finished runs are found there again, those of other claims too.
      overrides: `dotted.name=value`, applied to every experiment of the claim.
      done: called after each training run.
    """

    devices: Sequence[Any]
    folder: Any
    overrides: tuple[str, ...] = ()
    done: Callable[[], None] = lambda: None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What running a claim found.

    Attributes:
      figures: those with a bar, which decide. lines: what else was measured, in words.
      data: the same and what is drawn, for JSON. seconds: of all training runs that it rests on, whenever they ran.
      draw: writes the plot to a path.
    """

    figures: tuple[Figure, ...]
    lines: tuple[str, ...]
    data: dict[str, Any]
    seconds: float
    draw: Callable[[str], None]

    @property
    def verdict(self) -> Verdict:
        return combined([figure.verdict for figure in self.figures])


@dataclasses.dataclass(frozen=True)
class Claim:
    """One entry of the ledger.

    Attributes:
      name: as on the command line. says: the claim in one sentence. source: the paper. paper: its figure, short.
      run: trains, measures and judges; raises `InvariantFailed`.
    """

    name: str
    says: str
    source: str
    paper: str
    run: Callable[[Workplace], Outcome]
