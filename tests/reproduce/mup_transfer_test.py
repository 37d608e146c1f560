"""The verdict on transfer follows the law that losses obey, whichever it is; the base identity is proved or there is none."""

import math
import pathlib
import sys

import jax
import numpy as np
import pytest
import upath
from PIL import Image

from jaxgen import mup
from jaxgen.reproduce import claim, mup_transfer, small_runs
from jaxgen.training import rate_optimum

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from laws import Law  # noqa: E402

HOLDS, DOES_NOT_HOLD, INCONCLUSIVE = claim.Verdict
PLAN = mup_transfer.Plan(cosine=(64, 128), published=(64, 128), scenes=())


def reproduce(law, tmp_path, monkeypatch, plan=PLAN):
    law.plant(monkeypatch)
    monkeypatch.setattr(small_runs.SmallRuns, "check_base_identity", lambda self: None)
    outcome = mup_transfer.run(claim.Workplace(jax.devices()[:1], upath.UPath(tmp_path)), plan)
    return outcome, {figure.bar.name: figure for figure in outcome.figures}


def test_rates_that_transfer_and_rates_that_fall_hold(tmp_path, monkeypatch):
    law = Law(0.03, -0.8)
    outcome, _ = reproduce(law, tmp_path, monkeypatch)
    slope_mup, ratio_mup, slope_standard, ratio_standard = outcome.figures
    assert outcome.verdict == HOLDS
    assert slope_mup.value == pytest.approx(0.03, abs=2e-3)
    assert slope_standard.value == pytest.approx(-0.8, abs=2e-3)
    # By the law, at 512 the best rate has moved by 3 · slope octaves from the proxy's.
    assert ratio_standard.value == pytest.approx(2 ** ((3 * 0.8 / 2) ** 2), rel=0.05)
    assert 1 <= ratio_mup.value < 1.01
    # Whole grids at 64 and 128; five rates at 256 and 512; most seeds where they scatter most.
    asked = {(width, e) for width, e, _ in law.asked}
    assert [max(seed for width, _, seed in law.asked if width == w) for w in PLAN.widths] == [n - 1 for n in PLAN.seeds]
    assert {e for width, e in asked if width == 128} >= set(range(-11, -3))
    assert len(outcome.data["curves"]["mup"]["256"]["log2_rates"]) == 5
    assert any("cosine" in line and "slope -0.80" in line for line in outcome.lines)
    outcome.draw(str(tmp_path / "plot.png"))
    assert Image.open(tmp_path / "plot.png").width > 1000


@pytest.mark.parametrize("slopes, broken", [((-0.8, -0.8), 0), ((0.03, 0.03), 2)], ids=["μP falls", "standard stays"])
def test_a_law_that_the_paper_denies_does_not_hold(slopes, broken, tmp_path, monkeypatch):
    outcome, _ = reproduce(Law(*slopes), tmp_path, monkeypatch)
    assert outcome.verdict == DOES_NOT_HOLD
    assert outcome.figures[broken].verdict == DOES_NOT_HOLD


def test_seeds_that_disagree_are_inconclusive(tmp_path, monkeypatch):
    outcome, _ = reproduce(Law(0.03, -0.8, noise=0.6), tmp_path, monkeypatch)
    assert abs(outcome.figures[0].value) < 0.15
    assert outcome.figures[0].verdict == INCONCLUSIVE


def test_rates_are_added_until_the_best_lies_inside(tmp_path, monkeypatch):
    outcome, _ = reproduce(Law(0.0, -2.0), tmp_path, monkeypatch)
    widest = outcome.data["curves"]["standard"]["512"]
    assert widest["log2_best_rate"] == pytest.approx(-7.3 - 6, abs=0.02)
    assert outcome.figures[2].verdict == HOLDS


def test_without_an_optimum_at_the_base_nothing_is_decided(tmp_path, monkeypatch):
    plan = mup_transfer.Plan(exponents=(-20, -19, -18), extend=1, cosine=(), published=(), scenes=())
    outcome, _ = reproduce(Law(0.0, -0.8), tmp_path, monkeypatch, plan)
    assert [figure.verdict for figure in outcome.figures] == [INCONCLUSIVE] * 4


def test_the_ratio_is_at_least_one_and_infinite_where_no_seed_was_finite():
    curve = rate_optimum.Curve.of({-8: [1.0, 1.1], -7: [0.8, 0.9], -6: [1.0, 1.1]})
    assert mup_transfer.over_best(np.array([0.7, 0.8]), curve)[0] == 1
    value, interval = mup_transfer.over_best(np.array([math.inf, math.inf]), curve)
    assert value == math.inf and interval == (math.inf, math.inf)


@pytest.mark.slow
def test_everything_that_is_trained_trains(tmp_path):
    plan = mup_transfer.Plan(
        exponents=(-8, -7, -6),
        wide_grid=(64,),
        narrow_grid=(128,),
        around=1,
        cosine=(64,),
        published=(64,),
        scenes=(64,),
        seeds=(2, 2),
        few_seeds=1,
        extend=0,
    )
    place = claim.Workplace(jax.devices()[:1], upath.UPath(tmp_path), ("training.steps=2",))
    outcome = mup_transfer.run(place, plan)
    curves = outcome.data["curves"]
    assert len(curves) == 7 and len(outcome.lines) == 7
    losses = [loss for panel in curves.values() for curve in panel.values() for row in curve["losses"] for loss in row]
    assert all(0.5 < loss < 5 for loss in losses)
    # At the base the parametrizations are one; at twice the width not, nor is the published start either's.
    assert curves["mup"]["64"] == curves["standard"]["64"] and curves["mup"]["128"] != curves["standard"]["128"]
    assert curves["standard, published start"]["64"]["losses"][0] != curves["standard"]["64"]["losses"][0][:1]
    assert outcome.seconds > 0


QUICK = ("model.depth=1", "model.head_dim=64", "model.mlp_ratio=1", "data.batch_size=2", "data.source=synthetic")


def base_identity(tmp_path):
    runs = small_runs.SmallRuns(claim.Workplace(jax.devices()[:1], upath.UPath(tmp_path), QUICK), small_runs.digits)
    with jax.set_mesh(runs.mesh):
        runs.check_base_identity()


def test_both_parametrizations_are_one_at_the_base_width(tmp_path):
    base_identity(tmp_path)


def test_a_multiplier_that_is_not_one_at_the_base_width_is_caught(tmp_path, monkeypatch):
    describe = mup.describe

    def faulty(scale, *arguments):
        box = describe(scale, *arguments)
        return box.replace(learning_rate=0.5) if scale.mup and box.group == "output" else box

    monkeypatch.setattr(mup, "describe", faulty)
    with pytest.raises(claim.InvariantFailed, match="multiplier of learning_rate"):
        base_identity(tmp_path)


def test_another_forward_pass_at_the_base_width_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(mup, "forward_multiplier", lambda scale, inputs: 2.0 if scale.mup else 1.0)
    with pytest.raises(claim.InvariantFailed, match="step 1"):
        base_identity(tmp_path)
