"""Who needs fewer steps to the same loss, and the verdicts of the claims that rest on it, by curves made up for the purpose."""

import math

import jax
import numpy as np
import pytest
import upath
from PIL import Image

from jaxgen.models.ddt import DDT
from jaxgen.reproduce import aligned_runs, claim, claims, convergence, ddt_decoupling, ddt_encoder_depth, repa

HOLDS, DOES_NOT_HOLD, INCONCLUSIVE = claim.Verdict
AT = np.arange(0, 1001, 50)


def result(name, speed, flops=1.0, seeds=3, noise=0.01):
    """Losses that fall by a power law in steps · speed, which a seed moves a little."""
    rates = [speed * math.exp(noise * (seed - (seeds - 1) / 2)) for seed in range(seeds)]
    losses = np.array([2 * (1 + rate * AT / 50) ** -0.5 for rate in rates])
    return convergence.Result(name, -8, {-8: 1.0}, AT, losses, 100, flops, 0.01)


def test_steps_to_a_loss_lie_between_those_asked():
    assert convergence.steps_to([0, 10, 20], [4.0, 2.0, 1.0], 2.0) == 10
    assert convergence.steps_to([0, 10, 20], [4.0, 2.0, 1.0], math.sqrt(2)) == pytest.approx(15)
    assert convergence.steps_to([0, 10, 20], [4.0, 2.0, 1.0], 0.9) == math.inf
    # The first time counts, not the last.
    assert convergence.steps_to([0, 10, 20, 30], [4.0, 1.0, 2.0, 1.0], 1.0) == 10


@pytest.mark.parametrize("speed", [0.5, 1.0, 1.7])
def test_the_speed_up_is_that_of_the_law(speed):
    value, (low, high) = convergence.speed_up(result("slow", 1.0), result("fast", speed))
    assert value == pytest.approx(speed, rel=0.01)
    assert low <= value <= high and high - low < 0.02
    back = convergence.speed_up(result("fast", speed), result("slow", 1.0))[0]
    assert back == pytest.approx(1 / value, rel=1e-6)


def test_seeds_that_disagree_widen_the_interval():
    slow, fast = result("slow", 1.0), result("fast", 1.5)
    fast.losses[0] = result("", 0.8).losses[0]
    low, high = convergence.speed_up(slow, fast)[1]
    assert low < 1 < high


def test_flops_count_each_step_and_what_was_spent_before():
    slow, fast = result("slow", 1.0, flops=2.0), result("fast", 1.6, flops=4.0)
    assert convergence.flops_speed_up(slow, fast) == pytest.approx(0.8, rel=0.01)
    # As much again as the training of the fast one.
    spent = 4.0 * 1000 / 1.6
    assert convergence.flops_speed_up(slow, fast, beforehand=spent) == pytest.approx(0.4, rel=0.01)


@pytest.mark.parametrize("broken", [math.inf, 3.0], ids=["not finite", "no better than its start"])
def test_a_run_that_came_to_nothing_decides_nothing(broken):
    slow, fast = result("slow", 1.0), result("fast", 1.5)
    fast.losses[1, -1] = broken
    value, interval = convergence.speed_up(slow, fast)
    assert math.isnan(value) and all(map(math.isnan, interval))


def test_arms_that_do_not_start_alike_break_an_invariant():
    one, other = result("one", 1.0), result("other", 1.0)
    convergence.require_same_start([one, other])
    other.losses[:, 0] *= 1.001
    with pytest.raises(claim.InvariantFailed, match="'other': 2.002"):
        convergence.require_same_start([one, other])


class Law:
    """Stands in for training: an arm's speed by its name, the best rate 2^best."""

    def __init__(self, speeds, best=-7.6, noise=0.01):
        self.speeds, self.best, self.noise, self.asked = speeds, best, noise, []

    def plant(self, monkeypatch):
        law = self

        def train(trainer, rate, seed, count, evaluations):
            name = trainer._arm.name
            law.asked.append((name, round(math.log2(rate)), seed, count))
            (speed,) = [speed for part, speed in law.speeds.items() if name.startswith(part)][:1]
            # Seeds move arms apart: one up where they move another down.
            apart = law.noise * (seed % 3 - 1) * (-1) ** len(name.partition(",")[0])
            speed *= math.exp(apart - (math.log2(rate) - law.best) ** 2)
            at = [round(i * count / evaluations) for i in range(evaluations + 1)]
            return convergence.Record(tuple(at), tuple(2 * (1 + speed * step / 50) ** -0.5 for step in at), 1.0)

        def cost(trainer):
            model, aligned = trainer.experiment.model, trainer.experiment.objective.alignment is not None
            more = (model.patch**2 * model.channels + 1) * model.width if isinstance(model, DDT) else 0
            return 1000 + more, 2.0 if aligned else 1.0

        monkeypatch.setattr(convergence._Trainer, "_train", train)
        monkeypatch.setattr(convergence._Trainer, "cost", cost)
        monkeypatch.setattr(aligned_runs.Encoder, "training_flops", 900.0)
        monkeypatch.setattr(aligned_runs.Encoder, "probes", lambda encoder: {"self-supervised": 0.9})
        monkeypatch.setattr(aligned_runs.Encoder, "_trained", (None, convergence.Record((9,), (0.1,), 7.0)))


