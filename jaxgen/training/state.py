"""Training state: what a step reads and writes."""

from __future__ import annotations

import flax.struct
import jax

from jaxgen import types


@flax.struct.dataclass
class State:
    """Plain arrays only; keyed by player even where there is one.

    Attributes:
      step: int32 (), finished steps.
      seed: uint32 (), root of the random streams; an input, not saved.
      halted: bool (), true once a step was not finite; from then on steps change nothing.
      params: parameters by player.
      ema: averages by player and decay ("0.999").
      optimizer: optax state by player.
      memory: what the objective carries from step to step.
    """

    step: jax.Array
    seed: jax.Array
    halted: jax.Array
    params: dict[str, types.PyTree]
    ema: dict[str, dict[str, types.PyTree]]
    optimizer: dict[str, types.PyTree]
    memory: types.PyTree

    def items(self) -> dict[str, types.PyTree]:
        """What a checkpoint holds, by item name; an empty part has no item."""
        found = {}
        for player, tree in self.params.items():
            found[params_item(player)] = tree
            found[f"optimizer.{player}"] = self.optimizer[player]
            for decay, average in self.ema[player].items():
                found[ema_item(player, decay)] = average
        if jax.tree.leaves(self.memory):
            found["memory"] = self.memory
        return found

    def with_items(self, step: jax.Array, found: dict[str, types.PyTree]) -> State:
        """The state at `step` with everything that `items` named replaced."""
        return self.replace(
            step=step,
            params={player: found[params_item(player)] for player in self.params},
            ema={p: {decay: found[ema_item(p, decay)] for decay in averages} for p, averages in self.ema.items()},
            optimizer={player: found[f"optimizer.{player}"] for player in self.optimizer},
            memory=found.get("memory", self.memory),
        )


def params_item(player: str) -> str:
    """Checkpoint item of a player's newest parameters."""
    return f"params.{player}"


def ema_item(player: str, decay: str) -> str:
    """Checkpoint item of a player's average."""
    return f"ema.{decay}.{player}"
