"""The claims on M-DSL judge what they measured, and measure what they say."""

import dataclasses

import jax
import pytest
import upath

from jaxgen.reproduce import claim, mdsl, mdsl_generative, swarm_runs
from jaxgen.reproduce.claim import Verdict
from jaxgen.swarm import sites
from jaxgen.swarm.attacks import NotFinite
from jaxgen.swarm.settings import DSL, FedAvg


def place(folder, *overrides):
    return claim.Workplace(tuple(jax.devices()[:1]), upath.UPath(folder), overrides)


def plant(monkeypatch, law):
    """Stands in for training; returns the experiments asked for."""
    asked = []

    def figures(runs, tree):
        if tree.seed == 0 and len(asked) % 4 == 0:
            tree.validate()
        asked.append(tree)
        return {"seconds": 1.0, "up": 1e6, "uploads": 6.0} | law(tree)

    monkeypatch.setattr(swarm_runs.SwarmRuns, "figures", figures)
    monkeypatch.setattr(swarm_runs.SwarmRuns, "seconds", 12.0)
    return asked


def accuracy(tree, **better):
    swarm, alpha = tree.swarm, tree.swarm.partition.alpha
    noise = 0.003 * tree.seed
    if isinstance(swarm, FedAvg):
        attack = type(swarm.attack).__name__
        value = {"SignFlip": 0.12, "Gaussian": 0.55}.get(attack, 0.93)
    elif isinstance(swarm, DSL):
        value = {0.1: 0.74, 1.0: 0.9, 100.0: 0.95}[alpha]
    else:
        value = {0.1: 0.92, 1.0: 0.94, 100.0: 0.95}[alpha]
    return {"accuracy": value + noise, "worst": value - 0.2}


def test_figures_like_those_of_the_trial_hold(tmp_path, monkeypatch):
    asked = plant(monkeypatch, accuracy)
    outcome = mdsl.run(place(tmp_path))
    assert [figure.verdict for figure in outcome.figures] == [Verdict.HOLDS] * 6
    assert outcome.figures[0].value == pytest.approx(18) and outcome.figures[1].value == pytest.approx(80)
    # Skewed data with more seeds than others; FedAvg has no scores to forge.
    assert len(asked) == sum(mdsl.Plan().seeds) * (3 + 4 + 4 + 4)
    outcome.draw(str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "law, broken",
    [
        (lambda tree: accuracy(tree) | {"uploads": 8.0}, "uploads of M-DSL at 0.1, most of any attack, ÷ sites"),
        (
            lambda tree: accuracy(tree) | ({"accuracy": 0.9} if isinstance(tree.swarm, FedAvg) else {}),
            "accuracy, M-DSL − FedAvg, 0.1, sign flip ×3, points",
        ),
    ],
)
def test_a_bar_that_is_broken_decides(tmp_path, monkeypatch, law, broken):
    plant(monkeypatch, law)
    outcome = mdsl.run(place(tmp_path))
    assert outcome.verdict == Verdict.DOES_NOT_HOLD
    assert broken in [figure.bar.name for figure in outcome.figures if figure.verdict == Verdict.DOES_NOT_HOLD]


def test_the_generative_claim_compares_under_attack_and_with_the_best_single_site(tmp_path, monkeypatch):
    def law(tree):
        alone, attacked = tree.swarm.move == mdsl_generative.ALONE, bool(tree.swarm.hostile)
        value = 0.8 if alone else 0.3 if attacked and isinstance(tree.swarm, FedAvg) else 0.95
        return {"agreement": value + 0.002 * tree.seed, "worst": value - 0.2, "frechet": 2 - value}

    asked = plant(monkeypatch, law)
    outcome = mdsl_generative.run(place(tmp_path))
    assert outcome.verdict == Verdict.HOLDS and len(asked) == 2 * 5 + 3 * 3
    assert [round(figure.value, 2) for figure in outcome.figures] == [65.0, 0.62, 15.0, 0.88, 15.0]
    plant(monkeypatch, lambda tree: law(tree) | ({"frechet": 1.0} if tree.swarm.move == mdsl_generative.ALONE else {}))
    outcome = mdsl_generative.run(place(tmp_path))
    assert [figure.verdict for figure in outcome.figures].count(Verdict.DOES_NOT_HOLD) == 1


def test_every_digit_is_at_three_sites_and_never_only_at_those_that_attack():
    tree = mdsl_generative.experiment(mdsl_generative.ARMS["M-DSL, hostile"], 2000, seed=0)
    examples = tree.data.open("train", 0, shuffle=False)
    counts = sites.divide(tree.swarm, tree.data, examples, 0).counts
    honest = [site for site in range(10) if site not in tree.swarm.hostile]
    assert ((counts > 0).sum(axis=0) == 3).all() and ((counts[honest] > 0).sum(axis=0) >= 2).all()
    # Of every digit most examples are where it is a main one, and not only at attackers.
    main = counts > 0.3 * counts.sum(axis=0)
    assert main[honest].any(axis=0).all() and (main.sum(axis=1) <= 2).all()


@pytest.mark.parametrize("name", ["swarm/score", "swarm/personal_score"])
def test_a_best_score_that_rises_gives_no_verdict(name, tmp_path, monkeypatch):
    rows = [{"swarm/score": 2.0, "swarm/personal_score": 2.0, "swarm/uploads": 1.0} for _ in range(3)]
    rows[2] |= {name: 2.5}
    monkeypatch.setattr(swarm_runs.SwarmRuns, "_train", lambda runs, tree: swarm_runs.Trained(None, None, rows))
    runs = swarm_runs.SwarmRuns(place(tmp_path), upath.UPath(tmp_path) / "runs.json", None)
    with pytest.raises(claim.InvariantFailed, match=f"{name} rose"):
        runs.figures(mdsl.experiment(mdsl.METHODS["M-DSL"], 0.1, 3, 0))


@pytest.mark.slow
def test_short_runs_are_measured_and_kept(tmp_path):
    runs = swarm_runs.SwarmRuns(place(tmp_path), upath.UPath(tmp_path) / "runs.json", mdsl._Measure())
    trees = [mdsl.experiment(mdsl.METHODS["M-DSL"], alpha, 3, seed) for alpha in (0.1, 100.0) for seed in (0, 1)]
    found = [runs.figures(tree) for tree in trees]
    assert all(0.1 < each["accuracy"] <= 1 and each["worst"] <= each["accuracy"] for each in found)
    assert len(runs._steps) == 1, "one program for all divisions and seeds"
    other = swarm_runs.SwarmRuns(place(tmp_path), upath.UPath(tmp_path) / "runs.json", None)
    assert [other.figures(tree) for tree in trees] == found
    assert other.seconds == pytest.approx(sum(each["seconds"] for each in found))
    nan = dataclasses.replace(mdsl.METHODS["FedAvg"], hostile=(0,), attack=NotFinite())
    lost = runs.figures(mdsl.experiment(nan, 0.1, 3, 0))
    assert lost["accuracy"] == pytest.approx(0.1) and lost["worst"] == 0