def reproduce(module, law, tmp_path, monkeypatch, **options):
    law.plant(monkeypatch)
    place = claim.Workplace(jax.devices()[:1], upath.UPath(tmp_path), ("data.source=synthetic",))
    return module.run(place, convergence.Plan(bank=8, **options))


def test_repa_holds_where_the_trained_teacher_is_faster_than_both(tmp_path, monkeypatch):
    law = Law({"no": 1.0, "self": 1.8, "random": 1.1})
    outcome = reproduce(repa, law, tmp_path, monkeypatch)
    assert outcome.verdict == HOLDS
    assert [figure.value for figure in outcome.figures] == pytest.approx([1.8, 1.8 / 1.1], rel=0.02)
    # The same budget for all: four rates on a seed of their own for half the steps, then three seeds at the best.
    for name in law.speeds:
        mine = [run for run in law.asked if run[0].startswith(name)]
        assert sorted(e for _, e, seed, count in mine if seed == convergence.TUNING_SEED and count == 400) == [-9, -8, -7, -6]
        assert [(e, seed, count) for _, e, seed, count in mine if count == 800] == [(-8, seed, 800) for seed in range(3)]
    # A step aligned costs twice one without, by this law; and 450 of them the encoder.
    alone, counted = outcome.data["flops"]
    assert alone == pytest.approx(0.9, rel=0.02) and counted == pytest.approx(800 / (2 * 800 / 1.8 + 900), rel=0.02)
    assert any(line.startswith("the encoder: ") and "7 s" in line for line in outcome.lines)
    outcome.draw(str(tmp_path / "plot.png"))
    assert Image.open(tmp_path / "plot.png").width > 1000
    # Kept: the same claim again trains nothing.
    asked = len(law.asked)
    again = reproduce(repa, law, tmp_path, monkeypatch)
    assert len(law.asked) == asked and again.data == outcome.data and again.seconds == outcome.seconds


@pytest.mark.parametrize("speeds, broken", [((1.0, 1.0, 1.0), 0), ((1.0, 1.8, 1.8), 1)], ids=["no faster", "noise does as well"])
def test_repa_does_not_hold_otherwise(speeds, broken, tmp_path, monkeypatch):
    outcome = reproduce(repa, Law(dict(zip(("no", "self", "random"), speeds))), tmp_path, monkeypatch)
    assert outcome.verdict == outcome.figures[broken].verdict == DOES_NOT_HOLD


@pytest.mark.parametrize("ddt, noise, verdict", [(1.7, 0.01, HOLDS), (1.0, 0.01, DOES_NOT_HOLD), (1.3, 0.2, INCONCLUSIVE)])
def test_decoupling_is_judged_against_the_improved_dit(ddt, noise, verdict, tmp_path, monkeypatch):
    # Seeds move DDT alone, as they move all others alike.
    outcome = reproduce(ddt_decoupling, Law({"DiT": 0.3, "improved": 1.0, "DDT": ddt}, noise=noise), tmp_path, monkeypatch)
    assert outcome.verdict == verdict
    assert len(outcome.data) == 6 + 2 and outcome.figures[0].value == pytest.approx(ddt, rel=0.15)


@pytest.mark.parametrize("deep, verdict", [(1.5, HOLDS), (1.0, DOES_NOT_HOLD)])
def test_the_deep_encoder_is_judged_against_the_shallow_one(deep, verdict, tmp_path, monkeypatch):
    law = Law({"2 + 4": 1.0, "3 + 3": 1.2, "4 + 2": deep, "5 + 1": 0.9})
    outcome = reproduce(ddt_encoder_depth, law, tmp_path, monkeypatch)
    assert outcome.verdict == verdict
    assert outcome.figures[0].value == pytest.approx(deep, rel=0.02) and len(outcome.data) == 4


def test_rates_are_added_until_the_best_lies_inside(tmp_path, monkeypatch):
    law = Law({"": 1.0}, best=-4.6)
    outcome = reproduce(repa, law, tmp_path, monkeypatch)
    assert outcome.data["no alignment"]["log2_rate"] == -5
    assert sorted(map(int, outcome.data["no alignment"]["tuning"])) == list(range(-9, -3))


def test_all_claims_on_alignment_are_in_the_ledger():
    assert {"repa", "ddt-decoupling", "ddt-encoder-depth"} <= set(claims.CLAIMS)


@pytest.mark.slow
@pytest.mark.parametrize("module", [repa, ddt_decoupling, ddt_encoder_depth], ids=lambda module: module.CLAIM.name)
def test_everything_that_is_trained_trains(module, tmp_path):
    place = claim.Workplace(jax.devices()[:1], upath.UPath(tmp_path), ("data.source=synthetic", "training.steps=6"))
    plan = convergence.Plan(exponents=(-9, -8), extend=0, seeds=2, evaluations=2, bank=8, encoder_steps=3)
    outcome = module.run(place, plan)
    losses = np.array([row for arm in outcome.data.values() if isinstance(arm, dict) for row in arm["losses"]], float)
    assert losses.shape[1] == 3 and (losses[:, 0] > 0.5).all() and (losses[:, 1] < losses[:, 0]).all()
    outcome.draw(str(tmp_path / "plot.png"))
    assert outcome.seconds > 0
