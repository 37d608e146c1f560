"""Four thermal and two wind power stations meet a demand; the second wind station lies about the price.

    jaxgen swarm allocate configs/economic_dispatch.py

Ten seconds on two CPU cores. The six stations of Wang et al., arXiv 2508.08658, with draws of our own
(`jaxgen/reproduce/dispatch_cases.py` has every number). The variants are the prices that the liar names; `--set rule=ios`,
`--set rule=scc` and `--set clip=false` change the defence. `jaxgen reproduce economic-dispatch` runs all of them, with three seeds.
"""

import dataclasses

from jaxgen.reproduce import dispatch_cases
from jaxgen.swarm.allocation import Allocation


def get_config() -> Allocation:
    """The liar says −0.01: energy is nearly worthless, so that too little is made."""
    return dispatch_cases.six_stations(dispatch_cases.SIX["large"])


def small() -> Allocation:
    """The liar says −300: energy is dear, so that too much is made."""
    return dispatch_cases.six_stations(dispatch_cases.SIX["small"])


def large_gaussian() -> Allocation:
    """Prices around −10, none above 0."""
    return dispatch_cases.six_stations(dispatch_cases.SIX["large Gaussian"])


def small_gaussian() -> Allocation:
    """Prices around −150."""
    return dispatch_cases.six_stations(dispatch_cases.SIX["small Gaussian"])


def sixty() -> Allocation:
    """Sixty stations on a sparse grid, two of which say −0.01."""
    return dispatch_cases.sixty_stations(dispatch_cases.SIXTY["large"])


def tiny() -> Allocation:
    """Fifty rounds."""
    return dataclasses.replace(get_config(), rounds=50)
