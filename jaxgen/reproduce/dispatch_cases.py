"""Power stations that share a demand while some of them lie: the two cases of Wang et al., arXiv 2508.08658, with own draws."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxgen.swarm import attacks, network
from jaxgen.swarm.allocation import Allocation, Demand
from jaxgen.swarm.costs import Quadratic, Wind
from jaxgen.swarm.decentralised import CTM
from jaxgen.swarm.network import Given

SIX = {
    "large": attacks.Constant(-0.01),
    "small": attacks.Constant(-300.0),
    "large Gaussian": attacks.Gaussian(std=5.0, mean=-10.0, ceiling=0.0),
    "small Gaussian": attacks.Gaussian(std=5.0, mean=-150.0),
}
"""Prices that the liar of six names; prices are negative, and with a large one too little is made."""
SIXTY = {"large": attacks.Constant(-0.01), "small": attacks.Constant(-2000.0)}
"""The same of sixty."""

EDGES = 137


def six_stations(attack: attacks.Attack, rule: Any = CTM(), clip: bool = True, seed: int = 0) -> Allocation:
    """Four thermal and two wind power stations, of which the second wind station lies. Megawatts and rounds of an hour."""
    thermal = Quadratic(
        quadratic=(0.0675, 0.0675, 0.0925, 0.0625),
        linear=(2.0, 1.75, 1.0, 3.0),
        low=(50.0, 20.0, 15.0, 10.0),
        high=(200.0, 120.0, 80.0, 100.0),
    )
    wind = Wind(
        price=(1.0, 1.0), under=(5.0, 5.0), over=(30.0, 30.0), rated_power=(160.0, 160.0), low=(0.0, 0.0), high=(160.0, 160.0)
    )
    return Allocation(
        costs=(thermal, wind),
        demand=Demand(mean=70.0, std=5.0),
        network=Given(((0, 1), (0, 2), (0, 4), (1, 2), (1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5), (3, 5))),
        rule=rule,
        clip=clip,
        hostile=(5,),
        attack=attack,
        primal_step=1.0,
        dual_step=3.0,
        leak=1e-3,
        start_price=-70.0,
        start=70.0,
        rounds=1000,
        seed=seed,
        names=("thermal 1", "thermal 2", "thermal 3", "thermal 4", "wind 1", "wind 2"),
    )


def sixty_stations(attack: attacks.Attack, rule: Any = CTM(), clip: bool = True, seed: int = 0) -> Allocation:
    """Fifty-four thermal and six wind power stations on a sparse grid, two of which lie.

    The costs of the paper's case are not public. These are quadratic with coefficients uniform in ranges of such stations, and the
    grid, of as many edges as the paper's, joins neighbours in a long strip of land.
    """
    random = np.random.default_rng([seed, 60])
    draw = lambda low, high: tuple(random.uniform(low, high, 54).tolist())
    low = draw(5, 50)
    thermal = Quadratic(
        quadratic=draw(0.01, 0.07),
        linear=draw(8, 25),
        low=low,
        high=tuple(end + width for end, width in zip(low, draw(80, 200), strict=True)),
    )
    powers = (150.0, 160.0) * 3
    wind = Wind(price=(1.0, 6.0) * 3, under=(3.0, 5.0) * 3, over=(20.0, 30.0) * 3, rated_power=powers, low=(0.0,) * 6, high=powers)
    edges, hostile = strip(60, EDGES, 2, random)
    return Allocation(
        costs=(thermal, wind),
        demand=Demand(mean=100.0, std=10.0),
        network=Given(edges),
        rule=rule,
        clip=clip,
        hostile=hostile,
        attack=attack,
        primal_step=5.0,
        dual_step=5.0,
        leak=1e-5,
        start_price=-1000.0,
        start=1000.0,
        rounds=1000,
        seed=seed,
    )


def strip(agents: int, edges: int, liars: int, random: np.random.Generator) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """A connected graph of neighbours in a strip of land, and agents that may lie in it.

    Places are uniform in a strip ten times as long as wide. A shortest tree joins them, and then the nearest pairs that are left.
    Liars have three neighbours each and none in common, each of these has three at least, so that any rule can be used, and without
    the liars the others are still connected.
    """
    places = random.uniform(size=(agents, 2)) * (10, 1)
    away = np.linalg.norm(places[:, None] - places[None], axis=-1)
    found, inside = set(), {0}
    while len(inside) < agents:
        a, b = min(((a, b) for a in inside for b in range(agents) if b not in inside), key=lambda pair: away[pair])
        found.add((min(a, b), max(a, b)))
        inside.add(b)
    pairs = sorted(((a, b) for a in range(agents) for b in range(a + 1, agents)), key=lambda pair: away[pair])
    found |= set([pair for pair in pairs if pair not in found][: edges - len(found)])
    graph = Given(tuple(sorted(found))).adjacency(agents)
    degrees = graph.sum(1)
    honest = np.ones(agents, bool)
    for agent in random.permutation(agents).tolist():
        others = np.flatnonzero(~honest)
        apart = not graph[agent, others].any() and not (graph[agent] & graph[others].any(0)).any()
        without = honest & (np.arange(agents) != agent)
        whole = network.reached_from_first(graph, without)[without].all()
        if len(others) < liars and apart and whole and degrees[agent] == 3 and (degrees[graph[agent]] >= 3).all():
            honest[agent] = False
    return tuple(sorted(found)), tuple(np.flatnonzero(~honest).tolist())
