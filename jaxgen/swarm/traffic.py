"""What a round of a swarm sends, in bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from jaxgen import types

_NUMBER = 4


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes of one round.

    Attributes:
      model: of one model. claims: of the scores of all sites. down: what all sites receive: the best position, and what the policy
        broadcasts. everybody: what goes up where every site uploads and none is asked first, as in federated averaging.
    """

    model: int
    claims: int
    down: int
    everybody: int

    def up(self, uploads: int) -> int:
        """What goes up where so many sites upload their model."""
        return self.claims + uploads * self.model


def of(swarm: Any, params: types.PyTree) -> Traffic:
    """Traffic of a `jaxgen.swarm.settings:Swarm` whose positions are like `params` (arrays or shapes)."""
    model = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    claims = swarm.sites * _NUMBER if swarm.select.claims else 0
    down = swarm.sites * (model + _NUMBER * swarm.select.broadcasts)
    return Traffic(model, claims, down, swarm.sites * model)
