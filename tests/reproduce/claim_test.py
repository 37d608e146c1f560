"""A verdict follows from an interval and a bar, and from nothing else."""

import math

import numpy as np
import pytest

from jaxgen.reproduce import claim
from jaxgen.reproduce.claim import Verdict

HOLDS, DOES_NOT_HOLD, INCONCLUSIVE = Verdict


@pytest.mark.parametrize(
    "interval, verdict",
    [
        ((-0.1, 0.1), HOLDS),
        ((-0.15, 0.15), HOLDS),
        ((0.2, 0.3), DOES_NOT_HOLD),
        ((-0.9, -0.5), DOES_NOT_HOLD),
        ((0.1, 0.2), INCONCLUSIVE),
        ((-1.0, 1.0), INCONCLUSIVE),
        ((math.nan, math.nan), INCONCLUSIVE),
        ((math.inf, math.inf), DOES_NOT_HOLD),
    ],
)
def test_the_whole_interval_decides(interval, verdict):
    bar = claim.Bar("slope", "0", low=-0.15, high=0.15)
    assert claim.Figure(bar, float(np.mean(interval)), interval).verdict == verdict


def test_a_bar_with_one_side():
    assert claim.Figure(claim.Bar("ratio", "", low=1.3), math.inf, (math.inf, math.inf)).verdict == HOLDS
    assert claim.Figure(claim.Bar("slope", "", high=-0.5), -0.8, (-0.9, -0.7)).verdict == HOLDS
    assert claim.Figure(claim.Bar("slope", "", high=-0.5), -0.2, (-0.3, -0.1)).verdict == DOES_NOT_HOLD
    assert [str(claim.Bar("", "", **sides)) for sides in ({"low": 1.3}, {"high": -0.5}, {"low": 0, "high": 1})] == [
        "≥ 1.3",
        "≤ -0.5",
        "0 … 1",
    ]


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds):
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        values = random.normal(3.0, 0.5, seeds)
        low, high = claim.interval(values.mean(), values)
        hits += low <= 3.0 <= high
    assert hits / 2000 == pytest.approx(claim.SHARE, abs=0.015)


def test_the_interval_of_a_sum_covers_the_truth_though_its_parts_have_other_spreads_and_seeds():
    random = np.random.default_rng(0)
    weights, spreads, seeds = np.array([-0.3, -0.1, 0.1, 0.3]), (0.5, 0.15, 0.05, 0.05), (8, 5, 3, 3)
    hits, widths = 0, []
    for _ in range(2000):
        groups = [random.normal(1.0, spread, count) for spread, count in zip(spreads, seeds, strict=True)]
        low, high = claim.interval_of_sum(weights @ [group.mean() for group in groups], weights, groups)
        hits += low <= weights.sum() <= high
        widths.append(high - low)
    assert hits / 2000 == pytest.approx(claim.SHARE, abs=0.015)
    # Nearly all of the variance is that of the first.
    assert np.median(widths) == pytest.approx(2 * 2.36 * 0.3 * 0.5 / np.sqrt(8), rel=0.15)


def test_seeds_that_are_missing_or_too_few_give_no_interval():
    assert all(map(math.isnan, claim.interval(1.0, [1.0])))
    assert all(map(math.isnan, claim.interval(1.0, [1.0, math.nan, 1.0])))
    assert all(map(math.isnan, claim.interval(math.inf, [1.0, math.inf])))
    assert claim.interval(math.inf, [math.inf, math.inf]) == (math.inf, math.inf)


@pytest.mark.parametrize(
    "verdicts, verdict",
    [
        ((HOLDS, HOLDS), HOLDS),
        ((HOLDS, INCONCLUSIVE), INCONCLUSIVE),
        ((INCONCLUSIVE, DOES_NOT_HOLD, HOLDS), DOES_NOT_HOLD),
        ((), INCONCLUSIVE),
    ],
)
def test_one_figure_that_fails_fails_the_claim_and_one_in_doubt_leaves_it_in_doubt(verdicts, verdict):
    assert claim.combined(verdicts) == verdict
