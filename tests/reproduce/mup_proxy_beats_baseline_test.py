"""The proxy wins where rates transfer under μP alone, and its cost is that of its FLOPs."""

import pathlib
import sys

import jax
import numpy as np
import pytest
import upath

from jaxgen import mup
from jaxgen.reproduce import claim, mup_proxy_beats_baseline, mup_transfer, small_runs

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from laws import Law  # noqa: E402

HOLDS, DOES_NOT_HOLD, INCONCLUSIVE = claim.Verdict


def reproduce(law, tmp_path, monkeypatch):
    law.plant(monkeypatch)
    monkeypatch.setattr(small_runs.SmallRuns, "check_base_identity", lambda self: None)
    return mup_proxy_beats_baseline.run(claim.Workplace(jax.devices()[:1], upath.UPath(tmp_path)), mup_transfer.Plan())


def test_the_claim_holds_where_rates_transfer_under_mup_alone(tmp_path, monkeypatch):
    outcome = reproduce(Law(0.0, -0.8), tmp_path, monkeypatch)
    same_rate, tuned, cost = outcome.figures
    assert outcome.verdict == HOLDS
    assert same_rate.value == pytest.approx(2 ** ((3 * 0.8 / 2) ** 2), rel=0.05)
    assert tuned.value == pytest.approx(1.0, abs=0.02)
    # 8 rates at width 64 against 5 at 512, where a token costs between 8 (attention) and 64 times as much.
    assert 8 / 5 / 64 < cost.value < 8 / 5 / 40
    assert len(outcome.data["standard_published"]) == mup_transfer.Plan().seeds[-1]
    outcome.draw(str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_the_claim_does_not_hold_where_rates_fall_under_mup_too(tmp_path, monkeypatch):
    same_rate, tuned, _ = reproduce(Law(-0.8, -0.8), tmp_path, monkeypatch).figures
    assert same_rate.verdict == DOES_NOT_HOLD
    assert tuned.verdict == DOES_NOT_HOLD


def test_flops_of_a_run_are_those_of_its_steps_and_examples(tmp_path):
    runs = {}
    for steps in (10, 30):
        place = claim.Workplace(jax.devices()[:1], upath.UPath(tmp_path), (f"training.steps={steps}",))
        small = small_runs.SmallRuns(place, small_runs.digits)
        with jax.set_mesh(small.mesh):
            runs[steps] = mup_proxy_beats_baseline.training_flops(small.sweep(64, mup.Parametrization.MUP))
    assert runs[30] == 3 * runs[10]
    # Six FLOPs a parameter and token, but for modulation, which reads one vector a picture: to an order.
    parameters = 2 * 12 * 64**2
    assert 1 < runs[10] / (6 * parameters * 16 * 16 * 10) < 1.3


def test_the_ratio_of_geometric_means_and_its_interval():
    value, (low, high) = mup_proxy_beats_baseline.ratio(np.array([2.2, 1.8]), np.array([1.0, 1.0]))
    assert value == pytest.approx(np.sqrt(2.2 * 1.8))
    assert low < 1.8 < 2.2 < high
