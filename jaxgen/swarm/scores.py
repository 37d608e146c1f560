"""What an allocation is judged by: regret and violation, never one without the other, and where the violation comes from."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxgen.swarm.allocation import Allocation, Trajectory


@dataclasses.dataclass(frozen=True)
class Scores:
    """Of the honest agents, over T rounds.

    Attributes:
      regret: [T] cost less that of the optimum, summed up to each round. Negative where too little is allocated, which is cheap.
      violation: [T] |Σ (mean allocation − demand)| up to each round.
      leak, merging: parts of Σ (mean allocation − demand) / T: of the leak of prices, and of errors of merging them. The rest is
        that prices end elsewhere than they began.
      moved: that rest.
    """

    regret: np.ndarray
    violation: np.ndarray
    leak: float
    merging: float
    moved: float

    @property
    def mean_regret(self) -> float:
        return float(self.regret[-1] / len(self.regret))

    @property
    def mean_violation(self) -> float:
        return float(self.violation[-1] / len(self.violation))

    @property
    def growth(self) -> float:
        """Violation a round over the second half of the rounds, over that of all: 1 where it grows linearly."""
        half = len(self.violation) // 2
        late = (self.violation[-1] - self.violation[half - 1]) / (len(self.violation) - half)
        return float(late / self.mean_violation)

    def described(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "mean_regret": self.mean_regret,
            "mean_violation": self.mean_violation,
            "growth": self.growth,
            "leak": self.leak,
            "merging": self.merging,
            "moved": self.moved,
        }


def of(allocation: Allocation, played: Trajectory, best: np.ndarray) -> Scores:
    """Scores of what was played; `best` [T] is the cost of the optimum.

    The mean price over honest agents moves by β ((θ̄ − D) / N − γ λ̄) and by what merging adds, e. Summed over the rounds,
    Σ (θ̄ − D) = (N / β) (λ̄_T − λ̄_0) + N γ Σ λ̄ − (N / β) Σ e, exactly.
    """
    honest, rounds = allocation.honest, len(played.demand)
    excess = played.theta[:, honest].mean(1) - played.demand
    cost = played.cost[:, honest].sum(1)
    price = played.price[:, honest].mean(1)
    gain = allocation.agents / allocation.dual_step
    return Scores(
        regret=np.cumsum(cost - best),
        violation=np.abs(np.cumsum(excess)),
        leak=float(allocation.agents * allocation.leak * price[:-1].sum() / rounds),
        merging=float(-gain * played.error.sum() / rounds),
        moved=float(gain * (price[-1] - price[0]) / rounds),
    )
