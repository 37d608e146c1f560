"""`jaxgen swarm allocate`: plays an allocation, as configured and in the variants that it is to be judged beside."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

import numpy as np

from jaxgen import experiment as experiments
from jaxgen import run as runs
from jaxgen import types
from jaxgen.commands import session
from jaxgen.evaluation import plots
from jaxgen.swarm import allocation as allocations
from jaxgen.swarm import attacks, contraction, decentralised, network, scores


def run(arguments: argparse.Namespace) -> int:
    """See `commands.swarm`."""
    allocation, name = experiments.load(arguments.config, arguments.set, arguments.trust, allocations.Allocation)
    folder = runs.Run(arguments.run or f"runs/{name}").create()
    graph = network.Network.build(allocation.network, allocation.agents, allocation.hostile)
    degrees = graph.adjacency.sum(1)
    print(f"{allocation.agents} agents, {len(allocation.hostile)} hostile, {allocation.rounds} rounds")
    print(f"{degrees.min()} to {degrees.max()} neighbours, second eigenvalue {graph.second_eigenvalue:.3f}")
    diagnosis = diagnosed(allocation, graph)
    print(", ".join(f"{name} {value:.3g}" for name, value in diagnosis.items()))

    best = allocations.optimum(allocation)[1]
    figures, curves = {}, {}
    print(f"cost of the optimum {best.mean():.6g} a round")
    print(f"{'':34}  {'regret/T':>10}  {'violation/T':>11}  {'leak':>9}  {'merging':>9}  {'growth':>6}")
    for title, variant in variants(allocation).items():
        if isinstance(variant, str):
            print(f"{title:34}  {variant}")
            continue
        played = allocations.run(variant)
        found = scores.of(variant, played, best)
        figures[title], curves[title] = found.described(), (found.regret, found.violation)
        print(
            f"{title:34}  {found.mean_regret:>10.4g}  {found.mean_violation:>11.4g}  {found.leak:>9.3g}  {found.merging:>9.3g}  "
            f"{found.growth:>6.2f}"
        )
        if title == "as configured":
            configured = played
    content = {
        "allocation": experiments.dump(allocation),
        "network": diagnosis,
        "optimum": float(best.mean()),
        "variants": figures,
    }
    runs.write_whole(folder.root / "allocation.json", _json(content))
    plots.allocation({name: curves}, str(folder.root / "allocation.png"))
    print(folder.root / "allocation.png")
    if allocation.slices:
        runs.write_whole(folder.root / "slices.json", _json(slices(allocation, configured)))
        print(folder.root / "slices.json")
    session.write_json(arguments.json, content)
    return session.DONE


def diagnosed(allocation: allocations.Allocation, graph: network.Network) -> dict[str, float]:
    """What the network and the rule together say of agreement among honest agents; ρ is the worst of some hundred tried."""
    virtual = graph.virtual(allocation.hostile, allocation.rule.even)
    mixing = network.mixing(virtual)
    return {
        "mixing": mixing,
        "skew χ": network.skew(virtual),
        "ρ at least": contraction.found(allocation.rule, graph, allocation.hostile) if allocation.hostile else 0.0,
        "agreement is certain for ρ below": mixing / (8 * np.sqrt(len(virtual))),
    }


def variants(allocation: allocations.Allocation) -> dict[str, Any]:
    """Allocations by title; a string says why there is none."""
    found: dict[str, Any] = {"as configured": allocation}
    if not allocation.hostile:
        return found
    change = lambda **fields: dataclasses.replace(allocation, **fields)
    found["without clipping" if allocation.clip else "with clipping"] = change(clip=not allocation.clip)
    graph = network.Network.build(allocation.network, allocation.agents, allocation.hostile)
    most = int(graph.hostile_neighbours(allocation.hostile).max())
    bounded = change(bound=most) if allocation.bound is None else change(bound=None)
    title = f"at most {most} hostile neighbours" if allocation.bound is None else "true numbers of hostile ones"
    try:
        bounded.validate()
        found[title] = bounded
    except types.BadInput as complaint:
        found[title] = f"not possible: {complaint}"
    found["undefended"] = change(rule=decentralised.Gossip(), clip=False)
    found["no one hostile, same agents"] = without_hostile(allocation)
    return found


def without_hostile(allocation: allocations.Allocation) -> allocations.Allocation:
    """The same where hostile agents behave: they say what an honest one would, and still do not count."""
    return dataclasses.replace(allocation, rule=decentralised.Gossip(), clip=False, attack=attacks.Behaved())


def slices(allocation: allocations.Allocation, played: allocations.Trajectory) -> dict[str, Any]:
    """Content of slices.json: what each site has from the last round on, and what it had in all rounds."""
    wanted, taken = played.wanted.sum(0), played.theta.sum(0)
    sites = [
        {
            "name": allocation.name(site),
            "slice": allocation.slices.slice_of(played.theta[-1, site]),
            "chips": int(played.theta[-1, site]),
            "wanted": float(played.wanted[-1, site]),
            "price": float(played.price[-1, site]),
            "hostile": site in allocation.hostile,
            "chip_rounds": {"wanted": float(wanted[site]), "taken": float(taken[site])},
            "schedule": played.theta[:, site].astype(int).tolist(),
        }
        for site in range(allocation.agents)
    ]
    honest = allocation.honest
    free = float(played.demand[-1] * honest.sum())
    return {
        "generation": allocation.slices.generation,
        "rounds": allocation.rounds,
        "chips": {"free": free, "taken_by_honest": int(played.theta[-1, honest].sum())},
        "sites": sites,
    }


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, default=np.ndarray.tolist) + "\n").encode()
