"""Allocations of chips rounded to slices that can be rented, with what rounding owes carried to the next round."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import types
from jaxgen.parallel import slices


@dataclasses.dataclass(frozen=True)
class SliceSizes:
    """Sizes in chips of the slices of one generation.

    Attributes:
      generation: as in `jaxgen.parallel.slices`.
      idle: a site may also get nothing.
    """

    generation: Literal["v4", "v5e", "v5p", "v6e"] = "v5e"
    idle: bool = False

    def between(self, low: float, high: float) -> np.ndarray:
        """Ascending sizes from `low` to `high`.

        Raises:
          BadInput: there is none.
        """
        chips = {int(np.prod(shape)) for shape in slices.GENERATIONS[self.generation].shapes} | ({0} if self.idle else set())
        found = np.array(sorted(size for size in chips if low <= size <= high), float)
        if not len(found):
            nearest = sorted(chips, key=lambda size: abs(size - low))[0]
            raise types.BadInput(
                "slices", f"no slice of {self.generation} from {low:g} to {high:g} chips", f"boxes that hold one; {nearest} is near"
            )
        return found

    def slice_of(self, chips: float) -> str:
        """Name of the slice of this size, of several shapes the one nearest to a cube; "" for none."""
        if not chips:
            return ""
        generation = slices.GENERATIONS[self.generation]
        shape = next(shape for shape in generation.shapes if int(np.prod(shape)) == int(chips))
        return str(slices.Slice(generation, shape).usual)

    def rounded(self, theta: jax.Array, carried: jax.Array, sizes: Sequence[np.ndarray]) -> tuple[jax.Array, jax.Array]:
        """(sizes in force [N], what is owed [N] then), of allocations [N] and what was owed [N].

        Each agent takes the legal size nearest to its allocation and what it is owed. The debt, which is the sum over all rounds so
        far of allocation less size, stays within half of the widest step between its legal sizes, where the allocations lie between
        the smallest and the largest of them.

        Args:
          sizes: legal ones of each agent.
        """
        most = max(map(len, sizes))
        # Filled up with the largest, which changes nothing.
        table = jnp.asarray(np.stack([np.pad(found, (0, most - len(found)), mode="edge") for found in sizes]), theta.dtype)
        due = theta + carried
        taken = jnp.take_along_axis(table, jnp.argmin(jnp.abs(table - due[:, None]), axis=1)[:, None], axis=1)[:, 0]
        return taken, due - taken
