"""Prints the seconds of playing allocations, compiled before; cases as JSON: [[agents, degree or 0, rounds, rule], ...]."""

import json
import sys
import time

from jaxgen.swarm import allocation as allocations
from jaxgen.swarm import attacks, costs, decentralised, network


def allocation(agents, degree, rounds, rule):
    """A twentieth of the agents flip signs; all guard against four neighbours."""
    return allocations.Allocation(
        costs=(costs.Tracking.random(agents, seed=0),),
        demand=allocations.Demand(50.0, 5.0),
        network=network.Regular(degree) if degree else network.Complete(),
        rule=getattr(decentralised, rule)(),
        hostile=tuple(range(7, agents, 20)),
        attack=attacks.SignFlip(),
        bound=4,
        dual_step=0.1 * agents**2,
        start_price=-144.0 * agents,
        start=50.0,
        rounds=rounds,
    )


def seconds(case):
    made = allocation(*case)
    allocations.run(made)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        allocations.run(made)
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    print(json.dumps([seconds(case) for case in json.loads(sys.argv[1])]))
