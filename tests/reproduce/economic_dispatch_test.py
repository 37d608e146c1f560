"""The claim on shared budgets: its verdict follows from what was played, and what it plays is the paper's case."""

import jax
import numpy as np
import pytest
import upath
from PIL import Image

from jaxgen.reproduce import claim, dispatch_cases, economic_dispatch
from jaxgen.swarm import allocation as allocations
from jaxgen.swarm import network, scores
from jaxgen.swarm.decentralised import CTM, IOS, SCC, Gossip


def test_the_grid_of_six_has_the_degrees_of_the_paper():
    allocation = dispatch_cases.six_stations(dispatch_cases.SIX["large"])
    graph = network.Network.build(allocation.network, 6, allocation.hostile)
    assert graph.adjacency.sum(1).tolist() == [3, 5, 5, 3, 3, 3]
    assert graph.hostile_neighbours((5,)).tolist() == [0, 1, 1, 1, 0, 0]


def test_the_grid_of_sixty_is_as_sparse_as_the_papers():
    for seed in range(3):
        allocation = dispatch_cases.sixty_stations(dispatch_cases.SIXTY["large"], seed=seed)
        allocation.validate()
        graph = network.Network.build(allocation.network, 60, allocation.hostile)
        assert graph.adjacency.sum() == 2 * 137 and len(allocation.hostile) == 2
        assert graph.hostile_neighbours(allocation.hostile).tolist().count(1) == 6
        assert graph.second_eigenvalue > 0.97


@pytest.mark.parametrize("attack, least", [("large", 10), ("small", 25)])
def test_six_stations_keep_their_budget_behind_a_rule_and_miss_it_without(attack, least):
    # One seed of the claim, in float32. The paper's figures under the large price are 16.6, 1.8, 1.6 and 3.3, under the small one
    # 35.9, 2.7, 2.6 and 0.7.
    missed, regret = {}, {}
    best = allocations.optimum(dispatch_cases.six_stations(dispatch_cases.SIX[attack]))[1]
    for name, rule, clip in (("mean", Gossip(), False), ("ctm", CTM(), True), ("ios", IOS(), True), ("scc", SCC(), True)):
        allocation = dispatch_cases.six_stations(dispatch_cases.SIX[attack], rule, clip)
        found = scores.of(allocation, allocations.run(allocation), best)
        missed[name], regret[name] = found.mean_violation, abs(found.mean_regret) / best.mean()
    print(attack, {name: (round(value, 2), round(regret[name], 3)) for name, value in missed.items()}, "optimum", best.mean())
    assert missed.pop("mean") > least and max(missed.values()) < 4
    regret.pop("mean")
    assert max(regret.values()) < 0.2


def plant(monkeypatch, law):
    """Lets every allocation miss by what `law(allocation)` says, at a tenth more than the cost of the optimum."""

    def optimum(allocation):
        return None, np.full(4, 2600.0)

    def found(allocation, best):
        value = law(allocation)
        return scores.Scores(np.full(4, 260.0), np.arange(1.0, 5) * value, 0.0, 0.0, 0.0)

    monkeypatch.setattr(allocations, "optimum", optimum)
    monkeypatch.setattr(economic_dispatch, "_scores", found)


def honest_law(allocation):
    small = getattr(allocation.attack, "value", 0) < -1
    if isinstance(allocation.rule, Gossip):
        return 36.0 if small else 16.0
    if allocation.agents == 60 and isinstance(allocation.rule, IOS):
        return 5.0 if small else 0.5
    return 2.0


def reproduce(tmp_path):
    return economic_dispatch.run(claim.Workplace(jax.devices()[:1], upath.UPath(tmp_path)))


def test_the_claim_holds_where_rules_keep_the_budget(tmp_path, monkeypatch):
    plant(monkeypatch, honest_law)
    outcome = reproduce(tmp_path)
    assert outcome.verdict == claim.Verdict.HOLDS
    assert any("6 stations, small Gaussian, IOS without clipping" in line for line in outcome.lines)
    assert any("guarding against one neighbour everywhere" in line for line in outcome.lines)
    outcome.draw(str(tmp_path / "plot.png"))
    assert Image.open(tmp_path / "plot.png").width > 1000


@pytest.mark.parametrize("rule", [CTM, SCC])
def test_the_claim_does_not_hold_where_one_rule_lets_go(rule, tmp_path, monkeypatch):
    plant(monkeypatch, lambda allocation: 5.0 if isinstance(allocation.rule, rule) else honest_law(allocation))
    assert reproduce(tmp_path).verdict == claim.Verdict.DOES_NOT_HOLD


def test_a_violation_that_is_not_accounted_for_gives_no_verdict(monkeypatch):
    allocation = dispatch_cases.six_stations(dispatch_cases.SIX["large"])
    rounds = 5
    ones = np.ones((rounds, 6))
    played = allocations.Trajectory(70 * ones, 70 * ones, -np.ones((rounds + 1, 6)), np.zeros(rounds), np.full(rounds, 69.0), ones)
    monkeypatch.setattr(allocations, "run", lambda allocation: played)
    with pytest.raises(claim.InvariantFailed, match="accounted for but for"):
        economic_dispatch._scores(allocation, np.zeros(rounds))
