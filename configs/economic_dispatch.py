"""Four thermal and two wind power stations meet a demand; the second wind station lies about the price.

    jaxgen swarm allocate configs/economic_dispatch.py

Seconds on two CPU cores. The six stations of Wang et al., arXiv 2508.08658, with draws of our own. `large` and `small` are the
prices that the liar names; `--set rule=ios`, `rule=scc` and `clip=false` change the defence. `jaxgen reproduce economic-dispatch`
runs all of them, with three seeds.
"""

import dataclasses

from jaxgen.swarm.allocation import Allocation, Demand
from jaxgen.swarm.attacks import Constant, Gaussian
from jaxgen.swarm.costs import Quadratic, Wind
from jaxgen.swarm.decentralised import CTM
from jaxgen.swarm.network import Given

EDGES = ((0, 1), (0, 2), (0, 4), (1, 2), (1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5), (3, 5))


def get_config() -> Allocation:
    """The liar says −0.01: energy is nearly worthless, so that too little is made."""
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
        network=Given(EDGES),
        rule=CTM(),
        hostile=(5,),
        attack=Constant(-0.01),
        primal_step=1.0,
        dual_step=3.0,
        leak=1e-3,
        start_price=-70.0,
        start=70.0,
        rounds=1000,
        names=("thermal 1", "thermal 2", "thermal 3", "thermal 4", "wind 1", "wind 2"),
    )


def small() -> Allocation:
    """The liar says −300: energy is dear, so that too much is made."""
    return dataclasses.replace(get_config(), attack=Constant(-300.0))


def large_gaussian() -> Allocation:
    """Prices around −10, none above 0."""
    return dataclasses.replace(get_config(), attack=Gaussian(std=5.0, mean=-10.0, ceiling=0.0))


def small_gaussian() -> Allocation:
    """Prices around −150."""
    return dataclasses.replace(get_config(), attack=Gaussian(std=5.0, mean=-150.0))


def tiny() -> Allocation:
    """Fifty rounds."""
    return dataclasses.replace(get_config(), rounds=50)
