"""The swarm move: how a site's position is pulled towards the best that it has seen and the best that all have.

A position is a tree of parameters. The moves here are of one site; `jaxgen.swarm.mdsl` maps them over sites. Local steps happen
between `begin` and `end`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

import jax
import jax.numpy as jnp

from jaxgen import types
from jaxgen.parallel import keys

Memory = dict[str, types.PyTree]


class Move(Protocol):
    """Configuration of a move. `memory` is what it carries from round to round, trees like a position by name."""

    def memory(self, position: types.PyTree) -> Memory:
        """The memory before the first round."""

    def begin(
        self,
        position: types.PyTree,
        memory: Memory,
        personal: types.PyTree,
        best: types.PyTree,
        key: jax.Array,
        progress: jax.Array,
    ) -> tuple[types.PyTree, Memory]:
        """From where the local steps start.

        Args:
          personal: the best position of this site so far. best: that of all sites. key: of this site and round.
          progress: the round as a share of all rounds, float32 () in [0, 1].
        """

    def end(
        self,
        position: types.PyTree,
        memory: Memory,
        personal: types.PyTree,
        best: types.PyTree,
        key: jax.Array,
        progress: jax.Array,
    ) -> tuple[types.PyTree, Memory]:
        """The position of the site after its local steps have arrived at `position`."""

    def warnings(self) -> list[str]:
        """What the user should know of the constants."""


@dataclasses.dataclass(frozen=True)
class Particle:
    """v ← c0 v + c1 r1 (w_p - w) + c2 r2 (w_g - w); w ← w + v; then local steps, which do not enter v. v starts at 0.

    The constants are those of FedPSO (Park, Suh and Lee 2021); CB-DSL (arXiv 2208.05578) was released with 0.2, 1, 2 and a draw for
    every element. With r = 1 and constants 0, 0, 1 every site starts from the best position of all: federated averaging.

    Attributes:
      c0: share of the velocity that stays. c1, c2: pulls to the site's own best and to the best of all.
      draws: r1 and r2 are uniform on [0, 1), one for a site and round ("site") or one for every element ("element"), or 1 ("none").
        One draw keeps the position on the segments towards the bests; one an element mixes networks element by element.
    """

    c0: float = 0.3
    c1: float = 0.7
    c2: float = 1.4
    draws: Literal["site", "element", "none"] = "site"

    def validate(self) -> None:
        _check(self)

    def memory(self, position: types.PyTree) -> Memory:
        return {"velocity": jax.tree.map(jnp.zeros_like, position)}

    def begin(
        self,
        position: types.PyTree,
        memory: Memory,
        personal: types.PyTree,
        best: types.PyTree,
        key: jax.Array,
        progress: jax.Array,
    ) -> tuple[types.PyTree, Memory]:
        del progress
        r1, r2 = (self._draw(keys.stream(key, name), position) for name in ("personal", "global"))
        velocity = jax.tree.map(
            lambda v, w, p, g, a, b: self.c0 * v + self.c1 * a * (p - w) + self.c2 * b * (g - w),
            *(memory["velocity"], position, personal, best, r1, r2),
        )
        return jax.tree.map(jnp.add, position, velocity), {"velocity": velocity}

    def end(
        self,
        position: types.PyTree,
        memory: Memory,
        personal: types.PyTree,
        best: types.PyTree,
        key: jax.Array,
        progress: jax.Array,
    ) -> tuple[types.PyTree, Memory]:
        return position, memory

    def warnings(self) -> list[str]:
        return _unstable(self)

    def _draw(self, key: jax.Array, like: types.PyTree) -> types.PyTree:
        leaves, structure = jax.tree.flatten(like)
        if self.draws == "element":
            drawn = [jax.random.uniform(jax.random.fold_in(key, i), leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)]
        else:
            one = jax.random.uniform(key) if self.draws == "site" else jnp.float32(1)
            drawn = [one.astype(leaf.dtype) for leaf in leaves]
        return jax.tree.unflatten(structure, drawn)


@dataclasses.dataclass(frozen=True)
class OneFormula:
    """w ← w + λ (c0 v + c1 (w_p - w) + c2 (w_g - w)) + (1 - λ) Δ, with v the last change of w and Δ what local steps from w add.

    The form of the overview of distributed swarm learning (arXiv 2403.20188). With one step of plain gradient descent Δ = -α ∇F.
    How λ moves was not found there; it falls linearly.

    Attributes:
      c0, c1, c2: as `Particle`, without draws.
      first, last: λ in the first and in the last round.
    """

    c0: float = 0.3
    c1: float = 0.7
    c2: float = 1.4
    first: float = 0.5
    last: float = 0.1

    def validate(self) -> None:
        _check(self)
        for name in ("first", "last"):
            if not 0 <= getattr(self, name) <= 1:
                raise types.BadInput(name, getattr(self, name), "a share in [0, 1]")

    def memory(self, position: types.PyTree) -> Memory:
        return {"velocity": jax.tree.map(jnp.zeros_like, position), "before": jax.tree.map(jnp.copy, position)}

    def begin(
        self,
        position: types.PyTree,
        memory: Memory,
        personal: types.PyTree,
        best: types.PyTree,
        key: jax.Array,
        progress: jax.Array,
    ) -> tuple[types.PyTree, Memory]:
        return position, memory | {"before": position}

    def end(
        self,
        position: types.PyTree,
        memory: Memory,
        personal: types.PyTree,
        best: types.PyTree,
        key: jax.Array,
        progress: jax.Array,
    ) -> tuple[types.PyTree, Memory]:
        share = self.first + (self.last - self.first) * progress
        velocity = jax.tree.map(
            lambda v, w, p, g, trained: share * (self.c0 * v + self.c1 * (p - w) + self.c2 * (g - w)) + (1 - share) * (trained - w),
            *(memory["velocity"], memory["before"], personal, best, position),
        )
        return jax.tree.map(jnp.add, memory["before"], velocity), memory | {"velocity": velocity}

    def warnings(self) -> list[str]:
        return _unstable(self)


def _check(move: Particle | OneFormula) -> None:
    if not abs(move.c0) < 1:
        raise types.BadInput("c0", move.c0, "between -1 and 1: velocities grow without bound otherwise")
    for name in ("c1", "c2"):
        if getattr(move, name) < 0:
            raise types.BadInput(name, getattr(move, name), "0 or more: a pull, not a push")


def _unstable(move: Particle | OneFormula) -> list[str]:
    # x² - (1 + c0 - φ) x + c0, with the pull φ = c1 r1 + c2 r2, has its roots inside the unit circle iff 0 < φ < 2 (1 + c0).
    pull, limit = move.c1 + move.c2, 2 * (1 + move.c0)
    if pull < limit:
        return []
    return [f"swarm.move: c1 + c2 = {pull:g} is not below 2 (1 + c0) = {limit:g}: a round with large draws moves sites apart"]
