"""Seven sites share the chips of a v5e pod and rent slices with them; one of them lies about the price.

    jaxgen swarm allocate configs/chip_budget.py

Seconds on two CPU cores. Writes `runs/chip_budget/slices.json`: the slice of each site, and its schedule. A round is an hour, say;
on average 24 chips a site are free, fewer by day than by night. A site wants some number of chips, and the more it is away from
it the more it pays; what is asked for is more than there is. Sites exchange one number an hour with each other, the price of a
chip, which the liar says is nothing.

The honest sites together have what is free to within 0.07 of 24 chips a site, 5.3 too many without a defence. Sites that want very
different amounts are where a liar hides: trimming, and any rule behind clipping, let 4 to 6 chips a site too many be taken here.
"""

import dataclasses

from jaxgen.swarm.allocation import Allocation, Demand
from jaxgen.swarm.attacks import Constant
from jaxgen.swarm.costs import Tracking
from jaxgen.swarm.decentralised import IOS
from jaxgen.swarm.network import Complete
from jaxgen.swarm.slice_sizes import SliceSizes


def get_config() -> Allocation:
    """One hostile site of seven, who says that chips are worth nothing."""
    sites = 7
    return Allocation(
        costs=(
            Tracking(
                steepness=(1.0, 1.0, 1.5, 1.0, 2.0, 1.0, 1.0),
                wanted=(64.0, 16.0, 40.0, 24.0, 8.0, 32.0, 32.0),
                low=(4.0,) * sites,
                high=(64.0,) * sites,
                spread=2.0,
            ),
        ),
        demand=Demand(mean=24.0, std=1.0, swing=4.0),
        network=Complete(),
        rule=IOS(),
        clip=False,
        hostile=(6,),
        attack=Constant(0.0),
        primal_step=0.3,
        dual_step=0.1 * sites**2,
        leak=1e-5,
        start_price=100.0,
        start=24.0,
        rounds=24 * 28,
        slices=SliceSizes("v5e"),
        names=("taipei", "zurich", "ashburn", "dublin", "osaka", "dallas", "partner"),
    )


def tiny() -> Allocation:
    """Two days."""
    return dataclasses.replace(get_config(), rounds=48)
